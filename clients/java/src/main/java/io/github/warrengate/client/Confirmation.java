package io.github.warrengate.client;

/**
 * States that the broker has stored a message.
 *
 * @param messageId the caller's id, or the one made by the publisher
 * @param traceId the trace in which the message is recorded; empty when its trace is not sampled
 */
public record Confirmation(String messageId, String traceId) {}
