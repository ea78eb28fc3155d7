//! The driver of the Rust library; clients/conformance/README.md describes the protocol.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its protocol uses the standard streams")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::{Semaphore, oneshot},
    task::{JoinHandle, JoinSet},
};
use warrengate_client::{
    Client, ClientOptions, Consumer, Credentials, Delivery, Error, Event, HandlerError, Nack, Publisher,
    PublisherOptions, SubscribeOptions, Subscription,
    pb::{self, error::Classify as _, value::Kind},
    publication,
};

/// What is missing in a command, or a defect of this driver.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
struct Driver {
    clients: Mutex<HashMap<String, Client>>,
    events: Mutex<HashMap<String, Vec<&'static str>>>,
    publishers: Mutex<HashMap<String, Arc<Publisher>>>,
    consumers: Mutex<HashMap<String, Arc<Observed>>>,
    responders: Mutex<Vec<Consumer>>,
}

/// The fields of a command.
#[derive(Clone)]
struct Fields(Map<String, Value>);

impl Fields {
    fn text(&self, name: &str) -> String {
        self.optional_text(name).unwrap_or_default()
    }

    fn optional_text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().map(str::to_owned)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    fn time(&self, name: &str) -> Option<Duration> {
        self.number(&format!("{name}_ms")).map(Duration::from_millis)
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }
}

/// A consumer and what its handlers have recorded.
struct Observed {
    work: Duration,
    rules: Vec<Fields>,
    counts: Mutex<Counts>,
    form: Mutex<Form>,
}

enum Form {
    Starting,
    Callback(Consumer),
    Iterator { stop: Option<oneshot::Sender<()>>, task: Option<JoinHandle<Option<Error>>> },
    Ended(Option<Error>),
}

#[derive(Default)]
struct Counts {
    keys: Vec<(String, u64, u32)>,
    places: HashMap<String, usize>,
    total: u64,
    running: u64,
    max_running: u64,
    max_attempt: u32,
    last: Option<pb::Message>,
    unsettled: Vec<Delivery>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no handler panics")
}

fn key_of(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).split(':').next().unwrap_or_default().to_owned()
}

impl Observed {
    fn arrive(&self, delivery: &Delivery) -> Fields {
        let key = key_of(delivery.body());
        let mut counts = lock(&self.counts);
        let next = counts.keys.len();
        let place = *counts.places.entry(key.clone()).or_insert(next);
        if place == next {
            counts.keys.push((key.clone(), 0, 0));
        }
        counts.keys[place].1 += 1;
        counts.keys[place].2 = counts.keys[place].2.max(delivery.attempt());
        counts.total += 1;
        counts.max_attempt = counts.max_attempt.max(delivery.attempt());
        counts.last = Some(delivery.message().clone());
        let applies = |rule: &&Fields| {
            key.starts_with(&rule.text("prefix"))
                && rule.number("attempts").is_none_or(|attempts| u64::from(delivery.attempt()) <= attempts)
        };
        self.rules.iter().find(applies).cloned().unwrap_or(Fields(Map::new()))
    }

    async fn work(&self) {
        {
            let mut counts = lock(&self.counts);
            counts.running += 1;
            counts.max_running = counts.max_running.max(counts.running);
        }
        if !self.work.is_zero() {
            tokio::time::sleep(self.work).await;
        }
    }

    /// The callback form.
    async fn handle(self: Arc<Self>, delivery: Delivery) -> Result<(), HandlerError> {
        let rule = self.arrive(&delivery);
        let _running = Running(Arc::clone(&self));
        self.work().await;
        match rule.text("then").as_str() {
            "fail" => return Err("this case requires the handler to fail".into()),
            "stuck" => std::future::pending().await,
            _ => settle(&delivery, &rule),
        }
        Ok(())
    }

    /// The iterator form; ends after `stop`, or when the subscription has ended.
    async fn iterate(
        self: Arc<Self>,
        mut subscription: Subscription,
        concurrency: usize,
        mut stop: oneshot::Receiver<()>,
    ) -> Option<Error> {
        let slots = Arc::new(Semaphore::new(concurrency));
        let mut workers = JoinSet::new();
        let error = loop {
            let delivery = tokio::select! {
                _ = &mut stop => break None,
                event = subscription.next_event() => match event {
                    Ok(Some(Event::Delivery(delivery))) => delivery,
                    Ok(Some(_)) => continue,
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                },
            };
            while workers.try_join_next().is_some() {}
            let slot = Arc::clone(&slots).acquire_owned().await.expect("never closed");
            let observed = Arc::clone(&self);
            workers.spawn(async move {
                let rule = observed.arrive(&delivery);
                let running = Running(Arc::clone(&observed));
                observed.work().await;
                match rule.text("then").as_str() {
                    "hold" => lock(&observed.counts).unsettled.push(delivery),
                    "fail" => delivery.retry(),
                    "" | "ack" => delivery.ack(),
                    _ => settle(&delivery, &rule),
                }
                drop((running, slot));
            });
        };
        while workers.join_next().await.is_some() {}
        error.or(subscription.close().await.err())
    }

