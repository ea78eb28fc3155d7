// Command conformance is the driver of the Go library; clients/conformance/README.md describes the protocol.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	warrengate "github.com/warrengate/warrengate/clients/go"
	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

type object = map[string]any

type rule struct {
	Prefix   string `json:"prefix"`
	Attempts *int   `json:"attempts"`
	Then     string `json:"then"`
	DelayMS  *int64 `json:"delay_ms"`
	Reason   string `json:"reason"`
}

type command struct {
	ID                  json.RawMessage `json:"id"`
	Do                  string          `json:"do"`
	Client              string          `json:"client"`
	FromEnv             bool            `json:"from_env"`
	Endpoint            *string         `json:"endpoint"`
	CA                  *string         `json:"ca"`
	ClientID            *string         `json:"client_id"`
	ClientSecret        *string         `json:"client_secret"`
	Token               *string         `json:"token"`
	TokenLifetimeMS     int64           `json:"token_lifetime_ms"`
	ConnectTimeoutMS    int64           `json:"connect_timeout_ms"`
	TimeoutMS           int64           `json:"timeout_ms"`
	Name                string          `json:"name"`
	Type                string          `json:"type"`
	MaxLength           uint64          `json:"max_length"`
	MaxDeliveryAttempts uint32          `json:"max_delivery_attempts"`
	RetryMinMS          int64           `json:"retry_min_ms"`
	RetryMaxMS          int64           `json:"retry_max_ms"`
	Source              string          `json:"source"`
	Destination         string          `json:"destination"`
	RoutingKey          string          `json:"routing_key"`
	Queue               string          `json:"queue"`
	Publisher           string          `json:"publisher"`
	Exchange            string          `json:"exchange"`
	MaxInFlight         int             `json:"max_in_flight"`
	BatchMessages       int             `json:"batch_messages"`
	RetryThrottled      *bool           `json:"retry_throttled"`
	Prefix              string          `json:"prefix"`
	Count               int             `json:"count"`
	Size                int             `json:"size"`
	IntervalMS          int64           `json:"interval_ms"`
	Message             json.RawMessage `json:"message"`
	Consumer            string          `json:"consumer"`
	Form                string          `json:"form"`
	Concurrency         int             `json:"concurrency"`
	Window              int             `json:"window"`
	LeaseMS             int64           `json:"lease_ms"`
	MaxLeaseMS          int64           `json:"max_lease_ms"`
	Position            string          `json:"position"`
	WorkMS              int64           `json:"work_ms"`
	Rules               []rule          `json:"rules"`
	Full                bool            `json:"full"`
	Body                string          `json:"body"`
}

func millis(count int64) time.Duration { return time.Duration(count) * time.Millisecond }

type observed struct {
	work     time.Duration
	rules    []rule
	consumer *warrengate.Consumer

	mu         sync.Mutex
	order      []string
	keys       map[string]*[2]int
	total      int
	running    int
	maxRunning int
	maxAttempt int
	last       *warrengate.Message
	unsettled  []*warrengate.Delivery
}

func keyOf(body []byte) string {
	key, _, _ := strings.Cut(string(body[:min(len(body), 200)]), ":")
	return strings.ToValidUTF8(key, "?")
}

func (w *observed) arrive(delivery *warrengate.Delivery) rule {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := keyOf(delivery.Body())
	seen := w.keys[key]
	if seen == nil {
		seen = &[2]int{}
		w.keys[key] = seen
		w.order = append(w.order, key)
	}
	seen[0]++
	seen[1] = max(seen[1], delivery.Attempt)
	w.total++
	w.maxAttempt = max(w.maxAttempt, delivery.Attempt)
	w.last = &delivery.Message
	for _, rule := range w.rules {
		if strings.HasPrefix(key, rule.Prefix) && (rule.Attempts == nil || delivery.Attempt <= *rule.Attempts) {
			return rule
		}
	}
	return rule{Then: "ack"}
}

func (w *observed) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running++
	w.maxRunning = max(w.maxRunning, w.running)
}

func (w *observed) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
}

