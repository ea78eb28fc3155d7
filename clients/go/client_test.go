package warrengate_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	warrengate "github.com/warrengate/warrengate/clients/go"
	"github.com/warrengate/warrengate/clients/go/warrengatetest"
	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

func TestMain(m *testing.M) { warrengatetest.Main(m) }

func connect(t *testing.T) (*warrengate.Client, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return warrengatetest.NewTenant(t).Connect(t), ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAMessageIsDeliveredWithItsProperties(t *testing.T) {
	client, ctx := connect(t)
	must(t, client.Topology.DeclareQuorumQueue(ctx, "orders"))
	sent := warrengate.Message{
		Body: []byte("one order"), ID: "id-1", CorrelationID: "c-1", ContentType: "text/plain", Type: "order", AppID: "shop",
		Priority: 3, TTL: time.Hour, PublishTime: time.Unix(1_700_000_000, 0).UTC(),
		Headers: map[string]any{
			"text": "a", "whole": int64(-7), "real": 1.5, "yes": true, "none": nil, "raw": []byte{0, 255},
			"list": []any{"x", int64(1)}, "table": map[string]any{"inner": "y"}, "when": time.Unix(5, 0).UTC(),
		},
	}
	confirmation, err := client.Publisher(warrengate.PublisherConfig{}).Publish(ctx, "orders", sent)
	must(t, err)
	if confirmation.MessageID != "id-1" {
		t.Errorf("the confirmation has the id %q", confirmation.MessageID)
	}
	consumer, err := client.Messages(ctx, "orders", warrengate.ConsumeConfig{})
	must(t, err)
	delivery, err := consumer.Next(ctx)
	must(t, err)
	delivery.Ack()
	got := delivery.Message
	for _, pair := range [][2]any{
		{got.Text(), "one order"}, {got.ID, "id-1"}, {got.CorrelationID, "c-1"}, {got.ContentType, "text/plain"}, {got.Type, "order"},
		{got.AppID, "shop"}, {got.Priority, uint8(3)}, {got.PublishTime, sent.PublishTime}, {got.Headers["text"], "a"},
		{got.Headers["whole"], int64(-7)}, {got.Headers["real"], 1.5}, {got.Headers["yes"], true}, {got.Headers["none"], nil},
		{fmt.Sprint(got.Headers["raw"]), "[0 255]"}, {fmt.Sprint(got.Headers["list"]), "[x 1]"},
		{fmt.Sprint(got.Headers["table"]), "map[inner:y]"}, {got.Headers["when"], time.Unix(5, 0).UTC()}, {delivery.Attempt, 1},
	} {
		if pair[0] != pair[1] {
			t.Errorf("got %v, want %v", pair[0], pair[1])
		}
	}
}

func TestEachOutcomeHasItsSentinelAndTheCallersHeadersAreNotChanged(t *testing.T) {
	client, ctx := connect(t)
	headers := map[string]any{"a": "b"}
	publisher := client.Publisher(warrengate.PublisherConfig{})
	_, err := publisher.Publish(ctx, "nowhere", warrengate.Message{Headers: headers})
	var failure *warrengate.Error
	if !errors.Is(err, warrengate.ErrUnroutable) || !errors.As(err, &failure) || failure.Retryable || failure.MessageID == "" {
		t.Errorf("got %#v", err)
	}
	if len(headers) != 1 {
		t.Errorf("the caller's headers became %v", headers)
	}
	if _, err := publisher.Publish(ctx, "nowhere", warrengate.Text("x"), warrengate.AllowUnroutable()); err != nil {
		t.Errorf("an allowed unroutable message returned %s", err)
	}
	if _, err := publisher.Publish(ctx, "q", warrengate.Message{Headers: map[string]any{"bad": struct{}{}}}); err == nil {
		t.Error("a header of an unknown type was accepted")
	}
	must(t, publisher.Close(ctx))
	if _, err := publisher.Publish(ctx, "q", warrengate.Text("late")); !errors.Is(err, warrengate.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestAnErrorAndAPanicOfAHandlerRetryAndExplicitSettlementsApply(t *testing.T) {
	client, ctx := connect(t)
	_, err := client.Topology.DeclareQueue(ctx, &pb.Queue{Name: "work", Type: pb.QueueType_QUEUE_TYPE_QUORUM, MaxDeliveryAttempts: 3})
	must(t, err)
	publisher := client.Publisher(warrengate.PublisherConfig{})
	for _, body := range []string{"fails", "panics", "dies"} {
		_, err := publisher.Publish(ctx, "work", warrengate.Text(body))
		must(t, err)
	}
	var lock sync.Mutex
	attempts := map[string]int{}
	done := make(chan struct{}, 2)
	consumer, err := client.Consume(ctx, "work", func(_ context.Context, delivery *warrengate.Delivery) error {
		body := delivery.Message.Text()
		lock.Lock()
		attempts[body] = delivery.Attempt
		lock.Unlock()
		switch {
		case body == "dies":
			delivery.DeadLetter("it must")
		case delivery.Attempt == 1 && body == "panics":
			panic("at the first attempt")
		case delivery.Attempt == 1:
			delivery.Retry(0, "at once")
		default:
			done <- struct{}{}
		}
		return nil
	}, warrengate.ConsumeConfig{Concurrency: 3})
	must(t, err)
	for range 2 {
		select {
		case <-done:
		case <-ctx.Done():
			t.Fatal("the second attempts did not come")
		}
	}
	must(t, consumer.Close(ctx))
	if attempts["fails"] != 2 || attempts["panics"] != 2 || attempts["dies"] != 1 {
		t.Errorf("attempts: %v", attempts)
	}
	var letters []*pb.DeadLetter
	for letter, err := range client.DeadLetters.List(ctx, &pb.DeadLetterFilter{Queue: "work"}) {
		must(t, err)
		letters = append(letters, letter)
	}
	if len(letters) != 1 || letters[0].GetReason() != "it must" {
		t.Fatalf("dead letters: %v", letters)
	}
	redriven, err := client.DeadLetters.Redrive(ctx, warrengate.OfQueue("work"), 0)
	must(t, err)
	if redriven.GetRedriven() != 1 {
		t.Errorf("redriven: %v", redriven)
	}
	count, err := client.Topology.PurgeQueue(ctx, "work")
	must(t, err)
	if count != 1 {
		t.Errorf("%d messages were purged", count)
	}
}

func TestConcurrencyIsBoundedAndClosingWaitsForHandlers(t *testing.T) {
	client, ctx := connect(t)
	must(t, client.Topology.DeclareQuorumQueue(ctx, "slow"))
	publisher := client.Publisher(warrengate.PublisherConfig{})
	for number := range 8 {
		_, err := publisher.Send(ctx, "slow", warrengate.Text(fmt.Sprint(number)))
		must(t, err)
	}
	must(t, publisher.Flush(ctx))
	var finished atomic.Int32
	entered, release := make(chan struct{}, 8), make(chan struct{})
	consumer, err := client.Consume(ctx, "slow", func(context.Context, *warrengate.Delivery) error {
		entered <- struct{}{}
		<-release
		finished.Add(1)
		return nil
	}, warrengate.ConsumeConfig{Concurrency: 2})
	must(t, err)
	<-entered
	<-entered
	if running := consumer.Running(); running != 2 {
		t.Errorf("%d handlers run", running)
	}
	closed := make(chan error)
	go func() { closed <- consumer.Close(ctx) }()
	close(release)
	must(t, <-closed)
	status, err := client.Topology.QueueStatus(ctx, "slow")
	must(t, err)
	if done := finished.Load(); status.GetMessagesReady() != uint64(8-done) || done < 2 {
		t.Errorf("%d handlers finished, %d messages are ready", done, status.GetMessagesReady())
	}
}

func TestARequestReceivesItsReply(t *testing.T) {
	client, ctx := connect(t)
	must(t, client.Topology.DeclareQuorumQueue(ctx, "prices"))
	_, err := client.Respond(ctx, "prices", func(_ context.Context, delivery *warrengate.Delivery) (warrengate.Message, error) {
		return warrengate.Text("price of " + delivery.Message.Text()), nil
	})
	must(t, err)
	reply, err := client.Request(ctx, "prices", warrengate.Text("tea"))
	must(t, err)
	if reply.Text() != "price of tea" {
		t.Errorf("got %q", reply.Text())
	}
	must(t, client.Topology.DeclareQuorumQueue(ctx, "silent"))
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	var failure *warrengate.Error
	if _, err := client.Request(short, "silent", warrengate.Text("?")); !errors.As(err, &failure) || failure.Reason != "REQUEST_TIMEOUT" {
		t.Errorf("got %v", err)
	}
}

func TestAStreamQueueIsReadFromAPosition(t *testing.T) {
	client, ctx := connect(t)
	_, err := client.Topology.DeclareQueue(ctx, &pb.Queue{Name: "log", Type: pb.QueueType_QUEUE_TYPE_STREAM})
	must(t, err)
	publisher := client.Publisher(warrengate.PublisherConfig{})
	for number := range 5 {
		_, err := publisher.Publish(ctx, "log", warrengate.Text(fmt.Sprint(number)))
		must(t, err)
	}
	for _, position := range []warrengate.Position{warrengate.First, warrengate.Offset(0), warrengate.Since(time.Unix(0, 0))} {
		consumer, err := client.Messages(ctx, "log", warrengate.ConsumeConfig{Position: position})
		must(t, err)
		count := 0
		for delivery, err := range consumer.All(ctx) {
			must(t, err)
			if delivery.Message.Text() != fmt.Sprint(count) || delivery.StreamOffset == nil {
				t.Errorf("message %d is %q", count, delivery.Message.Text())
			}
			delivery.Ack()
			if count++; count == 5 {
				break
			}
		}
		must(t, consumer.Close(ctx))
	}
}

func TestTheProducerSpanIsParentAndLinkOfTheConsumerSpan(t *testing.T) {
	client, ctx := connect(t)
	recorder := tracetest.NewSpanRecorder()
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	defer otel.SetTracerProvider(before)
	must(t, client.Topology.DeclareQuorumQueue(ctx, "traced"))
	_, err := client.Publisher(warrengate.PublisherConfig{}).Publish(ctx, "traced", warrengate.Text("x"))
	must(t, err)
	contexts := make(chan trace.SpanContext, 1)
	consumer, err := client.Consume(ctx, "traced", func(ctx context.Context, _ *warrengate.Delivery) error {
		contexts <- trace.SpanContextFromContext(ctx)
		return nil
	}, warrengate.ConsumeConfig{})
	must(t, err)
	received := <-contexts
	must(t, consumer.Close(ctx))
	spans := map[string]sdktrace.ReadOnlySpan{}
	for _, span := range recorder.Ended() {
		spans[span.Name()] = span
	}
	producer, process := spans["publish traced"], spans["process traced"]
	if producer == nil || process == nil {
		t.Fatalf("spans: %v", spans)
	}
	if process.SpanContext().SpanID() != received.SpanID() || process.SpanContext().TraceID() != producer.SpanContext().TraceID() {
		t.Error("the handler is not in the producer's trace")
	}
	if len(process.Links()) != 1 || process.Parent().TraceID() != producer.SpanContext().TraceID() {
		t.Errorf("links: %v, parent: %v", process.Links(), process.Parent())
	}
}

func TestInvalidConfigurationsAreRefusedWithAnExplanation(t *testing.T) {
	ctx := t.Context()
	for _, config := range []warrengate.Config{
		{Endpoint: "https://127.0.0.1:1"},
		{Endpoint: "127.0.0.1:1", Token: "t"},
		{Endpoint: "http://example.org", Token: "t"},
		{Endpoint: "https://127.0.0.1:1", Token: "t", CAFile: "client_test.go"},
		{Endpoint: "https://127.0.0.1:1", Token: "t", CAFile: "missing.pem"},
	} {
		var failure *warrengate.Error
		if _, err := warrengate.Connect(ctx, config); !errors.As(err, &failure) || failure.Reason != "CONFIGURATION" {
			t.Errorf("%+v: got %v", config.Endpoint, err)
		}
	}
}

func TestACancelledCallReturnsTheErrorOfItsContextAndALateOneAnError(t *testing.T) {
	client, _ := connect(t)
	reason := errors.New("the user has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	if _, err := client.WhoAmI(ctx); !errors.Is(err, reason) {
		t.Errorf("a cancelled call returned %v", err)
	}
	if _, err := client.DeadLetters.Redrive(ctx, warrengate.OfQueue("q"), 0); !errors.Is(err, reason) {
		t.Errorf("a cancelled stream returned %v", err)
	}
	late, end := context.WithTimeout(t.Context(), time.Nanosecond)
	defer end()
	<-late.Done()
	if _, err := client.WhoAmI(late); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a late call returned %v", err)
	}
}

func TestAFailingTokenSourceIsARetryableErrorWithItsCause(t *testing.T) {
	cause := errors.New("the identity provider is down")
	config := warrengatetest.NewTenant(t).Config
	config.ClientID, config.ClientSecret, config.ConnectTimeout = "", "", time.Second
	config.TokenSource = func(context.Context) (string, error) { return "", cause }
	_, err := warrengate.Connect(t.Context(), config)
	var failure *warrengate.Error
	if !errors.As(err, &failure) || failure.Reason != "TOKEN_SOURCE_FAILED" || !failure.Retryable || !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func TestSecretsAreInNoText(t *testing.T) {
	tenant := warrengatetest.NewTenant(t)
	client, config := tenant.Connect(t), tenant.Config
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("starting", "config", config)
	for _, text := range []string{
		log.String(), fmt.Sprint(config), fmt.Sprintf("%+v", config), fmt.Sprintf("%#v", &config), fmt.Sprintf("%+v", client), fmt.Sprintf("%#v", client),
	} {
		if strings.Contains(text, config.ClientSecret) || text == "" {
			t.Errorf("a secret is in %q", text)
		}
	}
}
