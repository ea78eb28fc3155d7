//! Test messages, derived from a seed, a tenant and a number.
//!
//! The body contains the owner and the expected outcome, so that a consumer can check it without further communication.

use std::time::Duration;

use warrengate::{client::publication, pb};

/// A topic exchange of each tenant.
pub const EXCHANGE: &str = "events";
/// Its queues.
pub const WORK: &str = "work";
pub const POISON: &str = "poison";

/// The retry policy of the queue of poison: tried so often, first after this, then twice that, and so on.
pub const POISON_ATTEMPTS: u32 = 4;
pub const POISON_BACKOFF: Duration = Duration::from_secs(2);
pub const POISON_LONGEST: Duration = Duration::from_secs(8);

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Acknowledged at once.
    Plain,
    /// Tried again once, then acknowledged.
    Retried,
    /// Never done.
    Poison,
    /// Bound nowhere.
    Unroutable,
}

impl Fate {
    const ALL: [(Self, &str); 4] = [
        (Self::Plain, "plain"),
        (Self::Retried, "retried"),
        (Self::Poison, "poison"),
        (Self::Unroutable, "unroutable"),
    ];

    /// The n-th message of every tenant has this fate.
    pub fn of(number: u64) -> Self {
        match number {
            n if n % 50 == 7 => Self::Poison,
            n if n % 25 == 3 => Self::Unroutable,
            n if n % 10 == 1 => Self::Retried,
            _ => Self::Plain,
        }
    }

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(fate, _)| *fate == self).map_or("", |(_, name)| name)
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(fate, _)| *fate)
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
pub fn make(seed: u64, tenant: &str, number: u64) -> pb::Publication {
    let fate = Fate::of(number);
    let id = id(tenant, number);
    let mut body = format!("{id} {} ", fate.name()).into_bytes();
    body.resize(body.len() + padding(seed, number), b'.');
    let mut publication = publication(EXCHANGE, fate.routing_key(number), body);
    if let Some(message) = &mut publication.message {
        message.message_id = id;
    }
    publication
}

/// A few hundred bytes; now and then as much as a picture.
fn padding(seed: u64, number: u64) -> usize {
    // SplitMix64: https://prng.di.unimi.it/splitmix64.c
    let mut mixed = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 27;
    if number % 200 == 199 { 65_536 } else { 64 + usize::try_from(mixed % 448).unwrap_or(0) }
}

/// What a delivery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub id: String,
    pub fate: Fate,
}

/// What the delivery says it is; a sentence when its parts do not agree.
pub fn read(delivery: &pb::Delivery) -> Result<Seen, String> {
    let Some(message) = &delivery.message else { return Err("a delivery without a message".into()) };
    let head = message.body.get(..message.body.len().min(80)).unwrap_or_default();
    let head = String::from_utf8_lossy(head).into_owned();
    let mut words = head.split(' ');
    let (id, fate) = (words.next().unwrap_or_default(), words.next().and_then(Fate::parse));
    let number = id.rsplit_once('/').and_then(|(_, number)| number.parse::<u64>().ok());
    let (Some(fate), Some(number)) = (fate, number) else { return Err(format!("a body of nobody: {head:?}")) };
    if id != message.message_id {
        return Err(format!("body {id} under the id {}", message.message_id));
    }
    let (exchange, key) = (delivery.exchange.as_str(), delivery.routing_key.as_str());
    if exchange != EXCHANGE || key != fate.routing_key(number) {
        return Err(format!("{id} came as if published to {exchange:?} with {key:?}"));
    }
    Ok(Seen { id: id.to_owned(), fate })
}