    fn report(&self, full: bool) -> Value {
        let (finished, error) = match &*lock(&self.form) {
            Form::Callback(consumer) => (consumer.is_finished(), consumer.error()),
            Form::Ended(error) => (true, error.clone()),
            _ => (false, None),
        };
        let counts = lock(&self.counts);
        let mut report = json!({
            "total": counts.total, "distinct": counts.keys.len(), "running": counts.running,
            "max_running": counts.max_running, "max_attempt": counts.max_attempt, "finished": finished,
            "error": error.as_ref().map(describe),
        });
        if full {
            report["keys"] = counts.keys.iter().map(|(key, count, attempt)| json!([key, count, attempt])).collect();
            if let Some(last) = counts.last.as_ref().filter(|last| last.body.len() < 1_000) {
                report["last"] = from_message(last);
            }
        }
        report
    }
}

struct Running(Arc<Observed>);

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.0.counts).running -= 1;
    }
}

fn settle(delivery: &Delivery, rule: &Fields) {
    match rule.text("then").as_str() {
        "retry" => {
            let nack = Nack::retry().because(rule.text("reason"));
            delivery.nack(rule.time("delay").map_or(nack.clone(), |delay| nack.after(delay)));
        }
        "dead_letter" => delivery.dead_letter(rule.text("reason")),
        "drop" => delivery.discard(),
        _ => {}
    }
}

impl Driver {
    fn client(&self, fields: &Fields) -> Result<Client, Failure> {
        let name = fields.text("client");
        lock(&self.clients).get(&name).cloned().ok_or_else(|| format!("no client {name:?}").into())
    }

    fn publisher(&self, fields: &Fields) -> Result<Arc<Publisher>, Failure> {
        let name = fields.text("publisher");
        lock(&self.publishers).get(&name).cloned().ok_or_else(|| format!("no publisher {name:?}").into())
    }

    fn consumer(&self, fields: &Fields) -> Result<Arc<Observed>, Failure> {
        let name = fields.text("consumer");
        lock(&self.consumers).get(&name).cloned().ok_or_else(|| format!("no consumer {name:?}").into())
    }

    async fn execute(self: &Arc<Self>, fields: &Fields) -> Result<Value, Failure> {
        match fields.text("do").as_str() {
            "hello" => Ok(json!({"protocol": 1, "language": "rust", "library": env!("CARGO_PKG_VERSION")})),
            "connect" => self.connect(fields).await,
            "close" => {
                self.client(fields)?.close(fields.time("timeout").unwrap_or(Duration::from_secs(30))).await;
                Ok(json!({}))
            }
            "events" => Ok(json!({"events": lock(&self.events).get(&fields.text("client"))})),
            "whoami" => {
                let who = self.client(fields)?.whoami().await?;
                Ok(json!({"tenant": who.tenant, "client_id": who.client_id}))
            }
            "publisher" => {
                let mut options = PublisherOptions::default();
                if let Some(count) = fields.number("max_in_flight") {
                    options = options.max_in_flight_messages(count as usize);
                }
                if let Some(count) = fields.number("batch_messages") {
                    options = options.max_frame_messages(count as usize);
                }
                if let Some(deadline) = fields.time("timeout") {
                    options = options.deadline(deadline);
                }
                options = options.retry_throttled(fields.flag("retry_throttled").unwrap_or(true));
                let publisher = Arc::new(self.client(fields)?.publisher_with(options));
                // The exchange is a property of each message in this library.
                let name = fields.text("publisher");
                lock(&self.publishers).insert(name.clone(), publisher);
                EXCHANGES.lock().expect("no panic").insert(name, fields.text("exchange"));
                Ok(json!({}))
            }
            "publish" => publish(&*self.publisher(fields)?, &exchange(fields), fields).await,
            "publish_message" => {
                let mut message = publication(exchange(fields), fields.text("routing_key"), "");
                message.message = fields.0.get("message").map(to_message);
                let confirmation = self.publisher(fields)?.publish(message).await?;
                Ok(json!({"outcome": "CONFIRMED", "message_id": confirmation.message_id}))
            }
            "consume" => self.consume(fields).await,
            "settle_held" => {
                let unsettled = std::mem::take(&mut lock(&self.consumer(fields)?.counts).unsettled);
                unsettled.iter().for_each(Delivery::ack);
                Ok(json!({"count": unsettled.len()}))
            }
            "report" => Ok(self.consumer(fields)?.report(fields.flag("full").unwrap_or_default())),
            "stop" => self.stop(fields).await,
            "respond" => {
                let upper = async |request: Delivery| {
                    let body = String::from_utf8_lossy(request.body()).to_uppercase();
                    Ok(pb::Message { body: body.into(), ..Default::default() })
                };
                let responder = self.client(fields)?.respond(&fields.text("queue"), upper).await?;
                lock(&self.responders).push(responder);
                Ok(json!({}))
            }
            "request" => {
                let message = pb::Message { body: fields.text("body").into(), ..Default::default() };
                let limit = fields.time("timeout").unwrap_or(Duration::from_secs(10));
                let reply = self.client(fields)?.request(&fields.text("routing_key"), message, limit).await?;
                Ok(json!({"body": String::from_utf8_lossy(&reply.body)}))
            }
            _ => plain(self.client(fields)?, fields).await,
        }
    }

