// Package warrengate is the client library of the Warrengate messaging gateway.
//
// A [Client] holds one connection and one cached token. A [Publisher] gives each message exactly one outcome. A [Consumer]
// calls a handler for each message, or is iterated over. Both survive restarts of the gateway and of its broker, renew the
// token on open streams, and follow a gateway that drains.
//
//	client, err := warrengate.FromEnv(ctx)
//	...
//	defer client.Close(ctx)
//	_, err = client.Publisher(warrengate.PublisherConfig{}).Publish(ctx, "orders", warrengate.Text("one order"))
package warrengate

// Version is the version of this library.
const Version = "0.1.0"
