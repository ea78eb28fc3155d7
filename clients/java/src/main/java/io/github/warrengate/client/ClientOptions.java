package io.github.warrengate.client;

import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.Executor;
import java.util.function.Consumer;

/** The address of a gateway and the identity of a client. Give either a client id and its secret, or a token. */
public final class ClientOptions {
  String endpoint = "";
  Path caFile;
  byte[] ca;
  String clientId = "";
  String clientSecret = "";
  String token;
  TokenSource tokenSource;
  Duration tokenLifetime;
  Duration connectTimeout = Duration.ofSeconds(10);
  Duration callTimeout = Duration.ofSeconds(30);
  Consumer<Event> onEvent;
  Executor handlerExecutor;

  /** The default settings, without an address and an identity. */
  public ClientOptions() {}

  /**
   * Reads {@code WARRENGATE_ENDPOINT}, {@code WARRENGATE_CA} (a path), and {@code WARRENGATE_CLIENT_ID} and
   * {@code WARRENGATE_CLIENT_SECRET}, or {@code WARRENGATE_TOKEN}.
   *
   * @return the settings
   */
  public static ClientOptions fromEnv() {
    return from(System.getenv());
  }

  static ClientOptions from(Map<String, String> environment) {
    var endpoint = environment.getOrDefault("WARRENGATE_ENDPOINT", "");
    if (endpoint.isEmpty()) {
      throw Errors.configuration("WARRENGATE_ENDPOINT is not set: the gateway's address, such as https://127.0.0.1:8443");
    }
    var options = new ClientOptions().endpoint(endpoint)
        .credentials(environment.getOrDefault("WARRENGATE_CLIENT_ID", ""), environment.getOrDefault("WARRENGATE_CLIENT_SECRET", ""));
    if (!environment.getOrDefault("WARRENGATE_CA", "").isEmpty()) {
      options.caFile(Path.of(environment.get("WARRENGATE_CA")));
    }
    if (!environment.getOrDefault("WARRENGATE_TOKEN", "").isEmpty()) {
      options.token(environment.get("WARRENGATE_TOKEN"));
    }
    return options;
  }

  /**
   * Sets the gateway's address.
   *
   * @param address such as {@code https://127.0.0.1:8443}
   * @return this
   */
  public ClientOptions endpoint(String address) {
    endpoint = address;
    return this;
  }

  /**
   * Sets the certificate authority to trust. Without one, the authorities of the Java installation are trusted.
   *
   * @param pemFile a PEM file
   * @return this
   */
  public ClientOptions caFile(Path pemFile) {
    caFile = pemFile;
    return this;
  }

  /**
   * Sets the certificate authority to trust.
   *
   * @param pem the contents of a PEM file
   * @return this
   */
  public ClientOptions ca(byte[] pem) {
    ca = pem.clone();
    return this;
  }

  /**
   * Sets the client's credentials.
   *
   * @param id the client's id
   * @param secret its secret
   * @return this
   */
  public ClientOptions credentials(String id, String secret) {
    clientId = id;
    clientSecret = secret;
    return this;
  }

  /**
   * Sets a token that was fetched elsewhere. It cannot be renewed.
   *
   * @param text a JWT without "Bearer"
   * @return this
   */
  public ClientOptions token(String text) {
    token = text;
    return this;
  }

  /**
   * Sets a source of tokens, which is called each time one is needed.
   *
   * @param source the source
   * @return this
   */
  public ClientOptions tokenSource(TokenSource source) {
    tokenSource = source;
    return this;
  }

  /**
   * Requests tokens of this lifetime. Default: the gateway's limit.
   *
   * @param duration at least one minute
   * @return this
   */
  public ClientOptions tokenLifetime(Duration duration) {
    tokenLifetime = duration;
    return this;
  }

  /**
   * Limits how long connecting is tried (10 s).
   *
   * @param duration the time
   * @return this
   */
  public ClientOptions connectTimeout(Duration duration) {
    connectTimeout = duration;
    return this;
  }

  /**
   * Limits the time of a plain call (30 s).
   *
   * @param duration the time
   * @return this
   */
  public ClientOptions callTimeout(Duration duration) {
    callTimeout = duration;
    return this;
  }

  /**
   * Sets a listener of lifecycle events, which is called for one event after the other.
   *
   * @param listener the listener
   * @return this
   */
  public ClientOptions onEvent(Consumer<Event> listener) {
    onEvent = listener;
    return this;
  }

  /**
   * Sets the executor of handlers, for example one of virtual threads. Default: threads of the client's own.
   *
   * @param executor the executor; it must run as many handlers at a time as all consumers together
   * @return this
   */
  public ClientOptions handlerExecutor(Executor executor) {
    handlerExecutor = executor;
    return this;
  }

  void check() {
    if (token == null && tokenSource == null && (clientId.isEmpty() || clientSecret.isEmpty())) {
      throw Errors.configuration("credentials are missing: give a client id and its secret, or a token");
    }
  }
}
