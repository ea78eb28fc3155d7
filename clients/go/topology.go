package warrengate

import (
	"context"
	"errors"
	"io"
	"iter"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

const pageSize = 1000

// Topology manages the exchanges, queues and bindings of the client's tenant. The methods below have simple arguments
// and results; those of the embedded service have complete requests and responses.
type Topology struct {
	pb.TopologyClient
}

// DeclareQueue declares a queue; repeating it with the same arguments has no effect. It returns the queue's state.
func (t *Topology) DeclareQueue(ctx context.Context, queue *pb.Queue) (*pb.QueueStatus, error) {
	response, err := t.TopologyClient.DeclareQueue(ctx, &pb.DeclareQueueRequest{Queue: queue})
	return response.GetStatus(), err
}

// DeclareQuorumQueue declares a quorum queue with the defaults of the plan.
func (t *Topology) DeclareQuorumQueue(ctx context.Context, name string) error {
	_, err := t.DeclareQueue(ctx, &pb.Queue{Name: name, Type: pb.QueueType_QUEUE_TYPE_QUORUM})
	return err
}

// DeleteQueue deletes a queue with its messages, and returns their number.
func (t *Topology) DeleteQueue(ctx context.Context, name string) (uint64, error) {
	response, err := t.TopologyClient.DeleteQueue(ctx, &pb.DeleteQueueRequest{Name: name})
	return response.GetMessagesDeleted(), err
}

// PurgeQueue removes the ready messages of a queue, and returns their number.
func (t *Topology) PurgeQueue(ctx context.Context, name string) (uint64, error) {
	response, err := t.TopologyClient.PurgeQueue(ctx, &pb.PurgeQueueRequest{Name: name})
	return response.GetMessagesPurged(), err
}

// QueueStatus returns the depth, consumers and rates of a queue.
func (t *Topology) QueueStatus(ctx context.Context, name string) (*pb.QueueStatus, error) {
	response, err := t.GetQueue(ctx, &pb.GetQueueRequest{Name: name})
	return response.GetStatus(), err
}

// Queues iterates over the queues that the client may see, by name. An error is the last element.
func (t *Topology) Queues(ctx context.Context) iter.Seq2[*pb.QueueEntry, error] {
	return pages(func(token string) ([]*pb.QueueEntry, string, error) {
		page, err := t.ListQueues(ctx, &pb.ListQueuesRequest{PageSize: pageSize, PageToken: token})
		return page.GetQueues(), page.GetNextPageToken(), err
	})
}

// DeclareExchange declares an exchange; repeating it with the same arguments has no effect.
func (t *Topology) DeclareExchange(ctx context.Context, exchange *pb.Exchange) error {
	_, err := t.TopologyClient.DeclareExchange(ctx, &pb.DeclareExchangeRequest{Exchange: exchange})
	return err
}

// DeleteExchange deletes an exchange.
func (t *Topology) DeleteExchange(ctx context.Context, name string) error {
	_, err := t.TopologyClient.DeleteExchange(ctx, &pb.DeleteExchangeRequest{Name: name})
	return err
}

// Bind binds a queue, or an exchange, to an exchange; binding again has no effect.
func (t *Topology) Bind(ctx context.Context, binding *pb.Binding) error {
	_, err := t.TopologyClient.Bind(ctx, &pb.BindRequest{Binding: binding})
	return err
}

// Unbind removes a binding; removing a missing one has no effect.
func (t *Topology) Unbind(ctx context.Context, binding *pb.Binding) error {
	_, err := t.TopologyClient.Unbind(ctx, &pb.UnbindRequest{Binding: binding})
	return err
}

// DeadLetters lists, redrives and deletes dead letters.
type DeadLetters struct {
	stubs  pb.TopologyClient
	client *Client
}

// List iterates over dead letters, oldest first, without removing them. A nil filter selects all. An error is the last
// element.
func (d *DeadLetters) List(ctx context.Context, filter *pb.DeadLetterFilter) iter.Seq2[*pb.DeadLetter, error] {
	return pages(func(token string) ([]*pb.DeadLetter, string, error) {
		page, err := d.stubs.ListDeadLetters(ctx, &pb.ListDeadLettersRequest{Filter: filter, PageToken: token})
		return page.GetDeadLetters(), page.GetNextPageToken(), err
	})
}

// Redrive sends dead letters to the queues they come from, at most maxPerSecond unless that is 0, and returns the final
// report.
func (d *DeadLetters) Redrive(ctx context.Context, selection *pb.DeadLetterSelection, maxPerSecond uint32) (*pb.RedriveDeadLettersResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &pb.RedriveDeadLettersRequest{Selection: selection, MaxPerSecond: maxPerSecond}
	stream, err := d.stubs.RedriveDeadLetters(ctx, request)
	if err != nil {
		return nil, err
	}
	total := &pb.RedriveDeadLettersResponse{}
	for {
		progress, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, fromCall(ctx, err, d.client.connection.endpoint)
		}
		total.Redriven, total.Failed, total.Remaining = progress.GetRedriven(), progress.GetFailed(), progress.GetRemaining()
		total.Failures = append(total.Failures, progress.GetFailures()...)
	}
}

// Purge deletes dead letters, and returns their number.
func (d *DeadLetters) Purge(ctx context.Context, selection *pb.DeadLetterSelection) (uint64, error) {
	response, err := d.stubs.PurgeDeadLetters(ctx, &pb.PurgeDeadLettersRequest{Selection: selection})
	return response.GetPurged(), err
}

// OfQueue selects the dead letters of a queue.
func OfQueue(queue string) *pb.DeadLetterSelection {
	return &pb.DeadLetterSelection{Filter: &pb.DeadLetterFilter{Queue: queue}}
}

func pages[Item any](page func(token string) ([]Item, string, error)) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		token := ""
		for {
			items, next, err := page(token)
			if err != nil {
				var none Item
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if token = next; token == "" {
				return
			}
		}
	}
}
