// Command resilient publishes and consumes orders; the Go guide contains it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"

	warrengate "github.com/warrengate/warrengate/clients/go"
)

func main() {
	ctx := context.Background()
	client, err := warrengate.FromEnv(ctx)
	check(err)
	check(client.Topology.DeclareQuorumQueue(ctx, "shipping"))
	consumer, err := client.Consume(ctx, "shipping", func(_ context.Context, delivery *warrengate.Delivery) error {
		fmt.Println("shipped", delivery.Message.Text())
		return nil // acknowledges; an error retries
	}, warrengate.ConsumeConfig{Concurrency: 4})
	check(err)
	publisher := client.Publisher(warrengate.PublisherConfig{})
	for number := 0; number < 2000; {
		message := warrengate.Message{Body: fmt.Appendf(nil, "order %d", number), ID: fmt.Sprintf("order-%d", number)}
		if _, err := publisher.Publish(ctx, "shipping", message); err == nil {
			number++
		} else if failure, is := errors.AsType[*warrengate.Error](err); !is || !failure.Retryable { // after a minute
			log.Fatal(err)
		}
	}
	check(consumer.Wait(ctx))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
