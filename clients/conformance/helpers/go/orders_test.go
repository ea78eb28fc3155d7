package orders

import (
	"context"
	"testing"

	warrengate "github.com/warrengate/warrengate/clients/go"
	"github.com/warrengate/warrengate/clients/go/warrengatetest"
)

func TestMain(m *testing.M) { warrengatetest.Main(m) }

// Two tests: the tenant of the second one must be new.
func TestANewTenantHasNoMessages(t *testing.T)       { order(t) }
func TestAnotherNewTenantHasNoMessages(t *testing.T) { order(t) }

func order(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	client := warrengatetest.NewTenant(t).Connect(t)
	if err := client.Topology.DeclareQuorumQueue(ctx, "orders"); err != nil {
		t.Fatal(err)
	}
	expect(t, client, 0)
	if _, err := client.Publisher(warrengate.PublisherConfig{}).Publish(ctx, "orders", warrengate.Text("order 1")); err != nil {
		t.Fatal(err)
	}
	expect(t, client, 1)
}

func expect(t *testing.T, client *warrengate.Client, ready uint64) {
	t.Helper()
	status, err := client.Topology.QueueStatus(context.Background(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	if status.GetMessagesReady() != ready {
		t.Fatalf("%d messages instead of %d", status.GetMessagesReady(), ready)
	}
}
