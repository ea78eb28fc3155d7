package warrengate

import (
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

// Message is a body and its properties.
type Message struct {
	// Body is the payload.
	Body []byte
	// ID identifies the message for its consumers. The publisher generates it when it is empty.
	ID string
	// CorrelationID relates a reply to its request.
	CorrelationID string
	// ReplyTo is the queue for the reply.
	ReplyTo string
	// ContentType is the MIME type of the body.
	ContentType string
	// ContentEncoding is the encoding of the body, as in HTTP.
	ContentEncoding string
	// Type is the kind of message, such as "order.created".
	Type string
	// AppID is the application that published it.
	AppID string
	// Priority is 0 to 255.
	Priority uint8
	// TTL is the maximum time in a queue; zero sets no limit.
	TTL time.Duration
	// Transient means that it may be lost when the broker restarts.
	Transient bool
	// PublishTime is when it was published, in whole seconds. The gateway sets it when it is zero.
	PublishTime time.Time
	// Headers contain nil, bool, string, int, int64, float64, []byte, time.Time, []any and map[string]any.
	Headers map[string]any
}

// Text returns a message with a text as its body.
func Text(body string) Message { return Message{Body: []byte(body)} }

// Bytes returns a message with this body.
func Bytes(body []byte) Message { return Message{Body: body} }

// Text returns the body as text.
func (m *Message) Text() string { return string(m.Body) }

func toProto(message *Message) (*pb.Message, error) {
	result := &pb.Message{
		Body: message.Body, MessageId: message.ID, CorrelationId: message.CorrelationID, ReplyTo: message.ReplyTo,
		ContentType: message.ContentType, ContentEncoding: message.ContentEncoding, Type: message.Type,
		AppId: message.AppID, Priority: uint32(message.Priority),
	}
	if message.TTL != 0 {
		result.Ttl = durationpb.New(message.TTL)
	}
	if message.Transient {
		result.Durability = pb.Durability_DURABILITY_TRANSIENT
	}
	if !message.PublishTime.IsZero() {
		result.PublishTime = timestamppb.New(message.PublishTime)
	}
	var err error
	result.Headers, err = toTable(message.Headers)
	return result, err
}

func toTable(values map[string]any) (map[string]*pb.Value, error) {
	if len(values) == 0 {
		return nil, nil
	}
	result := make(map[string]*pb.Value, len(values))
	for name, value := range values {
		converted, err := toValue(value)
		if err != nil {
			return nil, configurationError("header %q: %s", name, err)
		}
		result[name] = converted
	}
	return result, nil
}

func toValue(value any) (*pb.Value, error) {
	switch value := value.(type) {
	case nil:
		return &pb.Value{Kind: &pb.Value_NullValue{}}, nil
	case bool:
		return &pb.Value{Kind: &pb.Value_BoolValue{BoolValue: value}}, nil
	case string:
		return &pb.Value{Kind: &pb.Value_StringValue{StringValue: value}}, nil
	case int:
		return &pb.Value{Kind: &pb.Value_IntValue{IntValue: int64(value)}}, nil
	case int64:
		return &pb.Value{Kind: &pb.Value_IntValue{IntValue: value}}, nil
	case float64:
		return &pb.Value{Kind: &pb.Value_DoubleValue{DoubleValue: value}}, nil
	case []byte:
		return &pb.Value{Kind: &pb.Value_BytesValue{BytesValue: value}}, nil
	case time.Time:
		return &pb.Value{Kind: &pb.Value_TimestampValue{TimestampValue: timestamppb.New(value)}}, nil
	case []any:
		list := &pb.ValueList{}
		for _, item := range value {
			converted, err := toValue(item)
			if err != nil {
				return nil, err
			}
			list.Values = append(list.Values, converted)
		}
		return &pb.Value{Kind: &pb.Value_ListValue{ListValue: list}}, nil
	case map[string]any:
		entries, err := toTable(value)
		if err != nil {
			return nil, err
		}
		return &pb.Value{Kind: &pb.Value_TableValue{TableValue: &pb.ValueTable{Entries: entries}}}, nil
	}
	return nil, fmt.Errorf("a header cannot have the type %T", value)
}

func fromProto(message *pb.Message) Message {
	result := Message{
		Body: message.GetBody(), ID: message.GetMessageId(), CorrelationID: message.GetCorrelationId(),
		ReplyTo: message.GetReplyTo(), ContentType: message.GetContentType(),
		ContentEncoding: message.GetContentEncoding(), Type: message.GetType(), AppID: message.GetAppId(),
		Priority: uint8(min(message.GetPriority(), 255)), TTL: message.GetTtl().AsDuration(), //nolint:gosec // at most 255
		Transient: message.GetDurability() == pb.Durability_DURABILITY_TRANSIENT,
	}
	if message.GetPublishTime() != nil {
		result.PublishTime = message.GetPublishTime().AsTime()
	}
	if headers := message.GetHeaders(); len(headers) > 0 {
		result.Headers = fromTable(headers)
	}
	return result
}

func fromTable(values map[string]*pb.Value) map[string]any {
	result := make(map[string]any, len(values))
	for name, value := range values {
		result[name] = fromValue(value)
	}
	return result
}

func fromValue(value *pb.Value) any {
	switch kind := value.GetKind().(type) {
	case *pb.Value_StringValue:
		return kind.StringValue
	case *pb.Value_IntValue:
		return kind.IntValue
	case *pb.Value_DoubleValue:
		return kind.DoubleValue
	case *pb.Value_BoolValue:
		return kind.BoolValue
	case *pb.Value_BytesValue:
		return kind.BytesValue
	case *pb.Value_TimestampValue:
		return kind.TimestampValue.AsTime()
	case *pb.Value_ListValue:
		list := make([]any, 0, len(kind.ListValue.GetValues()))
		for _, item := range kind.ListValue.GetValues() {
			list = append(list, fromValue(item))
		}
		return list
	case *pb.Value_TableValue:
		return fromTable(kind.TableValue.GetEntries())
	}
	return nil
}

// copyHeaders copies the headers, so that the caller's map is never changed.
func (m *Message) copyHeaders() {
	m.Headers = maps.Clone(m.Headers)
}