func (w *observed) handle(ctx context.Context, delivery *warrengate.Delivery) error {
	rule := w.arrive(delivery)
	w.begin()
	defer w.end()
	time.Sleep(w.work)
	switch rule.Then {
	case "fail":
		return errors.New("this case requires the handler to fail")
	case "stuck":
		<-ctx.Done()
		return ctx.Err()
	default:
		settle(delivery, rule)
	}
	return nil
}

func settle(delivery *warrengate.Delivery, rule rule) {
	switch rule.Then {
	case "retry":
		delay := warrengate.Backoff
		if rule.DelayMS != nil {
			delay = millis(*rule.DelayMS)
		}
		delivery.Retry(delay, rule.Reason)
	case "dead_letter":
		delivery.DeadLetter(rule.Reason)
	case "drop":
		delivery.Drop()
	}
}

func (w *observed) iterate(concurrency int) {
	slots := make(chan struct{}, concurrency)
	for delivery, err := range w.consumer.All(context.Background()) {
		if err != nil {
			return
		}
		slots <- struct{}{}
		go func() {
			rule := w.arrive(delivery)
			w.begin()
			time.Sleep(w.work)
			switch rule.Then {
			case "hold":
				w.mu.Lock()
				w.unsettled = append(w.unsettled, delivery)
				w.mu.Unlock()
			case "fail":
				delivery.Retry(warrengate.Backoff, "")
			case "ack":
				delivery.Ack()
			default:
				settle(delivery, rule)
			}
			w.end()
			<-slots
		}()
	}
}

type driver struct {
	mu         sync.Mutex
	clients    map[string]*warrengate.Client
	events     map[string][]string
	publishers map[string]*warrengate.Publisher
	consumers  map[string]*observed
}

func find[Item any](d *driver, items map[string]Item, name string) Item {
	d.mu.Lock()
	defer d.mu.Unlock()
	return items[name]
}

func (d *driver) execute(ctx context.Context, c *command) (object, error) {
	client := find(d, d.clients, c.Client)
	switch c.Do {
	case "hello":
		return object{"protocol": 1, "language": "go", "library": warrengate.Version}, nil
	case "connect":
		return d.connect(ctx, c)
	case "close":
		ctx, cancel := within(ctx, c.TimeoutMS)
		defer cancel()
		_ = client.Close(ctx) // handlers that did not end in time are part of some cases
		return object{}, nil
	case "events":
		d.mu.Lock()
		defer d.mu.Unlock()
		return object{"events": append([]string{}, d.events[c.Client]...)}, nil
	case "whoami":
		who, err := client.WhoAmI(ctx)
		return object{"tenant": who.GetTenant(), "client_id": who.GetClientId()}, err
	case "publisher":
		d.mu.Lock()
		defer d.mu.Unlock()
		d.publishers[c.Publisher] = client.Publisher(warrengate.PublisherConfig{
			Exchange: c.Exchange, MaxInFlight: c.MaxInFlight, BatchMessages: c.BatchMessages, Timeout: millis(c.TimeoutMS),
			FailThrottled: c.RetryThrottled != nil && !*c.RetryThrottled,
		})
		return object{}, nil
	case "publish":
		return publish(ctx, find(d, d.publishers, c.Publisher), c)
	case "publish_message":
		return publishMessage(ctx, find(d, d.publishers, c.Publisher), c)
	case "consume":
		return d.consume(ctx, client, c)
	case "settle_held":
		return find(d, d.consumers, c.Consumer).settleUnsettled(), nil
	case "report":
		return find(d, d.consumers, c.Consumer).report(c.Full), nil
	case "stop":
		ctx, cancel := within(ctx, c.TimeoutMS)
		defer cancel()
		_ = find(d, d.consumers, c.Consumer).consumer.Close(ctx)
		return object{}, nil
	case "respond":
		_, err := client.Respond(ctx, c.Queue, func(_ context.Context, delivery *warrengate.Delivery) (warrengate.Message, error) {
			return warrengate.Text(strings.ToUpper(delivery.Message.Text())), nil
		})
		return object{}, err
	case "request":
		ctx, cancel := within(ctx, c.TimeoutMS)
		defer cancel()
		reply, err := client.Request(ctx, c.RoutingKey, warrengate.Text(c.Body))
		return object{"body": reply.Text()}, err
	}
	return plain(ctx, client, c)
}

