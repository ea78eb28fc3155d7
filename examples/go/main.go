// Warrengate in Go: a token, a queue, publishing, consuming. README.md says how to run it.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
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
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "warrengate.example/quickstart/generated/warrengate/v1"
)

const again = 200 * time.Millisecond // before a stream is opened again

// gateway is one channel to the gateway, and tokens for it.
type gateway struct{ conn *grpc.ClientConn }

func connect() gateway {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(must(os.ReadFile(os.Getenv("WARRENGATE_CA"))))
	target := strings.TrimPrefix(os.Getenv("WARRENGATE_ENDPOINT"), "https://")
	return gateway{must(grpc.NewClient(target, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots}))))}
}

func (g gateway) token(ctx context.Context) string {
	who := &pb.IssueTokenRequest{ClientId: os.Getenv("WARRENGATE_CLIENT_ID"), ClientSecret: os.Getenv("WARRENGATE_CLIENT_SECRET")}
	return must(pb.NewAuthClient(g.conn).IssueToken(ctx, who, grpc.WaitForReady(true))).AccessToken
}

func (g gateway) as(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+g.token(ctx))
}

// publication goes to the queue of that name. The id is the caller's, so that a message sent twice can be recognised.
func publication(ctx context.Context, sequence int, queue, body string) *pb.Publication {
	message := &pb.Message{Body: []byte(body), MessageId: uuid.NewString(), ContentType: "text/plain", Headers: map[string]*pb.Value{}}
	carrier := propagation.MapCarrier{}
	otel.GetTextMapPropagator().Inject(ctx, carrier) // the caller's trace goes on in whoever consumes the message
	for name, value := range carrier {
		message.Headers[name] = &pb.Value{Kind: &pb.Value_StringValue{StringValue: value}}
	}
	return &pb.Publication{Sequence: uint64(sequence), RoutingKey: queue, Message: message}
}

// publish sends all, over as many streams as it takes, and reports each with its final outcome.
func publish(ctx context.Context, g gateway, publications []*pb.Publication, report func(*pb.Publication, pb.Outcome)) {
	waiting := map[uint64]*pb.Publication{}
	for _, p := range publications {
		waiting[p.Sequence] = p
	}
	for ; len(waiting) > 0; time.Sleep(again) {
		stream := must(pb.NewMessagingClient(g.conn).Publish(g.as(ctx), grpc.WaitForReady(true)))
		frame := &pb.Publications{Publications: slices.Collect(maps.Values(waiting))}
		stream.Send(&pb.PublishRequest{Frame: &pb.PublishRequest_Publications{Publications: frame}})
		stream.CloseSend() // an error of either comes out of Recv
		for response, err := stream.Recv(); ended(err) == false; response, err = stream.Recv() {
			for _, result := range response.GetResults().GetResults() {
				// UNKNOWN may be stored, THROTTLED is not: both are sent again, with the same id.
				if result.Outcome != pb.Outcome_OUTCOME_UNKNOWN && result.Outcome != pb.Outcome_OUTCOME_THROTTLED {
					report(waiting[result.Sequence], result.Outcome)
					delete(waiting, result.Sequence)
				}
			}
		}
	}
}

// consume hands each delivery to handle, which returns what becomes of it (nil: done), while more is wanted.
func consume(ctx context.Context, g gateway, queue string, handle func(*pb.Delivery) *pb.Nack, more func() bool) {
	for ; more(); time.Sleep(again) {
		stream := must(pb.NewMessagingClient(g.conn).Subscribe(g.as(ctx), grpc.WaitForReady(true)))
		stream.Send(&pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Start{Start: &pb.SubscribeStart{Queue: queue}}})
		for response, err := stream.Recv(); ended(err) == false; response, err = stream.Recv() {
			switch event := response.Event.(type) {
			case *pb.SubscribeResponse_Deliveries:
				for _, delivery := range event.Deliveries.Deliveries {
					stream.Send(settlement([]uint64{delivery.DeliveryId}, handle(delivery)))
				}
				if !more() {
					stream.CloseSend() // the gateway settles, hands back the rest and ends the stream
				}
			case *pb.SubscribeResponse_AuthExpiring:
				newer := &pb.SubscribeRequest_Reauthenticate{Reauthenticate: &pb.Reauthenticate{AccessToken: g.token(ctx)}}
				stream.Send(&pb.SubscribeRequest{Frame: newer})
				fmt.Println("token renewed")
			case *pb.SubscribeResponse_Draining:
				stream.CloseSend() // and the next stream reaches another gateway
			}
		}
	}
}

func settlement(ids []uint64, nack *pb.Nack) *pb.SubscribeRequest {
	if nack == nil {
		return &pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Ack{Ack: &pb.Ack{DeliveryIds: ids}}}
	}
	nack.DeliveryIds, nack.Reason = ids, "as the scenario says"
	return &pb.SubscribeRequest{Frame: &pb.SubscribeRequest_Nack{Nack: nack}}
}

// ended says whether a stream is over; what a new stream cannot mend ends the program.
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
