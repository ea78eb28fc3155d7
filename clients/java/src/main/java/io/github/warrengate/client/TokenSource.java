package io.github.warrengate.client;

/** Fetches a token from somewhere else. It is called again before the last token expires. */
@FunctionalInterface
public interface TokenSource {
  /**
   * Fetches a token.
   *
   * @return a JWT without "Bearer"
   * @throws Exception when no token can be had now; the client tries again
   */
  String fetch() throws Exception;
}
