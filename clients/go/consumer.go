package warrengate

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

const (
	// gatherPause is how long acknowledgements are collected before they are written.
	gatherPause    = 5 * time.Millisecond
	maxIDs         = 10_000
	maxReasonBytes = 1024
)

// Handler processes a delivery. Returning nil acknowledges it, an error retries it with the queue's back-off, unless it
// was settled explicitly. The context ends when the consumer stops waiting for handlers.
type Handler func(ctx context.Context, delivery *Delivery) error

// Position is where a consumer starts in a stream queue.
type Position struct{ set func(*pb.StreamPosition) }

// The positions in a stream queue.
var (
	First = Position{func(p *pb.StreamPosition) { p.Position = &pb.StreamPosition_First{First: &pb.StreamFirst{}} }}
	Last  = Position{func(p *pb.StreamPosition) { p.Position = &pb.StreamPosition_Last{Last: &pb.StreamLast{}} }}
	Next  = Position{func(p *pb.StreamPosition) { p.Position = &pb.StreamPosition_Next{Next: &pb.StreamNext{}} }}
)

// Offset is the message with this number.
func Offset(offset uint64) Position {
	return Position{func(p *pb.StreamPosition) { p.Position = &pb.StreamPosition_Offset{Offset: offset} }}
}

// Since is the first message that was published about this time, in whole seconds.
func Since(moment time.Time) Position {
	return Position{func(p *pb.StreamPosition) {
		p.Position = &pb.StreamPosition_Timestamp{Timestamp: timestamppb.New(moment.Truncate(time.Second))}
	}}
}

// ConsumeConfig configures a consumer. Zero values are the defaults.
type ConsumeConfig struct {
	// Concurrency is the maximum number of concurrent handlers (1).
	Concurrency int
	// Window limits the unsettled messages (256), or Concurrency if that is more.
	Window int
	// MaxBytes limits their size (16 MiB).
	MaxBytes uint64
	// Lease is the lease of a delivery (60 s). It is extended automatically.
	Lease time.Duration
	// MaxLease is how long leases are extended (1 h).
	MaxLease time.Duration
	// Position is where to start in a stream queue. A reopened stream resumes at its position.
	Position Position
	// Exclusive refuses other consumers of the queue.
	Exclusive bool
	// Priority prefers this consumer to those with a lower priority.
	Priority int32
}

// Delivery is a message delivered to a consumer. Settle it by exactly one of its methods; later calls have no effect.
type Delivery struct {
	// Message is the message.
	Message Message
	// Exchange is the exchange it was published to; empty for the default exchange.
	Exchange string
	// RoutingKey is the routing key it was published with.
	RoutingKey string
	// Redelivered reports whether it may have been delivered before.
	Redelivered bool
	// Attempt is 1 for the first one.
	Attempt int
	// StreamOffset is its offset in a stream queue; nil for other queues.
	StreamOffset *uint64

	id         uint64
	receivedAt time.Time
	stream     *subscription
	started    bool
	settled    bool
}

// Body is the body of the message.
func (d *Delivery) Body() []byte { return d.Message.Body }

// Ack acknowledges the message.
func (d *Delivery) Ack() { d.settle(nil) }

// Retry delivers the message again after this delay, or after the queue's back-off if delay is negative.
func (d *Delivery) Retry(delay time.Duration, reason string) {
	nack := &pb.Nack{Action: pb.NackAction_NACK_ACTION_RETRY, Reason: short(reason)}
	if delay >= 0 {
		nack.Delay = durationpb.New(delay)
	}
	d.settle(nack)
}

// Backoff is the delay for Retry that uses the queue's policy.
const Backoff = time.Duration(-1)

// DeadLetter moves the message to the tenant's dead letters.
func (d *Delivery) DeadLetter(reason string) {
	d.settle(&pb.Nack{Action: pb.NackAction_NACK_ACTION_DEAD_LETTER, Reason: short(reason)})
}

// Drop deletes the message.
func (d *Delivery) Drop() { d.settle(&pb.Nack{Action: pb.NackAction_NACK_ACTION_DROP}) }

// Current reports whether a settlement can still have an effect; otherwise the message is delivered again.
func (d *Delivery) Current() bool {
	d.stream.mu.Lock()
	defer d.stream.mu.Unlock()
	return d.stream.outstanding[d.id] == d
}

func (d *Delivery) settle(nack *pb.Nack) { d.stream.settle(d, nack) }

