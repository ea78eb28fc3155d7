package warrengate

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

const (
	// maxFrameBytes is well below the size limit of a frame, so that only a message that is too large by itself is
	// refused for its size.
	maxFrameBytes = 256 * 1024
	// resendPause is the wait before a message whose outcome the gateway did not learn is sent again.
	resendPause = 200 * time.Millisecond
)

// transientReasons are refusals that a later attempt, perhaps at another gateway, need not meet.
var transientReasons = []string{reasonDraining, "BROKER_UNREACHABLE"}

// PublisherConfig configures a publisher. Zero values are the defaults.
type PublisherConfig struct {
	// Exchange to publish to; the default exchange routes to the queue that the routing key names.
	Exchange string
	// MaxInFlight bounds the messages without an outcome (1,000). Publishing waits at the bound.
	MaxInFlight int
	// MaxInFlightBytes bounds their encoded size (32 MiB).
	MaxInFlightBytes int64
	// BatchMessages is how many messages one frame holds at most (64).
	BatchMessages int
	// Timeout is the deadline of a message (60 s). Until then it is sent again, with the same id, when its outcome is
	// unknown or it was throttled.
	Timeout time.Duration
	// FailThrottled returns throttled messages as errors instead of sending them again after the time the gateway named.
	FailThrottled bool
}

// Confirmation says that the broker has the message.
type Confirmation struct {
	// MessageID is the caller's, or the one made by the publisher.
	MessageID string
	// TraceID is the trace in which the message is recorded; empty when its trace is not kept.
	TraceID string
}

// Receipt is the outcome of a message to come.
type Receipt struct {
	done         chan struct{}
	confirmation Confirmation
	err          *Error
}

// Done is closed when the outcome is known.
func (r *Receipt) Done() <-chan struct{} { return r.done }

// Wait waits for the outcome. The message is not withdrawn when ctx ends.
func (r *Receipt) Wait(ctx context.Context) (Confirmation, error) {
	select {
	case <-r.done:
		if r.err != nil {
			return Confirmation{}, r.err
		}
		return r.confirmation, nil
	case <-ctx.Done():
		return Confirmation{}, fromContext(ctx)
	}
}

type entry struct {
	publication *pb.Publication
	size        int64
	deadline    time.Time
	receipt     *Receipt
	span        trace.Span
	// written says that the present stream has it.
	written bool
	// lost says that an attempt ended without an answer, so that the message may be stored.
	lost    bool
	refusal *Error
}

// Publisher publishes to one exchange. It is safe for concurrent use. A message is in its table until its receipt is done, and
// its receipt is done exactly once.
type Publisher struct {
	client   *Client
	config   PublisherConfig
	messages *semaphore.Weighted
	bytes    *semaphore.Weighted
	recovery recovery

	mu        sync.Mutex
	entries   map[uint64]*entry
	sequence  uint64
	unwritten sequences
	// notBefore: nothing is written before this moment.
	notBefore time.Time
	expiry    []uint64
	timer     *time.Timer
	session   *session[pb.PublishRequest, pb.PublishResponse]
	running   bool
	closed    bool
	idle      chan struct{}
}

func newPublisher(client *Client, config PublisherConfig) *Publisher {
	orElse(&config.MaxInFlight, 1000)
	orElse(&config.MaxInFlightBytes, 32<<20)
	orElse(&config.BatchMessages, 64)
	orElse(&config.Timeout, time.Minute)
	idle := make(chan struct{})
	close(idle)
	return &Publisher{
		client: client, config: config,
		messages: semaphore.NewWeighted(int64(config.MaxInFlight)),
		bytes:    semaphore.NewWeighted(config.MaxInFlightBytes),
		recovery: recovery{client: client, source: "publisher"},
		entries:  map[uint64]*entry{}, idle: idle,
	}
}

func orElse[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}

// PublishOption changes how one message is published.
type PublishOption func(*pb.Publication)

// AllowUnroutable confirms a message for which no queue is bound, instead of failing with ErrUnroutable.
func AllowUnroutable() PublishOption {
	return func(publication *pb.Publication) { publication.AllowUnroutable = true }
}

