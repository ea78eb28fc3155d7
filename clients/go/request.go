package warrengate

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	replyQueueExpiry   = 5 * time.Minute
	replyConcurrency   = 32
	requestTimeout     = 10 * time.Second
	respondConcurrency = 8
)

// replies is the reply queue of a client, and the pending requests.
type replies struct {
	queue     string
	publisher *Publisher
	consumer  *Consumer

	mu      sync.Mutex
	waiting map[string]chan Message
}

// Request publishes a request to a queue and waits for its reply, for 10 s unless ctx has a deadline. It needs the
// configure and subscribe grants on "reply.#".
func (c *Client) Request(ctx context.Context, queue string, message Message) (Message, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	var reply Message
	replies, err := c.replyQueue(ctx)
	if err == nil {
		reply, err = replies.request(ctx, queue, message)
	}
	if err != nil && ctx.Err() != nil {
		// The time may already pass while the reply queue is created.
		return Message{}, timeoutError("no reply within the time limit")
	}
	return reply, err
}

func (c *Client) replyQueue(ctx context.Context) (*replies, error) {
	c.mu.Lock()
	present := c.replies
	c.mu.Unlock()
	if present != nil {
		return present, nil
	}
	created := &replies{
		queue:   "reply." + strings.ReplaceAll(uuid.NewString(), "-", ""),
		waiting: map[string]chan Message{}, publisher: c.Publisher(PublisherConfig{}),
	}
	// The broker deletes it when the client disconnects.
	_, err := c.Topology.DeclareQueue(ctx, &pb.Queue{
		Name: created.queue, Type: pb.QueueType_QUEUE_TYPE_CLASSIC, Expires: durationpb.New(replyQueueExpiry),
	})
	if err != nil {
		return nil, err
	}
	created.consumer, err = c.Consume(ctx, created.queue, created.take, ConsumeConfig{Concurrency: replyConcurrency})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replies != nil {
		// A concurrent call has created one; this queue expires.
		go func() { _ = created.consumer.Close(c.ctx) }()
		return c.replies, nil
	}
	c.replies = created
	return created, nil
}

func (r *replies) take(_ context.Context, delivery *Delivery) error {
	r.mu.Lock()
	waiter := r.waiting[delivery.Message.CorrelationID]
	delete(r.waiting, delivery.Message.CorrelationID)
	r.mu.Unlock()
	if waiter != nil {
		waiter <- delivery.Message
	}
	return nil
}

func (r *replies) request(ctx context.Context, queue string, message Message) (Message, error) {
	message.CorrelationID, message.ReplyTo = uuid.NewString(), r.queue
	if deadline, has := ctx.Deadline(); has {
		message.TTL = max(time.Until(deadline).Truncate(time.Millisecond), time.Millisecond)
	}
	waiter := make(chan Message, 1)
	r.mu.Lock()
	r.waiting[message.CorrelationID] = waiter
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiting, message.CorrelationID)
		r.mu.Unlock()
	}()
	if _, err := r.publisher.Publish(ctx, queue, message); err != nil {
		return Message{}, err
	}
	select {
	case reply := <-waiter:
		return reply, nil
	case <-ctx.Done():
		return Message{}, fromContext(ctx)
	}
}

// Respond replies to each request of a queue with the result of the handler.
func (c *Client) Respond(ctx context.Context, queue string, handler func(ctx context.Context, delivery *Delivery) (Message, error)) (*Consumer, error) {
	publisher := c.Publisher(PublisherConfig{})
	return c.Consume(ctx, queue, func(ctx context.Context, delivery *Delivery) error {
		reply, err := handler(ctx, delivery)
		if err != nil || delivery.Message.ReplyTo == "" {
			return err
		}
		reply.CorrelationID = delivery.Message.CorrelationID
		if reply.CorrelationID == "" {
			reply.CorrelationID = delivery.Message.ID
		}
		if _, err := publisher.Publish(ctx, delivery.Message.ReplyTo, reply); err != nil {
			return fmt.Errorf("the reply could not be sent: %w", err)
		}
		return nil
	}, ConsumeConfig{Concurrency: respondConcurrency})
}
