//! A chat room as queues and messages: `chat.ROOM`, a stream of messages, and `chat.ROOM.here`, a stream of presence.
//! Messages of other forms are ignored.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    cli::json,
    client::{Client, Delivery, Error, Publisher, SubscribeOptions, Subscription, publication},
    pb::{self, Outcome, value::Kind},
};

/// How many bytes of messages a room keeps.
const MAX_ROOM_BYTES: u64 = 20 << 20;
/// Presence is outdated after a minute; streams delete whole segments of this size.
const SEGMENT: u64 = 1 << 20;
/// The longest wait for the outcomes of the last messages.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

const MESSAGE: &str = "chat.message";
const HERE: &str = "chat.here";
const LEFT: &str = "chat.left";

/// A room's name.
pub(super) fn room_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match (1..=64).contains(&text.len()) && text.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("a room's name is 1 to 64 letters, digits, \"-\" and \"_\"".to_owned()),
    }
}

/// A person's name.
pub(super) fn person_name(text: &str) -> Result<String, String> {
    let text = text.trim();
    match (1..=32).contains(&text.chars().count()) && !text.contains(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err("a name is 1 to 32 characters".to_owned()),
    }
}

/// An entered room.
pub(super) struct Room {
    client: Client,
    publisher: Publisher,
    queue: String,
    name: String,
    session: String,
    /// Pending outcomes, each with a description if it failed.
    outcomes: JoinSet<Option<String>>,
}

impl Room {
    /// Creates the room if it does not exist.
    pub(super) async fn enter(client: Client, room: &str, name: &str) -> Result<Self, Error> {
        let queue = format!("chat.{room}");
        for (name, bytes) in [(queue.clone(), MAX_ROOM_BYTES), (here(&queue), 2 * SEGMENT)] {
            let stream = pb::Queue {
                name,
                r#type: pb::QueueType::Stream.into(),
                max_length_bytes: bytes,
                stream_max_segment_bytes: SEGMENT,
                ..pb::Queue::default()
            };
            let request = pb::DeclareQueueRequest { queue: Some(stream), validate_only: false };
            client.topology().declare_queue(request).await?;
        }
        let (publisher, session) = (client.publisher(), Uuid::new_v4().simple().to_string());
        Ok(Self { client, publisher, queue, name: name.to_owned(), session, outcomes: JoinSet::new() })
    }

    /// Messages since a point in time, including new ones.
    pub(super) async fn conversation(&self, since: SystemTime) -> Result<Subscription, Error> {
        self.client.subscribe(SubscribeOptions::queue(&self.queue).from_time(since)).await
    }

    /// Presence messages since a point in time, including new ones.
    pub(super) async fn presence(&self, since: SystemTime) -> Result<Subscription, Error> {
        self.client.subscribe(SubscribeOptions::queue(here(&self.queue)).from_time(since)).await
    }

    pub(super) fn is_own(&self, session: &str) -> bool {
        self.session == session
    }

    pub(super) async fn say(&mut self, text: &str) -> Result<(), Error> {
        self.send(self.queue.clone(), MESSAGE, text).await
    }

    pub(super) async fn announce_presence(&mut self) -> Result<(), Error> {
        self.send(here(&self.queue), HERE, "").await
    }

    /// Announces leaving. If that fails, others notice after [`super::STALE`].
    pub(super) async fn leave(&mut self) {
        let announcement = async {
            if self.send(here(&self.queue), LEFT, "").await.is_ok() {
                while self.outcomes.join_next().await.is_some() {}
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, announcement).await;
    }

    /// Waits for a message that failed; stays pending until one does.
    pub(super) async fn next_failure(&mut self) -> String {
        loop {
            match self.outcomes.join_next().await {
                Some(Ok(Some(next_failure))) => return next_failure,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    async fn send(&mut self, queue: String, kind: &str, text: &str) -> Result<(), Error> {
        let word = |text: &str| pb::Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let mut message = publication("", queue, text.to_owned());
        if let Some(message) = &mut message.message {
            message.r#type = kind.to_owned();
            message.content_type = "text/plain; charset=utf-8".to_owned();
            message.headers =
                HashMap::from([("name".to_owned(), word(&self.name)), ("session".to_owned(), word(&self.session))]);
        }
        let receipt = self.publisher.send(message).await?;
        self.outcomes.spawn(async move {
            let result = receipt.await;
            (result.outcome() != Outcome::Confirmed).then(|| format!("not sent: {}", result.reason))
        });
        Ok(())
    }
}

fn here(queue: &str) -> String {
    format!("{queue}.here")
}

/// A message of the chat.
pub(super) struct ChatMessage {
    pub(super) session: String,
    pub(super) name: String,
    pub(super) text: String,
    /// RFC 3339.
    pub(super) time: String,
}

impl ChatMessage {
    /// `None` for a delivery of another form.
    pub(super) fn of(delivery: &Delivery) -> Option<Self> {
        let message = delivery.message();
        (message.r#type == MESSAGE).then_some(())?;
        Some(Self {
            session: header(message, "session")?,
            name: header(message, "name")?,
            text: String::from_utf8_lossy(delivery.body()).into_owned(),
            time: json::time(message.publish_time).unwrap_or_default(),
        })
    }
}

/// A presence message.
pub(super) struct Presence {
    pub(super) session: String,
    pub(super) name: String,
    pub(super) age: Duration,
    pub(super) is_here: bool,
}

impl Presence {
    /// `None` for a delivery of another form.
    pub(super) fn of(delivery: &Delivery) -> Option<Self> {
        let message = delivery.message();
        let is_here = match message.r#type.as_str() {
            HERE => true,
            LEFT => false,
            _ => return None,
        };
        let age = SystemTime::now().duration_since(time(message)).unwrap_or_default();
        Some(Self { session: header(message, "session")?, name: header(message, "name")?, age, is_here })
    }
}

fn header(message: &pb::Message, name: &str) -> Option<String> {
    match message.headers.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn time(message: &pb::Message) -> SystemTime {
    message.publish_time.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or_else(SystemTime::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rooms_and_people_are_checked() {
        assert_eq!(room_name("lobby-2_a").as_deref(), Ok("lobby-2_a"));
        for wrong in ["", "a.b", "lobby.here", "ä", "a b"] {
            assert!(room_name(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(person_name(" Änn B. ").as_deref(), Ok("Änn B."));
        for wrong in ["", "  ", "a\u{1b}[2J", &"x".repeat(33)] {
            assert!(person_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
