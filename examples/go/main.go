// Warrengate in Go: a queue, publishing, consuming, a retry and a dead letter. ../README.md describes how to run it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/google/uuid"

	warrengate "github.com/warrengate/warrengate/clients/go"
)

const retryAfter = 4 * time.Second // the broker keeps the message meanwhile

func main() {
	var scenario struct {
		Orders     []string `json:"orders"`
		RetryOnce  string   `json:"retry_once"`
		DeadLetter string   `json:"dead_letter"`
		Nowhere    string   `json:"nowhere"`
	}
	check(json.Unmarshal(must(os.ReadFile("../scenario.json")), &scenario))
	ctx, queue := context.Background(), "quickstart-"+uuid.NewString()[:8]
	config := warrengate.ConfigFromEnv()
	config.OnEvent = func(event warrengate.Event) {
		if event.Kind == warrengate.EventReauthenticated {
			fmt.Println("token renewed")
		}
	}
	client := must(warrengate.Connect(ctx, config))
	defer client.Close(ctx)
	check(client.Topology.DeclareQuorumQueue(ctx, queue))

	publisher := client.Publisher(warrengate.PublisherConfig{})
	var receipts []*warrengate.Receipt
	for _, order := range scenario.Orders {
		receipts = append(receipts, must(publisher.Send(ctx, queue, warrengate.Text(order))))
	}
	receipts = append(receipts, must(publisher.Send(ctx, queue+".nowhere", warrengate.Text(scenario.Nowhere))))
	for at, order := range append(scenario.Orders, scenario.Nowhere) {
		outcome := warrengate.Outcome("CONFIRMED")
		var failure *warrengate.Error
		if _, err := receipts[at].Wait(ctx); errors.As(err, &failure) {
			outcome = failure.Outcome
		}
		fmt.Printf("published %s: %s\n", order, outcome)
	}

	left, finished := map[string]bool{}, make(chan struct{}) // orders neither acknowledged nor dead-lettered
	for _, order := range scenario.Orders {
		left[order] = true
	}
	consumer := must(client.Consume(ctx, queue, func(_ context.Context, delivery *warrengate.Delivery) error {
		order, result := delivery.Message.Text(), "done" // returning nil acknowledges, unless the delivery was settled otherwise
		switch {
		case order == scenario.DeadLetter:
			result = "give up"
			delivery.DeadLetter("required by the scenario")
		case order == scenario.RetryOnce && delivery.Attempt == 1:
			result = "try again"
			delivery.Retry(retryAfter, "required by the scenario")
		}
		fmt.Printf("delivered %s, attempt %d: %s\n", order, delivery.Attempt, result)
		if before := len(left); result != "try again" {
			if delete(left, order); before == 1 && len(left) == 0 {
				close(finished)
			}
		}
		return nil
	}, warrengate.ConsumeConfig{}))
	<-finished
	check(consumer.Close(ctx))
	must(client.Topology.DeleteQueue(ctx, queue))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}
