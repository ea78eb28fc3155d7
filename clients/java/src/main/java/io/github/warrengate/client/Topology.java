package io.github.warrengate.client;

import java.util.function.Function;
import warrengate.v1.BindRequest;
import warrengate.v1.Binding;
import warrengate.v1.DeclareExchangeRequest;
import warrengate.v1.DeclareQueueRequest;
import warrengate.v1.DeleteExchangeRequest;
import warrengate.v1.DeleteQueueRequest;
import warrengate.v1.Exchange;
import warrengate.v1.ExchangeType;
import warrengate.v1.GetQueueRequest;
import warrengate.v1.ListQueuesRequest;
import warrengate.v1.PurgeQueueRequest;
import warrengate.v1.Queue;
import warrengate.v1.QueueEntry;
import warrengate.v1.QueueStatus;
import warrengate.v1.QueueType;
import warrengate.v1.TopologyGrpc;
import warrengate.v1.TopologyGrpc.TopologyBlockingStub;
import warrengate.v1.UnbindRequest;

/** The exchanges, queues and bindings of the client's tenant. */
public final class Topology {
  private static final int PAGE = 1000;

  private final WarrengateClient client;

  Topology(WarrengateClient client) {
    this.client = client;
  }

  /**
   * Makes any call of the service, with the client's token and this library's errors.
   *
   * @param <T> the response
   * @param call the call
   * @return the response
   */
  public <T> T call(Function<TopologyBlockingStub, T> call) {
    return client.call(TopologyGrpc::newBlockingStub, call);
  }

  /**
   * Declares a quorum queue with the defaults of the plan. Declaring it again is harmless.
   *
   * @param name its name
   * @return its state
   */
  public QueueStatus declareQueue(String name) {
    return declareQueue(Queue.newBuilder().setName(name).setType(QueueType.QUEUE_TYPE_QUORUM).build());
  }

  /**
   * Declares a queue. Declaring it again with the same arguments is harmless.
   *
   * @param queue the queue
   * @return its state
   */
  public QueueStatus declareQueue(Queue queue) {
    return call(stub -> stub.declareQueue(DeclareQueueRequest.newBuilder().setQueue(queue).build())).getStatus();
  }

  /**
   * Deletes a queue with its messages.
   *
   * @param name its name
   * @return the number of messages deleted
   */
  public long deleteQueue(String name) {
    return call(stub -> stub.deleteQueue(DeleteQueueRequest.newBuilder().setName(name).build())).getMessagesDeleted();
  }

  /**
   * Removes the ready messages of a queue.
   *
   * @param name its name
   * @return the number of messages removed
   */
  public long purgeQueue(String name) {
    return call(stub -> stub.purgeQueue(PurgeQueueRequest.newBuilder().setName(name).build())).getMessagesPurged();
  }

  /**
   * The depth, consumers and rates of a queue.
   *
   * @param name its name
   * @return its state
   */
  public QueueStatus queueStatus(String name) {
    return call(stub -> stub.getQueue(GetQueueRequest.newBuilder().setName(name).build())).getStatus();
  }

  /**
   * The queues that the client may see, by name.
   *
   * @return the queues, which are fetched page by page
   */
  public Iterable<QueueEntry> queues() {
    return new Pages<>(token -> {
      var page = call(stub -> stub.listQueues(ListQueuesRequest.newBuilder().setPageSize(PAGE).setPageToken(token).build()));
      return new Pages.Page<>(page.getQueuesList(), page.getNextPageToken());
    });
  }

  /**
   * Declares a durable exchange. Declaring it again with the same type is harmless.
   *
   * @param name its name
   * @param type its type
   */
  public void declareExchange(String name, ExchangeType type) {
    declareExchange(Exchange.newBuilder().setName(name).setType(type).build());
  }

  /**
   * Declares an exchange. Declaring it again with the same arguments is harmless.
   *
   * @param exchange the exchange
   */
  public void declareExchange(Exchange exchange) {
    call(stub -> stub.declareExchange(DeclareExchangeRequest.newBuilder().setExchange(exchange).build()));
  }

  /**
   * Deletes an exchange.
   *
   * @param name its name
   */
  public void deleteExchange(String name) {
    call(stub -> stub.deleteExchange(DeleteExchangeRequest.newBuilder().setName(name).build()));
  }

  /**
   * Binds a queue to an exchange. Binding it again is harmless.
   *
   * @param source the exchange
   * @param destination the queue
   * @param routingKey the routing key, or a pattern for a topic exchange
   */
  public void bind(String source, String destination, String routingKey) {
    bind(Binding.newBuilder().setSource(source).setDestination(destination).setRoutingKey(routingKey).build());
  }

  /**
   * Binds a queue or an exchange to an exchange. Binding it again is harmless.
   *
   * @param binding the binding
   */
  public void bind(Binding binding) {
    call(stub -> stub.bind(BindRequest.newBuilder().setBinding(binding).build()));
  }

  /**
   * Removes a binding. Removing a missing one is harmless.
   *
   * @param binding the binding
   */
  public void unbind(Binding binding) {
    call(stub -> stub.unbind(UnbindRequest.newBuilder().setBinding(binding).build()));
  }
}