// InFlight is how many messages have no outcome yet.
func (p *Publisher) InFlight() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.entries)
}

// Publish publishes a message and waits for its outcome. It returns when the broker has confirmed the message; otherwise the
// error is an *Error whose Outcome says what became of it.
func (p *Publisher) Publish(ctx context.Context, routingKey string, message Message, options ...PublishOption) (Confirmation, error) {
	receipt, err := p.Send(ctx, routingKey, message, options...)
	if err != nil {
		return Confirmation{}, err
	}
	return receipt.Wait(ctx)
}

// Send hands a message over and returns its receipt; it waits only while the publisher is full. Messages that one goroutine
// sends reach the broker in this order while nothing fails.
func (p *Publisher) Send(ctx context.Context, routingKey string, message Message, options ...PublishOption) (*Receipt, error) {
	message.copyHeaders()
	if message.ID == "" {
		message.ID = uuid.NewString()
	}
	span := startProducer(ctx, p.config.Exchange, routingKey, &message)
	receipt, err := p.send(ctx, routingKey, &message, span, options)
	if err != nil {
		failure := fromRPC(err, p.client.connection.endpoint)
		endSpan(span, failure)
	}
	return receipt, err
}

func (p *Publisher) send(ctx context.Context, routingKey string, message *Message, span trace.Span, options []PublishOption) (*Receipt, error) {
	converted, err := toProto(message)
	if err != nil {
		return nil, err
	}
	publication := &pb.Publication{Exchange: p.config.Exchange, RoutingKey: routingKey, Message: converted}
	for _, option := range options {
		option(publication)
	}
	// A message larger than the bound goes alone.
	size := min(int64(proto.Size(publication)), p.config.MaxInFlightBytes)
	if p.messages.Acquire(ctx, 1) != nil {
		return nil, fromContext(ctx)
	}
	if p.bytes.Acquire(ctx, size) != nil {
		p.messages.Release(1)
		return nil, fromContext(ctx)
	}
	return p.accept(publication, size, span)
}

func (p *Publisher) accept(publication *pb.Publication, size int64, span trace.Span) (*Receipt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.release(size)
		return nil, closedError("publisher")
	}
	p.sequence++
	publication.Sequence = p.sequence
	receipt := &Receipt{done: make(chan struct{})}
	if len(p.entries) == 0 {
		p.idle = make(chan struct{})
	}
	p.entries[p.sequence] = &entry{
		publication: publication, size: size, deadline: time.Now().Add(p.config.Timeout), receipt: receipt, span: span,
	}
	heap.Push(&p.unwritten, p.sequence)
	p.expiry = append(p.expiry, p.sequence)
	if p.timer == nil {
		p.timer = time.AfterFunc(p.config.Timeout, p.expire)
	}
	if !p.running {
		p.running = true
		go p.run()
	}
	p.wake()
	return receipt, nil
}

func (p *Publisher) wake() {
	if p.session != nil {
		p.session.wakeUp()
	}
}

func (p *Publisher) release(size int64) {
	p.messages.Release(1)
	p.bytes.Release(size)
}

// end gives a message its outcome; the caller has locked.
func (p *Publisher) end(sequence uint64, confirmation Confirmation, err *Error) {
	current, present := p.entries[sequence]
	if !present {
		return
	}
	delete(p.entries, sequence)
	endSpan(current.span, err)
	current.receipt.confirmation, current.receipt.err = confirmation, err
	close(current.receipt.done)
	p.release(current.size)
	if len(p.entries) == 0 {
		close(p.idle)
		p.wake()
	}
}