// short truncates a reason to the gateway's limit.
func short(reason string) string {
	if len(reason) > maxReasonBytes {
		reason = reason[:maxReasonBytes]
	}
	return strings.ToValidUTF8(reason, "")
}

// Consumer is a subscription that survives its streams.
type Consumer struct {
	client   *Client
	queue    string
	config   ConsumeConfig
	handler  Handler
	recovery recovery
	ctx      context.Context
	stop     context.CancelFunc
	// handling ends when the consumer stops waiting for handlers.
	handling context.Context
	giveUp   context.CancelFunc

	mu         sync.Mutex
	ready      []*Delivery
	signal     chan struct{}
	workers    int
	running    int
	stream     *subscription
	resumeFrom *uint64
	closing    bool
	err        error

	startedOnce sync.Once
	started     chan struct{}
	done        chan struct{}
}

func newConsumer(client *Client, queue string, handler Handler, config ConsumeConfig) *Consumer {
	orElse(&config.Concurrency, 1)
	orElse(&config.Window, 256)
	orElse(&config.MaxBytes, 16<<20)
	orElse(&config.Lease, time.Minute)
	orElse(&config.MaxLease, time.Hour)
	config.Window = max(config.Window, config.Concurrency)
	c := &Consumer{
		client: client, queue: queue, config: config, handler: handler,
		recovery: recovery{client: client, source: queue},
		signal:   make(chan struct{}, 1), started: make(chan struct{}), done: make(chan struct{}),
	}
	c.ctx, c.stop = context.WithCancel(client.ctx)
	c.handling, c.giveUp = context.WithCancel(client.ctx)
	return c
}

// start waits until the gateway has accepted the subscription.
func (c *Consumer) start(ctx context.Context) error {
	go c.run()
	select {
	case <-c.started:
		return nil
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		c.closeNow()
		return fromContext(ctx)
	}
}

// Running is the number of running handlers.
func (c *Consumer) Running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}

// Done is closed when the consumer has ended: by Close, or by a permanent error.
func (c *Consumer) Done() <-chan struct{} { return c.done }

// Err is the error that ended the consumer; nil before that, and after Close.
func (c *Consumer) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Wait waits until the consumer has ended, and returns the error that ended it.
func (c *Consumer) Wait(ctx context.Context) error {
	select {
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return fromContext(ctx)
	}
}

// Next waits for the next delivery of a consumer without a handler; it returns nil and the reason when the consumer has
// ended.
func (c *Consumer) Next(ctx context.Context) (*Delivery, error) {
	for {
		if delivery := c.take(); delivery != nil {
			return delivery, nil
		}
		select {
		case <-c.signal:
		case <-c.done:
			if err := c.Err(); err != nil {
				return nil, err
			}
			return nil, closedError("consumer")
		case <-ctx.Done():
			return nil, fromContext(ctx)
		}
	}
}

// All iterates over the deliveries until the consumer is closed or ctx ends. Each delivery must be settled; its lease
// is extended until then. An error that ended the consumer is the last element.
func (c *Consumer) All(ctx context.Context) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		for {
			delivery, err := c.Next(ctx)
			if err != nil {
				if ctx.Err() == nil && c.Err() != nil {
					yield(nil, err)
				}
				return
			}
			if !yield(delivery, nil) {
				return
			}
		}
	}
}

func (c *Consumer) take() *Delivery {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.takeLocked()
}

func (c *Consumer) takeLocked() *Delivery {
	if len(c.ready) == 0 {
		return nil
	}
	delivery := c.ready[0]
	c.ready[0] = nil
	c.ready = c.ready[1:]
	delivery.started = true
	if len(c.ready) > 0 {
		c.signalReady()
	}
	return delivery
}

func (c *Consumer) signalReady() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

// deliver receives deliveries of the current stream.
func (c *Consumer) deliver(batch []*Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	c.ready = append(c.ready, batch...)
	if c.handler == nil {
		c.signalReady()
		return
	}
	for range min(len(c.ready), c.config.Concurrency-c.workers) {
		c.workers++
		go c.work()
	}
}

// discardReady drops deliveries that were not started; they are delivered again.
func (c *Consumer) discardReady() {
	c.mu.Lock()
	c.ready = nil
	c.mu.Unlock()
}

