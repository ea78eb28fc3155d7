// Command plain publishes and consumes with grpc-go and its default settings: one message a frame, one acknowledgement a frame.
//
// Usage: plain QUEUE COUNT. clients/conformance/plain/README.md describes the environment and the output.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	v1 "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

func main() {
	log.SetFlags(0)
	queue := os.Args[1]
	count, err := strconv.Atoi(os.Args[2])
	check(err)
	authority, err := credentials.NewClientTLSFromFile(os.Getenv("WARRENGATE_CA"), "")
	check(err)
	address := strings.TrimPrefix(os.Getenv("WARRENGATE_ENDPOINT"), "https://")
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(authority))
	check(err)
	defer connection.Close() //nolint:errcheck // The program ends.
	ctx := context.Background()
	token, err := v1.NewAuthClient(connection).IssueToken(ctx, &v1.IssueTokenRequest{
		ClientId: os.Getenv("WARRENGATE_CLIENT_ID"), ClientSecret: os.Getenv("WARRENGATE_CLIENT_SECRET"),
	})
	check(err)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token.GetAccessToken())
	client := v1.NewMessagingClient(connection)
	began := time.Now()
	throttled := publish(ctx, client, queue, count)
	published := time.Now()
	attempts, inOrder := consume(ctx, client, queue, count)
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"library":         "grpc-go " + grpc.Version,
		"throttled":       throttled,
		"attempts":        attempts,
		"in_order":        inOrder,
		"publish_seconds": seconds(published.Sub(began)),
		"consume_seconds": seconds(time.Since(published)),
	}))
}

func publish(ctx context.Context, client v1.MessagingClient, queue string, count int) (throttled int) {
	stream, err := client.Publish(ctx)
	check(err)
	sequence := uint64(0)
	for toSend := count; toSend > 0; {
		go func(first uint64, messages int) {
			// Sending waits for the gateway, which waits for its outcomes to be read.
			for i := range messages {
				number := first + uint64(i)
				publication := &v1.Publication{
					Sequence: number, RoutingKey: queue, Message: &v1.Message{Body: []byte(strconv.FormatUint(number, 10))},
				}
				frame := &v1.PublishRequest_Publications{Publications: &v1.Publications{Publications: []*v1.Publication{publication}}}
				if stream.Send(&v1.PublishRequest{Frame: frame}) != nil {
					return // Receiving returns the error.
				}
			}
		}(sequence+1, toSend)
		sequence += uint64(toSend)
		unanswered, refused, pause := toSend, 0, time.Duration(0)
		for unanswered > 0 {
			event, err := stream.Recv()
			check(err)
			for _, result := range event.GetResults().GetResults() {
				unanswered--
				switch result.GetOutcome() {
				case v1.Outcome_OUTCOME_CONFIRMED:
				case v1.Outcome_OUTCOME_THROTTLED:
					refused++
					pause = max(pause, result.GetRetryAfter().AsDuration())
				default:
					log.Fatalf("message %d: %v", result.GetSequence(), result)
				}
			}
		}
		throttled += refused
		toSend = refused
		time.Sleep(pause)
	}
	check(stream.CloseSend())
	if event, err := stream.Recv(); !errors.Is(err, io.EOF) {
		log.Fatalf("the stream did not end: %v, %v", event, err)
	}
	return throttled
}

func consume(ctx context.Context, client v1.MessagingClient, queue string, count int) (map[uint32]int, bool) {
	stream, err := client.Subscribe(ctx)
	check(err)
	start := &v1.SubscribeRequest_Start{Start: &v1.SubscribeStart{Queue: queue}}
	check(stream.Send(&v1.SubscribeRequest{Frame: start}))
	attempts := map[uint32]int{}
	last, inOrder := uint64(0), true
	for delivered := 0; delivered < count; {
		event, err := stream.Recv()
		check(err)
		if settled := event.GetSettled(); settled != nil {
			log.Fatalf("an acknowledgement had no effect: %v", settled)
		}
		for _, delivery := range event.GetDeliveries().GetDeliveries() {
			delivered++
			attempts[delivery.GetAttempt()]++
			body, err := strconv.ParseUint(string(delivery.GetMessage().GetBody()), 10, 64)
			check(err)
			inOrder = inOrder && body > last
			last = body
			ack := &v1.SubscribeRequest_Ack{Ack: &v1.Ack{DeliveryIds: []uint64{delivery.GetDeliveryId()}}}
			check(stream.Send(&v1.SubscribeRequest{Frame: ack}))
		}
	}
	check(stream.CloseSend())
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return attempts, inOrder
		}
		check(err)
		if len(event.GetDeliveries().GetDeliveries()) > 0 {
			log.Fatal("there were more deliveries than messages")
		}
	}
}

func seconds(duration time.Duration) json.Number {
	return json.Number(fmt.Sprintf("%.1f", duration.Seconds()))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
