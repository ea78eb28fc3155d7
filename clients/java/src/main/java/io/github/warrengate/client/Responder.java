package io.github.warrengate.client;

/** Answers requests. An exception retries the request with the queue's back-off. */
@FunctionalInterface
public interface Responder {
  /**
   * Answers one request.
   *
   * @param request the request
   * @return the reply
   * @throws Exception to retry the request
   */
  Message respond(Delivery request) throws Exception;
}