// work runs handlers one after another until nothing is ready.
func (c *Consumer) work() {
	for {
		c.mu.Lock()
		delivery := c.takeLocked()
		if delivery == nil {
			c.workers--
			c.mu.Unlock()
			return
		}
		c.running++
		c.mu.Unlock()
		c.handle(delivery)
		c.mu.Lock()
		c.running--
		c.mu.Unlock()
	}
}

func (c *Consumer) handle(delivery *Delivery) {
	ctx, span := startConsumer(c.handling, c.queue, delivery)
	defer span.End()
	if err := c.call(ctx, delivery); err != nil {
		span.RecordError(err)
		c.client.log.Warn("a handler failed, its message is retried unless it is settled", "queue", c.queue, "error", err)
		delivery.Retry(Backoff, err.Error())
		return
	}
	delivery.Ack()
}

func (c *Consumer) call(ctx context.Context, delivery *Delivery) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the handler panicked: %v", cause)
		}
	}()
	return c.handler(ctx, delivery)
}

func (c *Consumer) run() {
	defer close(c.done)
	defer c.client.forgetConsumer(c)
	for {
		stream := newSubscription(c)
		c.mu.Lock()
		if c.closing {
			c.mu.Unlock()
			return
		}
		c.stream = stream
		c.mu.Unlock()
		err := stream.session.run()
		resume := stream.invalidate()
		c.discardReady()
		c.mu.Lock()
		c.stream = nil
		if resume != nil {
			c.resumeFrom = resume
		}
		closing := c.closing
		c.mu.Unlock()
		if closing {
			return
		}
		if err = c.after(stream, err); err != nil {
			c.mu.Lock()
			if !c.closing {
				c.err = err
				c.client.log.Error("a consumer has ended", "queue", c.queue, "error", err)
			}
			c.mu.Unlock()
			return
		}
	}
}

func (c *Consumer) after(stream *subscription, err error) error {
	if err != nil {
		select {
		case <-c.started:
		default:
			// A plan's limit of streams refuses the first stream. A later one may only have been opened before the
			// gateway noticed the end of its predecessor.
			if failure := fromRPC(err, c.client.connection.endpoint); failure.Code == codes.ResourceExhausted {
				return failure
			}
		}
	}
	return c.recovery.after(c.ctx, stream.session.channel, stream.session.token, err)
}

func (c *Consumer) onStarted() {
	c.recovery.works.Store(true)
	c.client.emit(EventConnected, c.queue, "")
	c.startedOnce.Do(func() { close(c.started) })
}

// Close stops consuming, waits for the handlers until ctx ends, settles, and ends the stream.
func (c *Consumer) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.ready = nil
	stream := c.stream
	c.mu.Unlock()
	if stream == nil {
		c.closeNow()
		<-c.done
		return nil
	}
	stream.session.close()
	select {
	case <-c.done:
		c.closeNow()
		return nil
	case <-ctx.Done():
	}
	// In this order: the error of a handler whose context ends now would count as an attempt.
	stream.abandon()
	c.giveUp()
	select {
	case <-c.done:
	case <-time.After(closeTimeout):
	}
	c.closeNow()
	<-c.done
	return fromContext(ctx)
}

func (c *Consumer) closeNow() {
	c.mu.Lock()
	c.closing = true
	stream := c.stream
	c.mu.Unlock()
	c.stop()
	c.giveUp()
	if stream != nil {
		stream.session.cancel(errEnded)
	}
}

// subscription is one stream of a consumer. A settlement is written only to the stream that delivered the message, so a
// late one cannot apply to another message.
type subscription struct {
	consumer *Consumer
	session  *session[pb.SubscribeRequest, pb.SubscribeResponse]

	mu    sync.Mutex
	start *pb.SubscribeRequest
	// outstanding has the deliveries that are not settled at the gateway; order has their ids in the order of delivery.
	outstanding map[uint64]*Delivery
	order       []uint64
	acks        map[uint64]struct{}
	nacks       []*pb.Nack
	extensions  []*pb.ExtendLease
	lease       time.Duration
	timer       *time.Timer
	lastOffset  *uint64
	abandoned   bool
}

