package io.github.warrengate.bench;

import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultSaslConfig;
import com.rabbitmq.client.MessageProperties;
import java.io.FileInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.concurrent.CountDownLatch;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** The RabbitMQ Java client, as its documentation shows it. */
public final class Amqp implements Program.Side {
  private static final int CONFIRM_TIMEOUT = 60_000;

  private final Connection connection;
  private final Channel publishing;

  private Amqp(Connection connection) throws Exception {
    this.connection = connection;
    publishing = connection.createChannel();
    publishing.confirmSelect();
  }

  @Override
  public void publish(Program.Command command) throws Exception {
    var body = new byte[command.size()];
    for (var first = 0; first < command.count(); first += command.window()) {
      for (var number = Math.min(command.window(), command.count() - first); number > 0; number--) {
        publishing.basicPublish("", command.queue(), true, MessageProperties.PERSISTENT_BASIC, body);
      }
      publishing.waitForConfirmsOrDie(CONFIRM_TIMEOUT);
    }
  }

  @Override
  public void consume(Program.Command command) throws Exception {
    var left = new CountDownLatch(command.count());
    var channel = connection.createChannel();
    channel.basicQos(command.prefetch());
    channel.basicConsume(command.queue(), false, (tag, delivery) -> {
      if (left.getCount() > 0) { // otherwise the channel is being closed
        channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
        left.countDown();
      }
    }, tag -> {});
    left.await();
    channel.close();
  }

  /** The tenant's certificate and key from a PKCS #12 file, and the broker's authority. */
  private static SSLContext tls() throws Exception {
    var password = System.getenv("BENCH_PKCS12_PASSWORD").toCharArray();
    var own = KeyStore.getInstance("PKCS12");
    try (var file = new FileInputStream(System.getenv("BENCH_PKCS12"))) {
      own.load(file, password);
    }
    var keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
    keys.init(own, password);
    var trusted = KeyStore.getInstance(KeyStore.getDefaultType());
    trusted.load(null);
    try (var file = Files.newInputStream(Path.of(System.getenv("BENCH_CA")))) {
      trusted.setCertificateEntry("broker", CertificateFactory.getInstance("X.509").generateCertificate(file));
    }
    var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(trusted);
    var context = SSLContext.getInstance("TLSv1.3");
    context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
    return context;
  }

  public static void main(String[] arguments) throws Exception {
    var factory = new ConnectionFactory();
    factory.setHost("localhost");
    factory.setPort(Integer.parseInt(System.getenv("BENCH_PORT")));
    factory.setVirtualHost(System.getenv("BENCH_VHOST"));
    factory.setSaslConfig(DefaultSaslConfig.EXTERNAL);
    factory.useSslProtocol(tls());
    factory.enableHostnameVerification();
    try (var connection = factory.newConnection()) {
      Program.serve(new Amqp(connection));
    }
  }
}
