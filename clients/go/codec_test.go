package warrengate

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

// seeds is the number of random frames; a failing one is named, and can be repeated alone.
const seeds = 2_000

func forRandomFrames(t *testing.T, test func(*testing.T, *rand.Rand)) {
	t.Helper()
	for seed := range uint64(seeds) {
		if !t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { test(t, rand.New(rand.NewPCG(seed, 0))) }) { //nolint:gosec // reproducible
			return
		}
	}
}

func pick[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

// randomText often has a length at which the size of the length changes.
func randomText(random *rand.Rand) string {
	if random.IntN(3) == 0 {
		return ""
	}
	text := strings.Repeat(pick(random, "o", "ü", "注", "🙂"), pick(random, 1, 7, 31, 32, 127, 128, 300))
	return pick(random, text, "orders", "a.b."+text)
}

func randomMessage(random *rand.Rand) Message {
	message := Message{
		Body: make([]byte, pick(random, 0, 1, 127, 128, 256, 16_383, 16_384)), ID: randomText(random), CorrelationID: randomText(random),
		ReplyTo: randomText(random), ContentType: randomText(random), ContentEncoding: randomText(random), Type: randomText(random),
		AppID: randomText(random), Priority: uint8(random.UintN(256)) * uint8(random.UintN(2)), Transient: random.IntN(2) == 0, //nolint:gosec // small
	}
	for index := range message.Body {
		message.Body[index] = byte(random.Uint32()) //nolint:gosec // any byte
	}
	switch random.IntN(8) {
	case 0:
		message.TTL = time.Duration(random.Int64N(int64(time.Hour)))
	case 1:
		message.PublishTime = time.Unix(random.Int64N(1<<33), 0)
	case 2:
		message.Headers = map[string]any{"text": randomText(random), "number": random.Int64(), "list": []any{nil, true, 0.5}}
	}
	return message
}

func TestFramesOfMessagesAreEncodedLikeByTheGeneratedCode(t *testing.T) {
	forRandomFrames(t, func(t *testing.T, random *rand.Rand) {
		expected := &pb.Publications{}
		var entries []*entry
		for range random.IntN(6) {
			message, exchange, key := randomMessage(random), randomText(random), randomText(random)
			converted, err := toProto(&message)
			if err != nil {
				t.Fatal(err)
			}
			publication := &pb.Publication{Exchange: exchange, RoutingKey: key, Message: converted}
			var options []PublishOption
			if random.IntN(4) == 0 {
				options = append(options, AllowUnroutable())
				publication.AllowUnroutable = true
			}
			own, err := newOutgoing(exchange, key, &message, options)
			if err != nil {
				t.Fatal(err)
			}
			encoded, err := own.encode()
			if err != nil {
				t.Fatal(err)
			}
			if own.size != len(encoded) || own.size != proto.Size(publication) {
				t.Errorf("the size is %d, not %d: %v", own.size, proto.Size(publication), publication)
			}
			publication.Sequence = max(1, random.Uint64()>>random.UintN(64))
			entries = append(entries, &entry{encoded: encoded, sequence: publication.GetSequence()})
			expected.Publications = append(expected.Publications, publication)
		}
		request := &pb.PublishRequest{}
		if err := proto.Unmarshal(appendPublications(nil, entries), request); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(request.GetPublications(), expected) {
			t.Errorf("got %v, not %v", request.GetPublications(), expected)
		}
	})
}

func TestFramesOfResultsAreDecodedLikeByTheGeneratedCode(t *testing.T) {
	fast := 0
	forRandomFrames(t, func(t *testing.T, random *rand.Rand) {
		results := &pb.PublishResults{}
		isUsual := random.IntN(3) > 0
		for range random.IntN(6) + 1 {
			result := &pb.PublishResult{
				Sequence: random.Uint64() >> random.UintN(64), Outcome: pb.Outcome_OUTCOME_CONFIRMED, MessageId: randomText(random), TraceId: randomText(random),
			}
			if !isUsual {
				result.Outcome, result.Reason = pb.Outcome(random.Int32N(9)-1), randomText(random) //nolint:gosec // small
				if random.IntN(4) == 0 {
					result.RetryAfter = durationpb.New(time.Second)
				}
			}
			results.Results = append(results.Results, result)
		}
		frame, err := proto.Marshal(&pb.PublishResponse{Event: &pb.PublishResponse_Results{Results: results}})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := readConfirmed(frame); isUsual && !ok {
			t.Errorf("not decoded: %v", results)
		}
		// Also when it is cut off, damaged or has more fields.
		damaged := append([]byte{}, frame...)
		damaged[random.IntN(len(frame))] ^= 1 << random.UintN(8)
		for _, frame := range [][]byte{frame, frame[:random.IntN(len(frame))], damaged, append(damaged, frame...), append(frame, 0x78, 1)} {
			if own, ok := readConfirmed(frame); ok {
				checkConfirmed(t, frame, own)
				fast++
			}
		}
	})
	if fast < seeds/2 {
		t.Errorf("only %d frames were decoded", fast)
	}
}

func checkConfirmed(t *testing.T, frame []byte, own []confirmed) {
	t.Helper()
	response := &pb.PublishResponse{}
	if err := proto.Unmarshal(frame, response); err != nil {
		t.Fatalf("decoded %x, which is %v", frame, err)
	}
	results := response.GetResults().GetResults()
	if len(results) != len(own) {
		t.Fatalf("decoded %v, not %v", own, results)
	}
	for index, result := range results {
		is := confirmed{sequence: result.GetSequence(), traceID: result.GetTraceId()}
		if result.GetOutcome() != pb.Outcome_OUTCOME_CONFIRMED || result.GetReason() != "" || is != own[index] {
			t.Errorf("decoded %v, not %v", own[index], result)
		}
	}
}

func TestOtherFramesAreLeftToTheGeneratedCode(t *testing.T) {
	for _, response := range []*pb.PublishResponse{
		{},
		{Event: &pb.PublishResponse_AuthExpiring{AuthExpiring: &pb.AuthExpiring{}}},
		{Event: &pb.PublishResponse_Draining{Draining: &pb.Draining{}}},
	} {
		frame, err := proto.Marshal(response)
		if err != nil {
			t.Fatal(err)
		}
		if own, ok := readConfirmed(frame); ok {
			t.Errorf("%v was decoded as %v", response, own)
		}
	}
}

func TestATextThatIsNotUTF8IsRefusedForItsOwnMessageOnly(t *testing.T) {
	for _, message := range []Message{
		{ID: "\xff"}, {Type: "a\xc3"}, {AppID: "\xff", TTL: time.Second}, {Headers: map[string]any{"text": "\xff"}},
	} {
		own, err := newOutgoing("", "orders", &message, nil)
		if err == nil {
			_, err = own.encode()
		}
		failure, ok := err.(*Error) //nolint:errorlint // not wrapped
		if !ok || failure.Reason != "CONFIGURATION" {
			t.Errorf("%v: got %v", message, err)
		}
	}
}

func TestMessageIDsAreRandomUUIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		id := messageIDs.next()
		if len(id) != 36 || id[14] != '4' || !strings.ContainsRune("89ab", rune(id[19])) || seen[id] {
			t.Fatalf("%q is not a UUID, or was generated before", id)
		}
		seen[id] = true
	}
}
