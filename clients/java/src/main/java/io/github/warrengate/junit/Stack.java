package io.github.warrengate.junit;

import io.github.warrengate.client.ClientOptions;
import io.github.warrengate.client.WarrengateClient;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import warrengate.v1.Client;
import warrengate.v1.CreateClientRequest;
import warrengate.v1.CreateTenantRequest;
import warrengate.v1.DeleteTenantRequest;
import warrengate.v1.Grants;
import warrengate.v1.PublishGrant;
import warrengate.v1.Tenant;

/** A gateway and its administrator. */
final class Stack implements AutoCloseable {
  private static final long START_SECONDS = 180;
  private static final long STOP_SECONDS = 60;
  private static final long LOOK_MILLIS = 100;

  private final String endpoint;
  private final Path ca;
  private final Development development;
  private final WarrengateClient admin;

  private Stack(String endpoint, Path ca, String secret, Development development) {
    this.endpoint = endpoint;
    this.ca = ca;
    this.development = development;
    try {
      admin = WarrengateClient.connect(new ClientOptions().endpoint(endpoint).caFile(ca).credentials("admin", secret));
    } catch (RuntimeException failure) {
      if (development != null) {
        development.close();
      }
      throw failure;
    }
  }

  static Stack start() {
    var environment = System.getenv();
    if (environment.containsKey("WARRENGATE_TEST_ENDPOINT")) {
      return new Stack(environment.get("WARRENGATE_TEST_ENDPOINT"), Path.of(environment.get("WARRENGATE_TEST_CA")),
          environment.get("WARRENGATE_TEST_ADMIN_SECRET"), null);
    }
    try {
      var development = new Development();
      var settings = development.settings();
      return new Stack(settings.get("WARRENGATE_ENDPOINT"), development.folder.resolve(settings.get("WARRENGATE_CA")),
          settings.get("WARRENGATE_ADMIN_CLIENT_SECRET"), development);
    } catch (IOException failure) {
      throw new UncheckedIOException(failure);
    }
  }

  TestTenant createTenant() {
    var name = "test-" + UUID.randomUUID().toString().substring(0, 13);
    var tenant = Tenant.newBuilder().setId(name).setPlan("unlimited");
    admin.admin(stub -> stub.createTenant(CreateTenantRequest.newBuilder().setTenant(tenant).build()));
    var grants = Grants.newBuilder().addPublish(PublishGrant.newBuilder().setExchange("#").setRoutingKey("#"))
        .addSubscribe("#").addConfigure("#");
    var client = Client.newBuilder().setClientId(name + ".app").setGrants(grants);
    var made = admin.admin(stub -> stub.createClient(CreateClientRequest.newBuilder().setClient(client).build()));
    return new TestTenant(name, endpoint, ca, name + ".app", made.getClientSecret());
  }

  void deleteTenant(TestTenant tenant) {
    admin.admin(stub -> stub.deleteTenant(DeleteTenantRequest.newBuilder().setTenant(tenant.name()).build()));
  }

  @Override
  public void close() {
    admin.close();
    if (development != null) {
      development.close();
    }
  }

  /** A {@code warrengate dev} in a separate folder, on free ports. */
  private static final class Development {
    final Path folder = Files.createTempDirectory("warrengate-test-");
    private final Path log = folder.resolve("gateway.log");
    private final Process process;

    Development() throws IOException {
      var ports = freePorts(4);
      var builder = new ProcessBuilder(binary(), "dev", "--grpc", "127.0.0.1:" + ports.get(0), "--ops", "127.0.0.1:" + ports.get(1),
          "--amqps-port", String.valueOf(ports.get(2)), "--management-port", String.valueOf(ports.get(3)));
      builder.environment().keySet().removeIf(name -> name.startsWith("WARRENGATE_"));
      process = builder.directory(folder.toFile()).redirectErrorStream(true).redirectOutput(log.toFile())
          .redirectInput(new File("/dev/null")).start();
    }

    private static String binary() {
      var named = System.getenv("WARRENGATE_BINARY");
      if (named != null) {
        return Path.of(named).toAbsolutePath().toString();
      }
      for (var place : System.getenv().getOrDefault("PATH", "").split(File.pathSeparator)) {
        var file = Path.of(place, "warrengate");
        if (Files.isExecutable(file)) {
          return file.toString();
        }
      }
      throw new IllegalStateException("there is no `warrengate` in PATH, and WARRENGATE_BINARY is not set");
    }

    /** Waits until it is ready, and reads what it has written. */
    Map<String, String> settings() throws IOException {
      var deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(START_SECONDS);
      while (!Files.readString(log).contains("Ctrl-C")) {
        if (!process.isAlive() || System.nanoTime() - deadline > 0) {
          var text = Files.readString(log);
          close();
          throw new IllegalStateException("`warrengate dev` did not start:\n" + text);
        }
        try {
          process.waitFor(LOOK_MILLIS, TimeUnit.MILLISECONDS);
        } catch (InterruptedException interrupted) {
          close();
          Thread.currentThread().interrupt();
          throw new IllegalStateException("interrupted while `warrengate dev` was starting", interrupted);
        }
      }
      var settings = new HashMap<String, String>();
      for (var line : Files.readAllLines(folder.resolve(".warrengate/dev.env"))) {
        var text = line.startsWith("export ") ? line.substring("export ".length()) : line;
        var separator = text.indexOf('=');
        if (separator > 0 && !text.startsWith("#")) {
          settings.put(text.substring(0, separator), text.substring(separator + 1).replaceAll("^['\"]|['\"]$", ""));
        }
      }
      return settings;
    }

    void close() {
      // An orderly end: `warrengate dev` then also stops its broker.
      process.destroy();
      try {
        if (!process.waitFor(STOP_SECONDS, TimeUnit.SECONDS)) {
          process.destroyForcibly();
        }
        try (var files = Files.walk(folder)) {
          files.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
        }
      } catch (InterruptedException interrupted) {
        process.destroyForcibly();
        Thread.currentThread().interrupt();
      } catch (IOException failure) {
        throw new UncheckedIOException(failure);
      }
    }

    private static List<Integer> freePorts(int count) throws IOException {
      var listeners = new ArrayList<ServerSocket>();
      try {
        var ports = new ArrayList<Integer>();
        for (var number = 0; number < count; number++) {
          listeners.add(new ServerSocket(0, 1, InetAddress.getLoopbackAddress()));
          ports.add(listeners.get(number).getLocalPort());
        }
        return ports;
      } finally {
        for (var listener : listeners) {
          listener.close();
        }
      }
    }
  }
}
