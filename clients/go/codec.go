package warrengate

import (
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

// rawFrame is a frame of a publish stream that gRPC neither encodes nor decodes: a message without fields keeps all
// bytes as unknown fields. The frames of which a publisher has many are encoded and decoded here, several times as fast
// as by the generated code; whatever is not usual in them is left to the generated code.
type rawFrame = emptypb.Empty

func newRawFrame(encoded []byte) *rawFrame {
	frame := &rawFrame{}
	frame.ProtoReflect().SetUnknown(encoded)
	return frame
}

// outgoing is a message with its destination, before it is encoded.
type outgoing struct {
	exchange   string
	routingKey string
	message    *Message
	// messageSize is the encoded size of the message, and size that of the whole.
	messageSize int
	size        int
	// generated is present if the message is not usual.
	generated *pb.Publication
}

func newOutgoing(exchange, routingKey string, message *Message, options []PublishOption) (outgoing, error) {
	o := outgoing{exchange: exchange, routingKey: routingKey, message: message}
	isUsual := len(options) == 0 && len(message.Headers) == 0 && message.TTL == 0 && message.PublishTime.IsZero()
	if isUsual {
		o.measure()
		return o, o.checkTexts()
	}
	converted, err := toProto(message)
	if err != nil {
		return o, err
	}
	o.generated = &pb.Publication{Exchange: exchange, RoutingKey: routingKey, Message: converted}
	for _, option := range options {
		option(o.generated)
	}
	message.ID = converted.GetMessageId()
	o.size = proto.Size(o.generated)
	return o, nil
}

func (o *outgoing) measure() {
	m := o.message
	o.messageSize = bytesSize(len(m.Body)) + bytesSize(len(m.ID)) + bytesSize(len(m.CorrelationID)) + bytesSize(len(m.ReplyTo)) +
		bytesSize(len(m.ContentType)) + bytesSize(len(m.ContentEncoding)) + bytesSize(len(m.Type)) + bytesSize(len(m.AppID))
	if m.Priority > 0 {
		o.messageSize += 1 + protowire.SizeVarint(uint64(m.Priority))
	}
	if m.Transient {
		o.messageSize += 2
	}
	o.size = bytesSize(len(o.exchange)) + bytesSize(len(o.routingKey)) + 1 + protowire.SizeBytes(o.messageSize)
}

func (o *outgoing) checkTexts() error {
	m := o.message
	for _, text := range [...]string{
		o.exchange, o.routingKey, m.ID, m.CorrelationID, m.ReplyTo, m.ContentType, m.ContentEncoding, m.Type, m.AppID,
	} {
		if !utf8.ValidString(text) {
			return encodingError(fmt.Errorf("%q is not UTF-8", text))
		}
	}
	return nil
}

func encodingError(err error) *Error {
	return configurationError("the message cannot be encoded: %s", err)
}

// encode encodes it as a Publication without its sequence.
func (o *outgoing) encode() ([]byte, error) {
	if o.generated != nil {
		encoded, err := proto.Marshal(o.generated)
		if err != nil {
			return nil, encodingError(err)
		}
		return encoded, nil
	}
	m := o.message
	b := make([]byte, 0, o.size)
	b = appendText(b, 2, o.exchange)
	b = appendText(b, 3, o.routingKey)
	b = appendStart(b, 4, o.messageSize)
	if len(m.Body) > 0 {
		b = append(appendStart(b, 1, len(m.Body)), m.Body...)
	}
	b = appendText(b, 2, m.ID)
	b = appendText(b, 3, m.CorrelationID)
	b = appendText(b, 4, m.ReplyTo)
	b = appendText(b, 5, m.ContentType)
	b = appendText(b, 6, m.ContentEncoding)
	b = appendText(b, 7, m.Type)
	if m.Priority > 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, 10, protowire.VarintType), uint64(m.Priority))
	}
	if m.Transient {
		b = protowire.AppendVarint(protowire.AppendTag(b, 11, protowire.VarintType), uint64(pb.Durability_DURABILITY_TRANSIENT))
	}
	return appendText(b, 13, m.AppID), nil
}

