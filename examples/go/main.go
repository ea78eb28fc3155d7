// Warrengate in Go: a token, a queue, publishing, consuming. See ../README.md.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "warrengate.example/quickstart/generated/warrengate/v1"
)

const again = 200 * time.Millisecond // before a stream is opened again
const frame = 1000                   // the maximum number of messages in a frame

// gateway is one channel to the gateway, and a cached token.
type gateway struct {
	conn   *grpc.ClientConn
	cached *pb.IssueTokenResponse
}

func connect() *gateway {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(must(os.ReadFile(os.Getenv("WARRENGATE_CA"))))
	target := strings.TrimPrefix(os.Getenv("WARRENGATE_ENDPOINT"), "https://")
	secure := grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots}))
	alive := grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 10 * time.Second})
	return &gateway{conn: must(grpc.NewClient(target, secure, alive))}
}

func (g *gateway) token(ctx context.Context) string {
	// A stream that is told that its token expires needs a newer one, a minute ahead.
	if time.Until(g.cached.GetExpires().AsTime()) < 2*time.Minute {
		who := &pb.IssueTokenRequest{ClientId: os.Getenv("WARRENGATE_CLIENT_ID"), ClientSecret: os.Getenv("WARRENGATE_CLIENT_SECRET")}
		g.cached = must(pb.NewAuthClient(g.conn).IssueToken(ctx, who, grpc.WaitForReady(true)))
	}
	return g.cached.AccessToken
}

func (g *gateway) as(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+g.token(ctx))
}

// publication is a message for this queue. Its id lets consumers recognise a message that was sent twice.
func publication(ctx context.Context, sequence int, queue, body string) *pb.Publication {
	message := &pb.Message{Body: []byte(body), MessageId: uuid.NewString(), ContentType: "text/plain", Headers: map[string]*pb.Value{}}
	carrier := propagation.MapCarrier{}
	otel.GetTextMapPropagator().Inject(ctx, carrier) // consumers continue the current trace, if there is one
	for name, value := range carrier {
		message.Headers[name] = &pb.Value{Kind: &pb.Value_StringValue{StringValue: value}}
	}
	return &pb.Publication{Sequence: uint64(sequence), RoutingKey: queue, Message: message}
}

// publish sends all messages in order, over as many streams as needed, and reports each with its final outcome.
func publish(ctx context.Context, g *gateway, waiting []*pb.Publication, report func(*pb.Publication, pb.Outcome)) {
	for pause := again; len(waiting) > 0; time.Sleep(pause) {
		stream := must(pb.NewMessagingClient(g.conn).Publish(g.as(ctx), grpc.WaitForReady(true)))
		first := &pb.Publications{Publications: waiting[:min(len(waiting), frame)]}
		stream.Send(&pb.PublishRequest{Frame: &pb.PublishRequest_Publications{Publications: first}})
		stream.CloseSend() // an error of either comes out of Recv
		for response, err := stream.Recv(); ended(err) == false; response, err = stream.Recv() {
			for _, result := range response.GetResults().GetResults() {
				pause = max(again, result.GetRetryAfter().AsDuration())
				// UNKNOWN may be stored, THROTTLED is not: both are sent again, with the same id.
				if result.Outcome != pb.Outcome_OUTCOME_UNKNOWN && result.Outcome != pb.Outcome_OUTCOME_THROTTLED {
					at := slices.IndexFunc(waiting, func(p *pb.Publication) bool { return p.Sequence == result.Sequence })
					report(waiting[at], result.Outcome)
					waiting = slices.Delete(slices.Clone(waiting), at, at+1)
				}
			}
		}
	}
}

// consume passes each delivery to handle, which returns how to reject it (nil: acknowledge), while more are wanted.
func consume(ctx context.Context, g *gateway, queue string, handle func(*pb.Delivery) *pb.Nack, more func() bool) {
	for ; more(); time.Sleep(again) {
		stream := must(pb.NewMessagingClient(g.conn).Subscribe(g.as(ctx), grpc.WaitForReady(true)))
		stream.Send(&pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Start{Start: &pb.SubscribeStart{Queue: queue}}})
		for response, err := stream.Recv(); ended(err) == false; response, err = stream.Recv() {
			switch event := response.Event.(type) {
			case *pb.SubscribeResponse_Deliveries:
				ack := &pb.Ack{}
				for _, delivery := range event.Deliveries.Deliveries {
					ack.Through = delivery.DeliveryId
					if nack := handle(delivery); nack != nil {
						nack.DeliveryIds, nack.Reason = []uint64{delivery.DeliveryId}, "as the scenario says"
						stream.Send(&pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Nack{Nack: nack}})
					}
				}
				// One acknowledgement for the frame; rejected deliveries are settled already.
				stream.Send(&pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Ack{Ack: ack}})
				if !more() {
					stream.CloseSend() // the gateway settles, returns the rest and ends the stream
				}
			case *pb.SubscribeResponse_AuthExpiring:
				newer := &pb.SubscribeRequest_Reauthenticate{Reauthenticate: &pb.Reauthenticate{AccessToken: g.token(ctx)}}
				stream.Send(&pb.SubscribeRequest{Frame: newer})
				fmt.Println("token renewed")
			case *pb.SubscribeResponse_Draining:
				stream.CloseSend() // the next stream reaches another gateway
			}
		}
	}
}

// ended tells whether a stream is over; an error that a new stream cannot fix ends the program.
func ended(err error) bool {
	if err != nil && !errors.Is(err, io.EOF) && status.Code(err) != codes.Unavailable {
		log.Fatal(err)
	}
	return err != nil
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