func newSubscription(c *Consumer) *subscription {
	s := &subscription{
		consumer: c, outstanding: map[uint64]*Delivery{}, acks: map[uint64]struct{}{}, lease: c.config.Lease,
	}
	start := &pb.SubscribeStart{
		Queue: c.queue, MaxOutstandingMessages: uint32(c.config.Window), MaxOutstandingBytes: c.config.MaxBytes, //nolint:gosec // a window
		AckDeadline: durationpb.New(c.config.Lease), Exclusive: c.config.Exclusive, Priority: c.config.Priority,
	}
	position := c.config.Position
	if c.resumeFrom != nil {
		position = Offset(*c.resumeFrom)
	}
	if position.set != nil {
		start.Position = &pb.StreamPosition{}
		position.set(start.Position)
	}
	s.start = &pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Start{Start: start}}
	s.session = newSession[pb.SubscribeRequest, pb.SubscribeResponse](c.client, c.queue)
	s.session.frames = s
	return s
}

func (s *subscription) open(ctx context.Context, channel *grpc.ClientConn) (grpc.BidiStreamingClient[pb.SubscribeRequest, pb.SubscribeResponse], error) {
	return pb.NewMessagingClient(channel).Subscribe(ctx)
}

func (s *subscription) opened(grpc.BidiStreamingClient[pb.SubscribeRequest, pb.SubscribeResponse]) error {
	return nil
}

func (s *subscription) reauthentication(token string) *pb.SubscribeRequest {
	return &pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Reauthenticate{Reauthenticate: &pb.Reauthenticate{AccessToken: token}}}
}

func (s *subscription) gather() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.acks) > 0 && len(s.acks) < 64 && len(s.nacks) == 0 && !s.session.closing.Load() {
		return gatherPause
	}
	return 0
}

func (s *subscription) nextFrame() (*pb.SubscribeRequest, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.start != nil:
		start := s.start
		s.start = nil
		return start, 0
	case len(s.nacks) > 0:
		nack := s.nacks[0]
		s.nacks = s.nacks[1:]
		return &pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Nack{Nack: nack}}, 0
	case len(s.acks) > 0:
		return &pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Ack{Ack: s.nextAck()}}, 0
	case len(s.extensions) > 0:
		extension := s.extensions[0]
		s.extensions = s.extensions[1:]
		return &pb.SubscribeRequest{Frame: &pb.SubscribeRequest_ExtendLease{ExtendLease: extension}}, 0
	}
	return nil, 0
}

// nextAck acknowledges all deliveries before the first unsettled one by one number, and the others by their ids.
func (s *subscription) nextAck() *pb.Ack {
	ack := &pb.Ack{}
	for len(s.order) > 0 {
		id := s.order[0]
		if _, present := s.outstanding[id]; present {
			if _, done := s.acks[id]; !done {
				break
			}
			ack.Through = id
			delete(s.acks, id)
			delete(s.outstanding, id)
		}
		s.order = s.order[1:]
	}
	if ack.GetThrough() != 0 {
		return ack
	}
	for id := range s.acks {
		if len(ack.DeliveryIds) == maxIDs {
			break
		}
		ack.DeliveryIds = append(ack.DeliveryIds, id)
		delete(s.acks, id)
		delete(s.outstanding, id)
	}
	return ack
}

func (s *subscription) done() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.abandoned {
		return true
	}
	if len(s.acks)+len(s.nacks) > 0 {
		return false
	}
	for _, delivery := range s.outstanding {
		if s.isStarted(delivery) && !delivery.settled {
			return false
		}
	}
	return true
}

func (s *subscription) isStarted(delivery *Delivery) bool {
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	return delivery.started
}

// abandon stops waiting for handlers; their messages are delivered again.
func (s *subscription) abandon() {
	s.mu.Lock()
	s.abandoned = true
	s.mu.Unlock()
	s.session.wakeUp()
}

func (s *subscription) settle(delivery *Delivery, nack *pb.Nack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delivery.settled || s.abandoned {
		return
	}
	delivery.settled = true
	if offset := delivery.StreamOffset; offset != nil && (s.lastOffset == nil || *offset > *s.lastOffset) {
		s.lastOffset = offset
	}
	if s.outstanding[delivery.id] != delivery {
		return
	}
	if nack == nil {
		s.acks[delivery.id] = struct{}{}
	} else {
		delete(s.outstanding, delivery.id)
		nack.DeliveryIds = []uint64{delivery.id}
		s.nacks = append(s.nacks, nack)
	}
	s.session.wakeUp()
}

// invalidate makes every id invalid, so that those messages are delivered again; it returns where to resume in a stream
// queue.
func (s *subscription) invalidate() *uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	resume := s.resumeFrom()
	clear(s.outstanding)
	clear(s.acks)
	s.order, s.nacks, s.extensions = nil, nil, nil
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	return resume
}

