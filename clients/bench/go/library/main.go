// Command library is the library's side of the measurement.
package main

import (
	"context"

	warrengate "github.com/warrengate/warrengate/clients/go"

	"warrengate.example/bench/program"
)

func main() {
	ctx := context.Background()
	client, err := warrengate.FromEnv(ctx)
	program.Check(err)
	publisher := client.Publisher(warrengate.PublisherConfig{})
	program.Serve(map[string]func(program.Command){
		"publish": func(command program.Command) {
			body := make([]byte, command.Size)
			for first := 0; first < command.Count; first += command.Window {
				receipts := make([]*warrengate.Receipt, 0, command.Window)
				for range min(command.Window, command.Count-first) {
					receipt, err := publisher.Send(ctx, command.Queue, warrengate.Message{Body: body})
					program.Check(err)
					receipts = append(receipts, receipt)
				}
				for _, receipt := range receipts {
					_, err := receipt.Wait(ctx)
					program.Check(err)
				}
			}
		},
		"consume": func(command program.Command) {
			left, done := command.Count, make(chan struct{})
			handle := func(context.Context, *warrengate.Delivery) error {
				if left--; left == 0 {
					close(done)
				}
				return nil
			}
			consumer, err := client.Consume(ctx, command.Queue, handle, warrengate.ConsumeConfig{Window: command.Prefetch})
			program.Check(err)
			<-done
			program.Check(consumer.Close(ctx))
		},
	})
}
