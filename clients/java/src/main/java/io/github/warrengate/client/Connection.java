package io.github.warrengate.client;

import io.grpc.ChannelCredentials;
import io.grpc.ConnectivityState;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

/** The present channel to the gateway. A replaced channel ends with its last stream, and no new stream uses it. */
final class Connection {
  private static final Set<String> LOOPBACK = Set.of("127.0.0.1", "[::1]", "localhost");
  private static final int DEFAULT_PORT = 8443;
  private static final long CONNECT_SECONDS = 1;

  private final String target;
  private final ChannelCredentials credentials;
  private final Executor executor;
  private final List<ManagedChannel> replaced = new ArrayList<>();
  private ManagedChannel present;
  private boolean closed;

  Connection(ClientOptions options, Executor executor) {
    var address = parse(options.endpoint);
    target = "dns:///" + address.getHost() + ":" + (address.getPort() < 0 ? DEFAULT_PORT : address.getPort());
    credentials = credentials(address, options);
    this.executor = executor;
    present = dial();
  }

  private static URI parse(String endpoint) {
    try {
      var address = new URI(endpoint);
      var scheme = String.valueOf(address.getScheme());
      var path = String.valueOf(address.getPath());
      if (address.getHost() != null && (scheme.equals("https") || scheme.equals("http")) && (path.isEmpty() || path.equals("/"))) {
        return address;
      }
    } catch (URISyntaxException malformed) {
      // Reported below.
    }
    throw Errors.configuration("\"" + endpoint + "\" is not an address of a gateway: write it like https://127.0.0.1:8443");
  }

  private static ChannelCredentials credentials(URI address, ClientOptions options) {
    if (address.getScheme().equals("http")) {
      if (!LOOPBACK.contains(address.getHost())) {
        throw Errors.configuration("http:// is for loopback addresses only: secrets and tokens need TLS");
      }
      return InsecureChannelCredentials.create();
    }
    var ca = options.ca;
    var origin = "the CA";
    try {
      if (ca == null && options.caFile != null) {
        origin = "the CA file " + options.caFile;
        ca = Files.readAllBytes(options.caFile);
      }
      if (ca == null) {
        return TlsChannelCredentials.create();
      }
      // Checked here, because gRPC reports a malformed certificate only with the first call.
      if (CertificateFactory.getInstance("X.509").generateCertificates(new ByteArrayInputStream(ca)).isEmpty()) {
        throw new CertificateException("empty");
      }
      return TlsChannelCredentials.newBuilder().trustManager(new ByteArrayInputStream(ca)).build();
    } catch (IOException error) {
      throw Errors.configuration(origin + " cannot be read: " + error.getMessage());
    } catch (CertificateException malformed) {
      throw Errors.configuration(origin + " contains no certificate in PEM form");
    }
  }

  private ManagedChannel dial() {
    return Grpc.newChannelBuilder(target, credentials)
        // A connection that became silent is found within their sum.
        .keepAliveTime(15, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        // The gateway limits what it sends; the default of 4 MiB is less than a message of that size takes.
        .maxInboundMessageSize(Integer.MAX_VALUE)
        .disableRetry()
        .executor(executor)
        .build();
  }

  /** The channel for new calls. */
  synchronized ManagedChannel channel() {
    if (closed) {
      throw Errors.closed("client");
    }
    return present;
  }

  /** Lets a channel that could not connect try again at once, and waits shortly until it has. */
  void prepare(ManagedChannel channel) {
    if (channel.getState(true) != ConnectivityState.TRANSIENT_FAILURE) {
      return;
    }
    var changed = new CountDownLatch(1);
    channel.notifyWhenStateChanged(ConnectivityState.TRANSIENT_FAILURE, changed::countDown);
    channel.resetConnectBackoff();
    try {
      changed.await(CONNECT_SECONDS, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  /** Ends the pause between two attempts to connect, which gRPC lets grow to two minutes. */
  void retryNow() {
    ManagedChannel channel;
    synchronized (this) {
      channel = present;
    }
    if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
      channel.resetConnectBackoff();
    }
  }

  /** Makes another channel for new calls, unless this one was replaced already. Calls of the old one go on. */
  synchronized void replace(ManagedChannel old) {
    if (closed || old == null || present != old) {
      return;
    }
    present = dial();
    replaced.removeIf(ManagedChannel::isTerminated);
    replaced.add(old);
    old.shutdown();
  }

  synchronized void close() {
    closed = true;
    replaced.forEach(ManagedChannel::shutdownNow);
    present.shutdownNow();
  }
}