func within(ctx context.Context, timeout int64) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithTimeout(ctx, 30*time.Second)
	}
	return context.WithTimeout(ctx, millis(timeout))
}

// plain executes the calls of topology, dead letters and administration.
func plain(ctx context.Context, client *warrengate.Client, c *command) (object, error) {
	switch c.Do {
	case "declare_queue":
		_, err := client.Topology.DeclareQueue(ctx, queueOf(c))
		return object{}, err
	case "declare_exchange":
		kind := pb.ExchangeType(pb.ExchangeType_value["EXCHANGE_TYPE_"+strings.ToUpper(c.Type)])
		return object{}, client.Topology.DeclareExchange(ctx, &pb.Exchange{Name: c.Name, Type: kind})
	case "bind":
		return object{}, client.Topology.Bind(ctx, &pb.Binding{Source: c.Source, Destination: c.Destination, RoutingKey: c.RoutingKey})
	case "delete_queue":
		count, err := client.Topology.DeleteQueue(ctx, c.Name)
		return object{"count": count}, err
	case "purge_queue":
		count, err := client.Topology.PurgeQueue(ctx, c.Name)
		return object{"count": count}, err
	case "queue_status":
		status, err := client.Topology.QueueStatus(ctx, c.Name)
		return object{"ready": status.GetMessagesReady(), "consumers": status.GetConsumers()}, err
	case "list_queues":
		names := []string{}
		for entry, err := range client.Topology.Queues(ctx) {
			if err != nil {
				return nil, err
			}
			names = append(names, entry.GetQueue().GetName())
		}
		return object{"names": names}, nil
	case "list_tenants":
		response, err := client.Admin().ListTenants(ctx, &pb.ListTenantsRequest{})
		names := []string{}
		for _, tenant := range response.GetTenants() {
			names = append(names, tenant.GetId())
		}
		return object{"names": names}, err
	case "dead_letters":
		letters := []object{}
		for letter, err := range client.DeadLetters.List(ctx, &pb.DeadLetterFilter{Queue: c.Queue}) {
			if err != nil {
				return nil, err
			}
			letters = append(letters, object{
				"key": keyOf(letter.GetMessage().GetBody()), "code": letter.GetCode(), "reason": letter.GetReason(), "attempts": letter.GetAttempts(),
			})
		}
		return object{"dead_letters": letters}, nil
	case "redrive":
		done, err := client.DeadLetters.Redrive(ctx, warrengate.OfQueue(c.Queue), 0)
		return object{"redriven": done.GetRedriven(), "failed": done.GetFailed()}, err
	case "purge_dead_letters":
		count, err := client.DeadLetters.Purge(ctx, warrengate.OfQueue(c.Queue))
		return object{"purged": count}, err
	}
	return nil, fmt.Errorf("unknown command %q", c.Do)
}

func queueOf(c *command) *pb.Queue {
	kind := "QUORUM"
	if c.Type != "" {
		kind = strings.ToUpper(c.Type)
	}
	queue := &pb.Queue{
		Name: c.Name, Type: pb.QueueType(pb.QueueType_value["QUEUE_TYPE_"+kind]), MaxLength: c.MaxLength,
		MaxDeliveryAttempts: c.MaxDeliveryAttempts,
	}
	if c.RetryMinMS != 0 || c.RetryMaxMS != 0 {
		queue.RetryPolicy = &pb.RetryPolicy{}
		if c.RetryMinMS != 0 {
			queue.RetryPolicy.MinBackoff = durationpb.New(millis(c.RetryMinMS))
		}
		if c.RetryMaxMS != 0 {
			queue.RetryPolicy.MaxBackoff = durationpb.New(millis(c.RetryMaxMS))
		}
	}
	return queue
}

