package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "warrengate.example/quickstart/generated/warrengate/v1"
)

func main() {
	var scenario struct {
		Orders     []string `json:"orders"`
		Nowhere    string   `json:"nowhere"`
		RetryOnce  string   `json:"retry_once"`
		DeadLetter string   `json:"dead_letter"`
	}
	must(scenario, json.Unmarshal(must(os.ReadFile("../scenario.json")), &scenario))
	ctx, g, queue := context.Background(), connect(), "quickstart-"+uuid.NewString()[:8]
	topology := pb.NewTopologyClient(g.conn)
	must(topology.DeclareQueue(g.as(ctx), &pb.DeclareQueueRequest{Queue: &pb.Queue{Name: queue}}, grpc.WaitForReady(true)))

	left, publications := map[string]bool{}, []*pb.Publication{publication(ctx, 0, queue+".nowhere", scenario.Nowhere)}
	for _, order := range scenario.Orders {
		left[order] = true
		publications = append(publications, publication(ctx, len(publications), queue, order))
	}
	publish(ctx, g, publications, func(p *pb.Publication, outcome pb.Outcome) {
		fmt.Printf("published %s: %s\n", p.Message.Body, strings.TrimPrefix(outcome.String(), "OUTCOME_"))
	})

	consume(ctx, g, queue, func(delivery *pb.Delivery) (nack *pb.Nack) {
		order, verdict := string(delivery.Message.Body), "done"
		delete(left, order)
		switch {
		case order == scenario.DeadLetter:
			nack, verdict = &pb.Nack{Action: pb.NackAction_NACK_ACTION_DEAD_LETTER}, "give up"
		case order == scenario.RetryOnce && delivery.Attempt == 1:
			delay := durationpb.New(4 * time.Second) // the broker keeps the message meanwhile
			nack, verdict, left[order] = &pb.Nack{Action: pb.NackAction_NACK_ACTION_RETRY, Delay: delay}, "try again", true
		}
		fmt.Printf("delivered %s, attempt %d: %s\n", order, delivery.Attempt, verdict)
		return nack
	}, func() bool { return len(left) > 0 })
	must(topology.DeleteQueue(g.as(ctx), &pb.DeleteQueueRequest{Name: queue}, grpc.WaitForReady(true)))
}
