// Command amqp is amqp091-go, as its documentation shows it.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"

	"warrengate.example/bench/program"
)

func main() {
	authority, err := os.ReadFile(os.Getenv("BENCH_CA"))
	program.Check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	certificate, err := tls.LoadX509KeyPair(os.Getenv("BENCH_CERTIFICATE"), os.Getenv("BENCH_KEY"))
	program.Check(err)
	url := fmt.Sprintf("amqps://localhost:%s/%s", os.Getenv("BENCH_PORT"), os.Getenv("BENCH_VHOST"))
	configuration := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	connection, err := amqp.DialTLS_ExternalAuth(url, configuration)
	program.Check(err)
	publishing, err := connection.Channel()
	program.Check(err)
	program.Check(publishing.Confirm(false))
	program.Serve(map[string]func(program.Command){
		"publish": func(command program.Command) {
			body := make([]byte, command.Size)
			for first := 0; first < command.Count; first += command.Window {
				confirms := make([]*amqp.DeferredConfirmation, 0, command.Window)
				for range min(command.Window, command.Count-first) {
					message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body}
					confirm, err := publishing.PublishWithDeferredConfirmWithContext(context.Background(), "", command.Queue, true, false, message)
					program.Check(err)
					confirms = append(confirms, confirm)
				}
				for _, confirm := range confirms {
					if !confirm.Wait() {
						program.Check(fmt.Errorf("a message was refused"))
					}
				}
			}
		},
		"consume": func(command program.Command) {
			channel, err := connection.Channel()
			program.Check(err)
			program.Check(channel.Qos(command.Prefetch, 0, false))
			deliveries, err := channel.Consume(command.Queue, "", false, false, false, false, nil)
			program.Check(err)
			for range command.Count {
				delivery := <-deliveries
				program.Check(delivery.Ack(false))
			}
			program.Check(channel.Close())
		},
	})
}
