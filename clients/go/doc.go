// Package warrengate is the client library of the Warrengate messaging gateway.
//
// A [Client] has one connection and one cached token. A [Publisher] returns exactly one outcome of each message. A
// [Consumer] calls a handler for each message, or is iterated over. Both survive restarts of the gateway and of its
// broker, renew the token on open streams, and leave a gateway that drains.
//
//	client, err := warrengate.FromEnv(ctx)
//	...
//	defer client.Close(ctx)
//	_, err = client.Publisher(warrengate.PublisherConfig{}).Publish(ctx, "orders", warrengate.Text("one order"))
package warrengate

// Version is the version of this library.
const Version = "0.1.0"