func (d *driver) connect(ctx context.Context, c *command) (object, error) {
	config := warrengate.ConfigFromEnv()
	if c.Token != nil {
		config.ClientID, config.ClientSecret = "", ""
	}
	if !c.FromEnv {
		for target, value := range map[*string]*string{
			&config.Endpoint: c.Endpoint, &config.CAFile: c.CA, &config.ClientID: c.ClientID, &config.ClientSecret: c.ClientSecret, &config.Token: c.Token,
		} {
			if value != nil {
				*target = *value
			}
		}
	}
	config.TokenLifetime, config.ConnectTimeout = millis(c.TokenLifetimeMS), millis(c.ConnectTimeoutMS)
	config.OnEvent = func(event warrengate.Event) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.events[c.Client] = append(d.events[c.Client], string(event.Kind))
	}
	client, err := warrengate.Connect(ctx, config)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients[c.Client] = client
	return object{}, nil
}

func (d *driver) consume(ctx context.Context, client *warrengate.Client, c *command) (object, error) {
	w := &observed{work: millis(c.WorkMS), rules: c.Rules, keys: map[string]*[2]int{}}
	config := warrengate.ConsumeConfig{
		Concurrency: c.Concurrency, Window: c.Window, Lease: millis(c.LeaseMS), MaxLease: millis(c.MaxLeaseMS),
		Position: map[string]warrengate.Position{"first": warrengate.First, "last": warrengate.Last, "next": warrengate.Next}[c.Position],
	}
	var err error
	if c.Form == "iterator" {
		if w.consumer, err = client.Messages(ctx, c.Queue, config); err == nil {
			go w.iterate(max(c.Concurrency, 1))
		}
	} else {
		w.consumer, err = client.Consume(ctx, c.Queue, w.handle, config)
	}
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.consumers[c.Consumer] = w
	return object{}, nil
}

func (w *observed) settleUnsettled() object {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, delivery := range w.unsettled {
		delivery.Ack()
	}
	count := len(w.unsettled)
	w.unsettled = nil
	return object{"count": count}
}

func (w *observed) report(full bool) object {
	w.mu.Lock()
	defer w.mu.Unlock()
	result := object{
		"total": w.total, "distinct": len(w.keys), "running": w.running, "max_running": w.maxRunning, "max_attempt": w.maxAttempt,
		"finished": false, "error": nil,
	}
	select {
	case <-w.consumer.Done():
		result["finished"] = true
	default:
	}
	if err := w.consumer.Err(); err != nil {
		result["error"] = describe(err)
	}
	if !full {
		return result
	}
	keys := make([][]any, 0, len(w.order))
	for _, key := range w.order {
		keys = append(keys, []any{key, w.keys[key][0], w.keys[key][1]})
	}
	result["keys"] = keys
	if last := w.last; last != nil && len(last.Body) < 1000 {
		headers := object{}
		for name, value := range last.Headers {
			if raw, isBytes := value.([]byte); isBytes {
				value = object{"bytes": base64.StdEncoding.EncodeToString(raw)}
			}
			headers[name] = value
		}
		result["last"] = object{
			"body": last.Text(), "message_id": last.ID, "correlation_id": last.CorrelationID, "reply_to": last.ReplyTo,
			"content_type": last.ContentType, "type": last.Type, "app_id": last.AppID, "priority": last.Priority, "headers": headers,
		}
	}
	return result
}

func publish(ctx context.Context, publisher *warrengate.Publisher, c *command) (object, error) {
	type sent struct {
		key     string
		receipt *warrengate.Receipt
	}
	peak, all := 0, make([]sent, 0, c.Count)
	for number := range c.Count {
		key := fmt.Sprintf("%s-%d", c.Prefix, number)
		body := key
		if c.Size > 0 {
			body = key + ":" + strings.Repeat(".", max(c.Size-len(key)-1, 0))
		}
		receipt, err := publisher.Send(ctx, c.RoutingKey, warrengate.Text(body))
		if err != nil {
			return nil, err
		}
		all = append(all, sent{key, receipt})
		peak = max(peak, publisher.InFlight())
		time.Sleep(millis(c.IntervalMS))
	}
	outcomes, failed := map[string]int{}, []object{}
	for _, item := range all {
		outcome := "CONFIRMED"
		if _, err := item.receipt.Wait(ctx); err != nil {
			var failure *warrengate.Error
			if !errors.As(err, &failure) {
				return nil, err
			}
			outcome = string(failure.Outcome)
			failed = append(failed, object{
				"key": item.key, "outcome": outcome, "reason": failure.Reason, "retry_after_ms": after(failure), "message_id": failure.MessageID,
			})
		}
		outcomes[outcome]++
	}
	return object{"outcomes": outcomes, "failed": failed, "peak_in_flight": peak}, nil
}