    async fn connect(self: &Arc<Self>, fields: &Fields) -> Result<Value, Failure> {
        let name = fields.text("client");
        let mut options = if fields.flag("from_env").unwrap_or_default() {
            ClientOptions::from_env()?
        } else {
            let given = |field: &str, variable: &str| match fields.optional_text(field) {
                Some(value) => value,
                None => std::env::var(variable).unwrap_or_default(),
            };
            let credentials = match fields.optional_text("token") {
                Some(token) => Credentials::Token(token.into()),
                None => Credentials::Secret {
                    client_id: given("client_id", "WARRENGATE_CLIENT_ID"),
                    secret: given("client_secret", "WARRENGATE_CLIENT_SECRET").into(),
                },
            };
            let ca = std::fs::read_to_string(given("ca", "WARRENGATE_CA"))?;
            ClientOptions::new(given("endpoint", "WARRENGATE_ENDPOINT"), credentials).ca_certificate(ca)
        };
        if let Some(lifetime) = fields.time("token_lifetime") {
            options = options.token_lifetime(lifetime);
        }
        if let Some(timeout) = fields.time("connect_timeout") {
            options = options.connect_timeout(timeout);
        }
        let (driver, source) = (Arc::clone(self), name.clone());
        lock(&self.events).insert(name.clone(), Vec::new());
        let options = options.on_event(move |event| {
            lock(&driver.events).entry(source.clone()).or_default().push(event.kind.as_str());
        });
        let client = Client::connect(options).await?;
        lock(&self.clients).insert(name, client);
        Ok(json!({}))
    }

    async fn consume(&self, fields: &Fields) -> Result<Value, Failure> {
        let client = self.client(fields)?;
        let concurrency = fields.number("concurrency").unwrap_or(1) as usize;
        let mut options = SubscribeOptions::queue(fields.text("queue")).concurrency(concurrency);
        if let Some(window) = fields.number("window") {
            options = options.max_outstanding_messages(u32::try_from(window)?);
        }
        if let Some(lease) = fields.time("lease") {
            options = options.ack_deadline(lease);
        }
        if let Some(limit) = fields.time("max_lease") {
            options = options.max_lease(limit);
        }
        options = match fields.text("position").as_str() {
            "first" => options.from_first(),
            "last" => options.from_last(),
            "next" => options.from_next(),
            _ => options,
        };
        let rules = fields.0.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
        let rules = rules.into_iter().filter_map(|rule| rule.as_object().cloned().map(Fields)).collect();
        let observed = Arc::new(Observed {
            work: fields.time("work").unwrap_or_default(),
            rules,
            counts: Mutex::default(),
            form: Mutex::new(Form::Starting),
        });
        let form = if fields.text("form") == "iterator" {
            let subscription = client.subscribe(options).await?;
            let (stop, stopped) = oneshot::channel();
            let (iterating, ended) = (Arc::clone(&observed), Arc::clone(&observed));
            let task = tokio::spawn(async move {
                let error = iterating.iterate(subscription, concurrency, stopped).await;
                *lock(&ended.form) = Form::Ended(error.clone());
                error
            });
            Form::Iterator { stop: Some(stop), task: Some(task) }
        } else {
            let handling = Arc::clone(&observed);
            Form::Callback(client.consume(options, move |delivery| Arc::clone(&handling).handle(delivery)).await?)
        };
        let mut present = lock(&observed.form);
        if matches!(*present, Form::Starting) {
            *present = form;
        }
        drop(present);
        lock(&self.consumers).insert(fields.text("consumer"), observed);
        Ok(json!({}))
    }