// takeResult processes one outcome; the caller has locked.
func (p *Publisher) takeResult(result *pb.PublishResult) {
	sequence := result.GetSequence()
	current, present := p.entries[sequence]
	if !present {
		return
	}
	if result.GetOutcome() == pb.Outcome_OUTCOME_CONFIRMED {
		p.end(sequence, Confirmation{MessageID: result.GetMessageId(), TraceID: result.GetTraceId()}, nil)
		return
	}
	err := fromResult(result)
	err.MessageID = current.publication.GetMessage().GetMessageId()
	again, pause := slices.Contains(transientReasons, err.Reason), time.Duration(0)
	switch {
	case err.Outcome == OutcomeUnknown:
		current.lost, again, pause = true, true, resendPause
	case err.Outcome == OutcomeThrottled && !p.config.FailThrottled:
		again, pause = true, max(err.RetryAfter, resendPause/4)
	}
	switch {
	case again:
		if until := time.Now().Add(pause); until.After(p.notBefore) {
			p.notBefore = until
		}
		current.refusal, current.written = err, false
		heap.Push(&p.unwritten, sequence)
		p.wake()
	case current.lost:
		// An earlier attempt had no answer, so this refusal does not say that the message is not stored.
		p.end(sequence, Confirmation{}, unknownOutcome(err.MessageID, err.Error(), err.Reason))
	default:
		p.end(sequence, Confirmation{}, err)
	}
}

func (p *Publisher) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	now := time.Now()
	for len(p.expiry) > 0 {
		sequence := p.expiry[0]
		current, present := p.entries[sequence]
		if present && current.deadline.After(now) {
			// All have the same timeout, so they are in the order of their deadlines.
			p.timer = time.AfterFunc(current.deadline.Sub(now), p.expire)
			return
		}
		p.expiry = p.expiry[1:]
		if present {
			p.end(sequence, Confirmation{}, overdue(current))
		}
	}
}

func overdue(current *entry) *Error {
	id := current.publication.GetMessage().GetMessageId()
	switch {
	case current.lost || current.written:
		return unknownOutcome(id, "no answer came in time", string(OutcomeUnknown))
	case current.refusal != nil:
		return current.refusal
	}
	return notSent(id, "no gateway took it")
}

// run keeps a stream open until the publisher is closed or refused for good.
func (p *Publisher) run() {
	for {
		current := newSession[pb.PublishRequest, pb.PublishResponse](p.client, "publisher")
		current.frames = &publishFrames{publisher: p, session: current}
		p.mu.Lock()
		if p.closed && len(p.entries) == 0 {
			p.running = false
			p.mu.Unlock()
			return
		}
		p.session = current
		if p.closed {
			current.closing.Store(true)
		}
		p.mu.Unlock()
		err := current.run()
		p.mu.Lock()
		p.session = nil
		p.rewind()
		finished := p.closed && len(p.entries) == 0
		if finished {
			p.running = false
		}
		p.mu.Unlock()
		if finished {
			return
		}
		if refusal := p.recovery.after(p.client.ctx, current.channel, current.token, err); refusal != nil {
			p.fail(fromRPC(refusal, p.client.connection.endpoint))
			return
		}
		if p.stopIfIdle() {
			return
		}
	}
}

// stopIfIdle ends the goroutine while nothing is to be published; the next message starts it again.
func (p *Publisher) stopIfIdle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = len(p.entries) > 0
	return !p.running
}

// rewind makes everything without an outcome unwritten, in the order of sending; the caller has locked.
func (p *Publisher) rewind() {
	p.unwritten = p.unwritten[:0]
	for sequence, current := range p.entries {
		if current.written {
			current.written, current.lost = false, true
		}
		p.unwritten = append(p.unwritten, sequence)
	}
	heap.Init(&p.unwritten)
}

func (p *Publisher) fail(refusal *Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	waiting := make([]uint64, 0, len(p.entries))
	for sequence := range p.entries {
		waiting = append(waiting, sequence)
	}
	slices.Sort(waiting)
	for _, sequence := range waiting {
		current := p.entries[sequence]
		id := current.publication.GetMessage().GetMessageId()
		var err *Error
		if current.lost {
			err = unknownOutcome(id, refusal.Error(), refusal.Reason)
			err.Retryable = refusal.Retryable
		} else {
			own := *refusal
			own.MessageID, own.Outcome = id, OutcomeNotSent
			err = &own
		}
		p.end(sequence, Confirmation{}, err)
	}
}