func publishMessage(ctx context.Context, publisher *warrengate.Publisher, c *command) (object, error) {
	var given struct {
		Body          string         `json:"body"`
		MessageID     string         `json:"message_id"`
		CorrelationID string         `json:"correlation_id"`
		ReplyTo       string         `json:"reply_to"`
		ContentType   string         `json:"content_type"`
		Type          string         `json:"type"`
		AppID         string         `json:"app_id"`
		Priority      uint8          `json:"priority"`
		Headers       map[string]any `json:"headers"`
	}
	decoder := json.NewDecoder(strings.NewReader(string(c.Message)))
	decoder.UseNumber()
	if err := decoder.Decode(&given); err != nil {
		return nil, err
	}
	for name, value := range given.Headers {
		given.Headers[name] = header(value)
	}
	confirmation, err := publisher.Publish(ctx, c.RoutingKey, warrengate.Message{
		Body: []byte(given.Body), ID: given.MessageID, CorrelationID: given.CorrelationID, ReplyTo: given.ReplyTo,
		ContentType: given.ContentType, Type: given.Type, AppID: given.AppID, Priority: given.Priority, Headers: given.Headers,
	})
	return object{"outcome": "CONFIRMED", "message_id": confirmation.MessageID}, err
}

func header(value any) any {
	switch value := value.(type) {
	case json.Number:
		if whole, err := value.Int64(); err == nil {
			return whole
		}
		number, _ := value.Float64()
		return number
	case []any:
		for at, item := range value {
			value[at] = header(item)
		}
	case object:
		if text, isText := value["bytes"].(string); isText && len(value) == 1 {
			raw, _ := base64.StdEncoding.DecodeString(text)
			return raw
		}
		for name, item := range value {
			value[name] = header(item)
		}
	}
	return value
}

func after(err *warrengate.Error) any {
	if err.RetryAfter == 0 {
		return nil
	}
	return err.RetryAfter.Milliseconds()
}

func describe(err error) object {
	var failure *warrengate.Error
	if !errors.As(err, &failure) {
		return object{"reason": "DRIVER", "code": "UNKNOWN", "retryable": false, "message": err.Error()}
	}
	return object{
		"reason": failure.Reason, "code": upper(failure.Code.String()), "retryable": failure.Retryable,
		"retry_after_ms": after(failure), "message": failure.Error(),
	}
}

// upper writes the name of a status code as the protocol does: "NotFound" is NOT_FOUND.
func upper(name string) string {
	var result strings.Builder
	for at, letter := range name {
		if at > 0 && letter >= 'A' && letter <= 'Z' && (name[at-1] < 'A' || name[at-1] > 'Z') {
			result.WriteByte('_')
		}
		result.WriteRune(letter)
	}
	return strings.ToUpper(result.String())
}

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})))
	d := &driver{
		clients: map[string]*warrengate.Client{}, events: map[string][]string{},
		publishers: map[string]*warrengate.Publisher{}, consumers: map[string]*observed{},
	}
	var output sync.Mutex
	var pending sync.WaitGroup
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			slog.Error("a command cannot be read", "error", err)
			os.Exit(1)
		}
		pending.Go(func() {
			answer := object{"id": c.ID}
			if result, err := d.execute(context.Background(), &c); err != nil {
				answer["error"] = describe(err)
			} else {
				answer["ok"] = result
			}
			encoded, err := json.Marshal(answer)
			if err != nil {
				slog.Error("an answer cannot be written", "error", err)
				return
			}
			output.Lock()
			defer output.Unlock()
			fmt.Println(string(encoded))
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var closing sync.WaitGroup
	d.mu.Lock()
	for _, client := range d.clients {
		closing.Go(func() { _ = client.Close(ctx) })
	}
	d.mu.Unlock()
	closing.Wait()
}