// bytesSize is the size of a field with a number below 16, which is absent when it is empty.
func bytesSize(length int) int {
	if length == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(length)
}

func appendText(b []byte, field protowire.Number, text string) []byte {
	if text == "" {
		return b
	}
	return append(appendStart(b, field, len(text)), text...)
}

// appendStart appends the start of a field with a length.
func appendStart(b []byte, field protowire.Number, length int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(length)) //nolint:gosec // never negative
}

// appendPublications appends a frame of messages.
func appendPublications(b []byte, entries []*entry) []byte {
	size := 0
	for _, entry := range entries {
		size += 1 + protowire.SizeBytes(entry.encodedSize())
	}
	b = appendStart(b, 1, size)
	for _, entry := range entries {
		b = append(appendStart(b, 1, entry.encodedSize()), entry.encoded...)
		b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), entry.sequence)
	}
	return b
}

// encodedSize is the size as a Publication with its sequence.
func (e *entry) encodedSize() int { return len(e.encoded) + 1 + protowire.SizeVarint(e.sequence) }

// confirmed is the result of a message that the broker has stored.
type confirmed struct {
	sequence uint64
	traceID  string
}

// readConfirmed decodes a frame that has only results of stored messages, and reports whether it is one.
func readConfirmed(frame []byte) ([]confirmed, bool) {
	results, rest := consumeBytes(frame, 1)
	if results == nil || len(rest) > 0 {
		return nil, false
	}
	// A result has at least about 40 bytes, because it contains the id of the message.
	decoded := make([]confirmed, 0, len(results)/40+1)
	for len(results) > 0 {
		var result []byte
		if result, results = consumeBytes(results, 1); result == nil {
			return nil, false
		}
		one, ok := readResult(result)
		if !ok {
			return nil, false
		}
		decoded = append(decoded, one)
	}
	return decoded, true
}

func readResult(result []byte) (confirmed, bool) {
	var one confirmed
	outcome := pb.Outcome_OUTCOME_UNSPECIFIED
	for len(result) > 0 {
		field, kind, tag := protowire.ConsumeTag(result)
		if tag < 0 {
			return one, false
		}
		result = result[tag:]
		var length int
		switch {
		case field == 1 && kind == protowire.VarintType:
			one.sequence, length = protowire.ConsumeVarint(result)
		case field == 2 && kind == protowire.VarintType:
			var number uint64
			if number, length = protowire.ConsumeVarint(result); number > math.MaxInt32 {
				return one, false
			}
			outcome = pb.Outcome(number) //nolint:gosec // checked above
		case field == 3 && kind == protowire.BytesType:
			// The publisher has the ids of its messages.
			var id []byte
			if id, length = protowire.ConsumeBytes(result); !utf8.Valid(id) {
				return one, false
			}
		case field == 6 && kind == protowire.BytesType:
			var text []byte
			if text, length = protowire.ConsumeBytes(result); !utf8.Valid(text) {
				return one, false
			}
			one.traceID = string(text)
		default:
			return one, false
		}
		if length < 0 {
			return one, false
		}
		result = result[length:]
	}
	return one, outcome == pb.Outcome_OUTCOME_CONFIRMED
}

// consumeBytes returns the content of the first field, which must have this number, and the rest; nil for another one.
func consumeBytes(b []byte, number protowire.Number) (content, rest []byte) {
	field, kind, tag := protowire.ConsumeTag(b)
	if tag < 0 || field != number || kind != protowire.BytesType {
		return nil, nil
	}
	content, length := protowire.ConsumeBytes(b[tag:])
	if length < 0 {
		return nil, nil
	}
	return content, b[tag+length:]
}
