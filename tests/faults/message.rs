//! Test messages, derived from a seed, a tenant and a number.
//!
//! The body contains the owner and the expected outcome, so that a consumer can check it without further communication.

use std::time::Duration;

use warrengate::{client::publication, pb};

/// A topic exchange of each tenant.
pub const EXCHANGE: &str = "events";
/// The queues of each tenant.
pub const WORK: &str = "work";
pub const POISON: &str = "poison";

/// The retry policy of the poison queue: the number of attempts, the first delay, which doubles each time, and the
/// longest delay.
pub const POISON_ATTEMPTS: u32 = 4;
pub const POISON_BACKOFF: Duration = Duration::from_secs(2);
pub const POISON_MAX_BACKOFF: Duration = Duration::from_secs(8);

/// The expected outcome of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Acknowledged at once.
    Plain,
    /// Retried once, then acknowledged.
    Retried,
    /// Never acknowledged.
    Poison,
    /// Has no binding.
    Unroutable,
}

impl Disposition {
    const ALL: [(Self, &str); 4] = [
        (Self::Plain, "plain"),
        (Self::Retried, "retried"),
        (Self::Poison, "poison"),
        (Self::Unroutable, "unroutable"),
    ];

    /// The disposition of every tenant's n-th message.
    pub fn of(number: u64) -> Self {
        match number {
            n if n % 50 == 7 => Self::Poison,
            n if n % 25 == 3 => Self::Unroutable,
            n if n % 10 == 1 => Self::Retried,
            _ => Self::Plain,
        }
    }

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(disposition, _)| *disposition == self).map_or("", |(_, name)| name)
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(disposition, _)| *disposition)
    }

    fn routing_key(self, number: u64) -> String {
        let queue = match self {
            Self::Plain | Self::Retried => WORK,
            Self::Poison => POISON,
            Self::Unroutable => "nowhere",
        };
        format!("{queue}.{}", number % 7)
    }
}

/// The id of a tenant's n-th message.
pub fn id(tenant: &str, number: u64) -> String {
    format!("{tenant}/{number}")
}

/// The n-th message of a tenant.
pub fn create(seed: u64, tenant: &str, number: u64) -> pb::Publication {
    let disposition = Disposition::of(number);
    let id = id(tenant, number);
    let mut body = format!("{id} {} ", disposition.name()).into_bytes();
    body.resize(body.len() + padding(seed, number), b'.');
    let mut publication = publication(EXCHANGE, disposition.routing_key(number), body);
    if let Some(message) = &mut publication.message {
        message.message_id = id;
    }
    publication
}

/// Some hundred bytes, and occasionally as many as a picture.
fn padding(seed: u64, number: u64) -> usize {
    // SplitMix64: https://prng.di.unimi.it/splitmix64.c
    let mut mixed = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 27;
    if number % 200 == 199 { 65_536 } else { 64 + usize::try_from(mixed % 448).unwrap_or(0) }
}

/// The content of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub id: String,
    pub disposition: Disposition,
}

/// Reads the content of a delivery; an error if its parts do not agree.
pub fn read(delivery: &pb::Delivery) -> Result<Content, String> {
    let Some(message) = &delivery.message else { return Err("a delivery without a message".into()) };
    let head = message.body.get(..message.body.len().min(80)).unwrap_or_default();
    let head = String::from_utf8_lossy(head).into_owned();
    let mut words = head.split(' ');
    let (id, disposition) = (words.next().unwrap_or_default(), words.next().and_then(Disposition::parse));
    let number = id.rsplit_once('/').and_then(|(_, number)| number.parse::<u64>().ok());
    let (Some(disposition), Some(number)) = (disposition, number) else {
        return Err(format!("an unknown body: {head:?}"));
    };
    if id != message.message_id {
        return Err(format!("body {id} under the id {}", message.message_id));
    }
    let (exchange, key) = (delivery.exchange.as_str(), delivery.routing_key.as_str());
    if exchange != EXCHANGE || key != disposition.routing_key(number) {
        return Err(format!("{id} was delivered as if published to {exchange:?} with {key:?}"));
    }
    Ok(Content { id: id.to_owned(), disposition })
}