    async fn stop(&self, fields: &Fields) -> Result<Value, Failure> {
        let observed = self.consumer(fields)?;
        let limit = fields.time("timeout").unwrap_or(Duration::from_secs(30));
        let form = std::mem::replace(&mut *lock(&observed.form), Form::Starting);
        let form = match form {
            Form::Callback(consumer) => {
                let _ = consumer.close(limit).await;
                Form::Callback(consumer)
            }
            Form::Iterator { stop, task: Some(task) } => {
                drop(stop);
                Form::Ended(tokio::time::timeout(limit, task).await??)
            }
            form => form,
        };
        *lock(&observed.form) = form;
        Ok(json!({}))
    }
}

/// The exchange of each publisher.
static EXCHANGES: std::sync::LazyLock<Mutex<HashMap<String, String>>> = std::sync::LazyLock::new(Mutex::default);

fn exchange(fields: &Fields) -> String {
    lock(&EXCHANGES).get(&fields.text("publisher")).cloned().unwrap_or_default()
}

async fn publish(publisher: &Publisher, exchange: &str, fields: &Fields) -> Result<Value, Failure> {
    let (prefix, routing_key) = (fields.text("prefix"), fields.text("routing_key"));
    let (mut peak, mut sent) = (0, Vec::new());
    for number in 0..fields.number("count").unwrap_or_default() {
        let key = format!("{prefix}-{number}");
        let body = match fields.number("size") {
            Some(size) => format!("{key}:{}", ".".repeat((size as usize).saturating_sub(key.len() + 1))),
            None => key.clone(),
        };
        let receipt = publisher.send(publication(exchange, &routing_key, body)).await?;
        sent.push((key, receipt));
        peak = peak.max(publisher.in_flight());
        if let Some(pause) = fields.time("interval") {
            tokio::time::sleep(pause).await;
        }
    }
    let (mut outcomes, mut failed) = (HashMap::<&str, u64>::new(), Vec::new());
    for (key, receipt) in sent {
        let outcome = match receipt.confirmed().await {
            Ok(_) => "CONFIRMED",
            Err(Error::Unconfirmed(error)) => {
                failed.push(json!({
                    "key": key, "outcome": error.outcome.as_str(), "reason": error.reason,
                    "retry_after_ms": milliseconds(error.retry_after), "message_id": error.message_id,
                }));
                error.outcome.as_str()
            }
            Err(error) => return Err(error.into()),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    Ok(json!({"outcomes": outcomes, "failed": failed, "peak_in_flight": peak}))
}

/// The calls of topology, dead letters and administration.
async fn plain(client: Client, fields: &Fields) -> Result<Value, Failure> {
    let name = fields.text("name");
    let mut topology = client.topology();
    Ok(match fields.text("do").as_str() {
        "declare_queue" => {
            client.declare_queue(queue_of(fields)).await?;
            json!({})
        }
        "declare_exchange" => {
            let kind = format!("EXCHANGE_TYPE_{}", fields.text("type").to_uppercase());
            let kind = pb::ExchangeType::from_str_name(&kind).unwrap_or_default();
            let exchange = Some(pb::Exchange { name, r#type: kind.into(), ..Default::default() });
            let request = pb::DeclareExchangeRequest { exchange, ..Default::default() };
            topology.declare_exchange(request).await.map_err(Error::from)?;
            json!({})
        }
        "bind" => {
            let binding = pb::Binding {
                source: fields.text("source"),
                destination: fields.text("destination"),
                routing_key: fields.text("routing_key"),
                ..Default::default()
            };
            let request = pb::BindRequest { binding: Some(binding) };
            topology.bind(request).await.map_err(Error::from)?;
            json!({})
        }
        "delete_queue" => {
            let request = pb::DeleteQueueRequest { name, ..Default::default() };
            let deleted = topology.delete_queue(request).await.map_err(Error::from)?.into_inner();
            json!({"count": deleted.messages_deleted})
        }
        "purge_queue" => {
            let purged = topology.purge_queue(pb::PurgeQueueRequest { name }).await.map_err(Error::from)?;
            json!({"count": purged.into_inner().messages_purged})
        }
        "queue_status" => {
            let status = topology.get_queue(pb::GetQueueRequest { name }).await.map_err(Error::from)?.into_inner();
            let status = status.status.unwrap_or_default();
            json!({"ready": status.messages_ready, "consumers": status.consumers})
        }
        "list_queues" => {
            let listed = topology.list_queues(pb::ListQueuesRequest::default()).await.map_err(Error::from)?;
            let names = listed.into_inner().queues.into_iter().filter_map(|one| Some(one.queue?.name));
            json!({"names": names.collect::<Vec<_>>()})
        }
        "list_tenants" => {
            let listed = client.admin().list_tenants(pb::ListTenantsRequest::default()).await.map_err(Error::from)?;
            json!({"names": listed.into_inner().tenants.into_iter().map(|one| one.id).collect::<Vec<_>>()})
        }
        "dead_letters" => {
            let filter = Some(pb::DeadLetterFilter { queue: fields.text("queue"), ..Default::default() });
            let request = pb::ListDeadLettersRequest { filter, ..Default::default() };
            let listed = topology.list_dead_letters(request).await.map_err(Error::from)?.into_inner();
            let letters = listed.dead_letters.into_iter().map(|letter| {
                let key = key_of(&letter.message.unwrap_or_default().body);
                json!({"key": key, "code": letter.code, "reason": letter.reason, "attempts": letter.attempts})
            });
            json!({"dead_letters": letters.collect::<Vec<_>>()})
        }
        "redrive" => {
            let request = pb::RedriveDeadLettersRequest { selection: Some(of_queue(fields)), ..Default::default() };
            let mut progress = topology.redrive_dead_letters(request).await.map_err(Error::from)?.into_inner();
            let mut done = pb::RedriveDeadLettersResponse::default();
            while let Some(next) = progress.message().await.map_err(Error::from)? {
                done = next;
            }
            json!({"redriven": done.redriven, "failed": done.failed})
        }
        "purge_dead_letters" => {
            let request = pb::PurgeDeadLettersRequest { selection: Some(of_queue(fields)) };
            let purged = topology.purge_dead_letters(request).await.map_err(Error::from)?.into_inner();
            json!({"purged": purged.purged})
        }
        other => return Err(format!("unknown command {other:?}").into()),
    })
}

fn of_queue(fields: &Fields) -> pb::DeadLetterSelection {
    let filter = pb::DeadLetterFilter { queue: fields.text("queue"), ..Default::default() };
    pb::DeadLetterSelection { filter: Some(filter), ..Default::default() }
}

fn queue_of(fields: &Fields) -> pb::Queue {
    let kind = match fields.text("type").as_str() {
        "classic" => pb::QueueType::Classic,
        "stream" => pb::QueueType::Stream,
        _ => pb::QueueType::Quorum,
    };
    let retry = pb::RetryPolicy {
        min_backoff: fields.time("retry_min").and_then(|time| time.try_into().ok()),
        max_backoff: fields.time("retry_max").and_then(|time| time.try_into().ok()),
        ..Default::default()
    };
    pb::Queue {
        name: fields.text("name"),
        r#type: kind.into(),
        max_length: fields.number("max_length").unwrap_or_default(),
        max_delivery_attempts: fields.number("max_delivery_attempts").unwrap_or_default() as u32,
        retry_policy: (retry.min_backoff.is_some() || retry.max_backoff.is_some()).then_some(retry),
        ..Default::default()
    }
}

fn to_message(given: &Value) -> pb::Message {
    let fields = Fields(given.as_object().cloned().unwrap_or_default());
    let headers = fields.0.get("headers").and_then(Value::as_object).cloned().unwrap_or_default();
    pb::Message {
        body: fields.text("body").into(),
        message_id: fields.text("message_id"),
        correlation_id: fields.text("correlation_id"),
        reply_to: fields.text("reply_to"),
        content_type: fields.text("content_type"),
        r#type: fields.text("type"),
        app_id: fields.text("app_id"),
        priority: fields.number("priority").unwrap_or_default() as u32,
        headers: headers.iter().map(|(name, value)| (name.clone(), to_header(value))).collect(),
        ..Default::default()
    }
}

fn to_header(value: &Value) -> pb::Value {
    let kind = match value {
        Value::Null => Some(Kind::NullValue(0)),
        Value::Bool(flag) => Some(Kind::BoolValue(*flag)),
        Value::Number(number) => Some(match number.as_i64() {
            Some(whole) => Kind::IntValue(whole),
            None => Kind::DoubleValue(number.as_f64().unwrap_or_default()),
        }),
        Value::String(text) => Some(Kind::StringValue(text.clone())),
        Value::Array(items) => Some(Kind::ListValue(pb::ValueList { values: items.iter().map(to_header).collect() })),
        Value::Object(fields) => match fields.get("bytes").and_then(Value::as_str) {
            Some(text) if fields.len() == 1 => Some(Kind::BytesValue(from_base64(text).into())),
            _ => {
                let entries = fields.iter().map(|(name, value)| (name.clone(), to_header(value))).collect();
                Some(Kind::TableValue(pb::ValueTable { entries }))
            }
        },
    };
    pb::Value { kind }
}

fn from_message(message: &pb::Message) -> Value {
    let headers: Map<_, _> = message.headers.iter().map(|(name, value)| (name.clone(), from_header(value))).collect();
    json!({
        "body": String::from_utf8_lossy(&message.body), "message_id": message.message_id,
        "correlation_id": message.correlation_id, "reply_to": message.reply_to, "content_type": message.content_type,
        "type": message.r#type, "app_id": message.app_id, "priority": message.priority, "headers": headers,
    })
}

fn from_header(value: &pb::Value) -> Value {
    match &value.kind {
        None => Value::Null,
        Some(Kind::BoolValue(flag)) => json!(flag),
        Some(Kind::IntValue(number)) => json!(number),
        Some(Kind::DoubleValue(number)) => json!(number),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BytesValue(bytes)) => json!({"bytes": to_base64(bytes)}),
        Some(Kind::ListValue(list)) => list.values.iter().map(from_header).collect(),
        Some(Kind::TableValue(table)) => {
            Value::Object(table.entries.iter().map(|(name, value)| (name.clone(), from_header(value))).collect())
        }
        Some(_) => Value::Null,
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = (0..3).fold(0_usize, |number, at| number << 8 | usize::from(*chunk.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let symbol = if at <= chunk.len() { ALPHABET[number >> (18 - 6 * at) & 63] } else { b'=' };
            text.push(char::from(symbol));
        }
    }
    text
}

fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut buffer, mut bits) = (0_usize, 0);
    for symbol in text.bytes() {
        let Some(value) = ALPHABET.iter().position(|one| *one == symbol) else { continue };
        buffer = buffer << 6 | value;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
            buffer &= (1 << bits) - 1;
        }
    }
    bytes
}

fn milliseconds(time: Option<Duration>) -> Option<u64> {
    time.map(|time| time.as_millis() as u64)
}

fn describe(error: &Error) -> Value {
    let code = format!("{:?}", error.code().unwrap_or_else(|| error.kind().grpc()));
    // "NotFound" is NOT_FOUND.
    let mut name = String::new();
    for letter in code.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    json!({
        "reason": error.reason(), "code": name, "retryable": error.is_retryable(),
        "retry_after_ms": milliseconds(error.retry_after()), "message": error.to_string(),
    })
}

async fn answer(driver: Arc<Driver>, command: Value) {
    let id = command["id"].clone();
    let fields = Fields(command.as_object().cloned().unwrap_or_default());
    let answer = match driver.execute(&fields).await {
        Ok(ok) => json!({"id": id, "ok": ok}),
        Err(error) => match error.downcast_ref::<Error>() {
            Some(error) => json!({"id": id, "error": describe(error)}),
            None => {
                let message = error.to_string();
                json!({"id": id, "error": {"reason": "DRIVER", "code": "UNKNOWN", "retryable": false, "message": message}})
            }
        },
    };
    println!("{answer}");
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let driver = Arc::new(Driver::default());
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        tokio::spawn(answer(Arc::clone(&driver), serde_json::from_str(&line)?));
    }
    let clients: Vec<Client> = lock(&driver.clients).values().cloned().collect();
    let closing = clients.into_iter().map(|client| async move { client.close(Duration::from_secs(2)).await });
    futures_util::future::join_all(closing).await;
    // Unanswered commands do not delay the end.
    std::process::exit(0);
}