// resumeFrom is the first unsettled message of a stream queue; the caller holds the lock.
func (s *subscription) resumeFrom() *uint64 {
	var first *uint64
	for _, delivery := range s.outstanding {
		if !delivery.settled && delivery.StreamOffset != nil && (first == nil || *delivery.StreamOffset < *first) {
			first = delivery.StreamOffset
		}
	}
	if first == nil && s.lastOffset != nil {
		next := *s.lastOffset + 1
		first = &next
	}
	return first
}

func (s *subscription) receive(response *pb.SubscribeResponse) {
	switch event := response.GetEvent().(type) {
	case *pb.SubscribeResponse_Deliveries:
		s.take(event.Deliveries)
	case *pb.SubscribeResponse_Started:
		s.mu.Lock()
		if lease := event.Started.GetAckDeadline().AsDuration(); lease > 0 {
			s.lease = lease
		}
		s.mu.Unlock()
		s.consumer.onStarted()
	case *pb.SubscribeResponse_Settled:
		s.onSettled(event.Settled)
	case *pb.SubscribeResponse_Interrupted:
		s.onInterrupted(event.Interrupted.GetReason())
	case *pb.SubscribeResponse_Resumed:
		s.consumer.client.emit(EventResumed, s.consumer.queue, "")
	case *pb.SubscribeResponse_AuthExpiring:
		s.session.onExpiring()
	case *pb.SubscribeResponse_Draining:
		s.consumer.discardReady()
		s.session.onDraining(event.Draining.GetDeadline())
	}
}

func (s *subscription) take(deliveries *pb.Deliveries) {
	now := time.Now()
	batch := make([]*Delivery, 0, len(deliveries.GetDeliveries()))
	s.mu.Lock()
	for _, delivery := range deliveries.GetDeliveries() {
		taken := &Delivery{
			Message: fromProto(delivery.GetMessage()), Exchange: delivery.GetExchange(), RoutingKey: delivery.GetRoutingKey(),
			Redelivered: delivery.GetRedelivered(), Attempt: int(delivery.GetAttempt()), StreamOffset: delivery.StreamOffset,
			id: delivery.GetDeliveryId(), receivedAt: now, stream: s,
		}
		s.outstanding[taken.id] = taken
		s.order = append(s.order, taken.id)
		batch = append(batch, taken)
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(s.lease/3, s.extend)
	}
	s.mu.Unlock()
	// Deliveries that are not started when the stream is about to end are delivered again.
	if !s.session.closing.Load() && !s.session.draining.Load() {
		s.consumer.deliver(batch)
	}
}

func (s *subscription) onSettled(settled *pb.Settled) {
	expired := settled.GetExpiredDeliveryIds()
	if len(expired) == 0 {
		return
	}
	s.mu.Lock()
	for _, id := range expired {
		delete(s.outstanding, id)
		delete(s.acks, id)
	}
	s.mu.Unlock()
	s.consumer.client.log.Warn("leases expired; the messages are delivered again", "queue", s.consumer.queue, "messages", len(expired))
	s.consumer.client.emit(EventLeaseExpired, s.consumer.queue, fmt.Sprintf("%d messages", len(expired)))
}

func (s *subscription) onInterrupted(reason string) {
	resume := s.invalidate()
	s.mu.Lock()
	s.lastOffset = nil
	if resume != nil && *resume > 0 {
		last := *resume - 1
		s.lastOffset = &last
	}
	s.mu.Unlock()
	s.consumer.discardReady()
	s.consumer.client.emit(EventInterrupted, s.consumer.queue, reason)
}

// extend extends every lease that would expire before the next check, unless that exceeds the maximum.
func (s *subscription) extend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
	if len(s.outstanding) == 0 || s.session.ctx.Err() != nil {
		return
	}
	s.timer = time.AfterFunc(s.lease/3, s.extend)
	now := time.Now()
	var ids []uint64
	for id, delivery := range s.outstanding {
		age := now.Sub(delivery.receivedAt)
		if !delivery.settled && age > s.lease/4 && age+s.lease <= s.consumer.config.MaxLease {
			ids = append(ids, id)
		}
	}
	for len(ids) > 0 {
		count := min(len(ids), maxIDs)
		s.extensions = append(s.extensions, &pb.ExtendLease{DeliveryIds: ids[:count]})
		ids = ids[count:]
	}
	s.session.wakeUp()
}