// Flush waits until every message has its outcome.
func (p *Publisher) Flush(ctx context.Context) error {
	p.mu.Lock()
	idle := p.idle
	p.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fromContext(ctx)
	}
}

// Close takes no more messages and waits until every message has its outcome, or until ctx ends.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	if p.session != nil {
		p.session.closing.Store(true)
	}
	p.wake()
	p.mu.Unlock()
	err := p.Flush(ctx)
	p.mu.Lock()
	for sequence, current := range p.entries {
		p.end(sequence, Confirmation{}, overdue(current))
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.session != nil {
		p.session.close()
	}
	p.mu.Unlock()
	p.client.forgetPublisher(p)
	return err
}

// sequences is a heap, lowest first.
type sequences []uint64

func (s sequences) Len() int           { return len(s) }
func (s sequences) Less(i, j int) bool { return s[i] < s[j] }
func (s sequences) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *sequences) Push(value any)    { *s = append(*s, value.(uint64)) } //nolint:forcetypeassert // only our own
func (s *sequences) Pop() any {
	last := len(*s) - 1
	value := (*s)[last]
	*s = (*s)[:last]
	return value
}

type publishFrames struct {
	publisher *Publisher
	session   *session[pb.PublishRequest, pb.PublishResponse]
}

func (f *publishFrames) open(ctx context.Context, channel *grpc.ClientConn) (grpc.BidiStreamingClient[pb.PublishRequest, pb.PublishResponse], error) {
	return pb.NewMessagingClient(channel).Publish(ctx)
}

func (f *publishFrames) opened(stream grpc.BidiStreamingClient[pb.PublishRequest, pb.PublishResponse]) error {
	// What is written to a stream that the gateway has not accepted would have to count as perhaps stored.
	header, err := stream.Header()
	if err != nil {
		return err
	}
	if header == nil {
		return lostError("the gateway refused the stream")
	}
	f.publisher.client.emit(EventConnected, "publisher", "")
	return nil
}

func (f *publishFrames) nextFrame() (*pb.PublishRequest, time.Duration) {
	p := f.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.session.draining.Load() {
		return nil, 0
	}
	if pause := time.Until(p.notBefore); pause > 0 {
		return nil, pause
	}
	var publications []*pb.Publication
	var size int64
	for len(p.unwritten) > 0 && len(publications) < p.config.BatchMessages {
		current, present := p.entries[p.unwritten[0]]
		if !present || current.written {
			heap.Pop(&p.unwritten)
			continue
		}
		size += current.size
		if len(publications) > 0 && size > maxFrameBytes {
			break
		}
		heap.Pop(&p.unwritten)
		current.written = true
		publications = append(publications, current.publication)
	}
	if len(publications) == 0 {
		return nil, 0
	}
	return &pb.PublishRequest{Frame: &pb.PublishRequest_Publications{Publications: &pb.Publications{Publications: publications}}}, 0
}

func (f *publishFrames) gather() time.Duration { return 0 }

func (f *publishFrames) done() bool {
	// Messages that wait for their time go to the next gateway.
	return f.session.draining.Load() || f.publisher.InFlight() == 0
}

func (f *publishFrames) reauthentication(token string) *pb.PublishRequest {
	return &pb.PublishRequest{Frame: &pb.PublishRequest_Reauthenticate{Reauthenticate: &pb.Reauthenticate{AccessToken: token}}}
}

func (f *publishFrames) receive(response *pb.PublishResponse) {
	switch event := response.GetEvent().(type) {
	case *pb.PublishResponse_Results:
		f.publisher.recovery.works.Store(true)
		f.publisher.mu.Lock()
		for _, result := range event.Results.GetResults() {
			f.publisher.takeResult(result)
		}
		f.publisher.mu.Unlock()
	case *pb.PublishResponse_AuthExpiring:
		f.session.onExpiring()
	case *pb.PublishResponse_Draining:
		f.session.onDraining(event.Draining.GetDeadline())
	}
}
