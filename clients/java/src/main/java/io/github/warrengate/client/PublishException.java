package io.github.warrengate.client;

/** A published message was not confirmed. */
public final class PublishException extends WarrengateException {
  private static final long serialVersionUID = 1L;

  private final Outcome outcome;
  private final String messageId;

  PublishException(Details details, Outcome outcome, String messageId) {
    super(details);
    this.outcome = outcome;
    this.messageId = messageId;
  }

  /**
   * What became of the message.
   *
   * @return the outcome
   */
  public Outcome outcome() {
    return outcome;
  }

  /**
   * The id of the message. Use the same one when the message is sent again.
   *
   * @return the id
   */
  public String messageId() {
    return messageId;
  }
}
