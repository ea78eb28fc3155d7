//! Maps errors of lapin and of RabbitMQ to errors that show the caller what to do. The broker's own text is kept as the
//! source for logs; callers see it only where it contains no names but those of the caller's own objects.

use std::{borrow::Cow, time::Duration};

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::{
    error::{Classify, Kind},
    memory::{self, Full},
};

/// Why an operation at the broker failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The connection does not exist or was lost.
    #[error("the broker cannot be reached")]
    Unreachable(#[source] Option<lapin::Error>),
    /// The broker refuses the tenant: the vhost or the user does not exist, or the certificate is not accepted.
    #[error("the broker refuses this tenant")]
    Refused(#[source] Option<lapin::Error>),
    /// The broker did not answer in time.
    #[error("the broker did not answer in time")]
    Timeout,
    /// The queue does not exist.
    #[error("there is no queue {0:?}")]
    NoQueue(String),
    /// The exchange does not exist.
    #[error("there is no exchange {0:?}")]
    NoExchange(String),
    /// The source or the destination of a binding does not exist.
    #[error("the source or the destination does not exist")]
    NoBindingEndpoint,
    /// An object with this name exists with other arguments.
    #[error("{what} {name:?} exists with another {argument}: it has {current}, but {wanted} was requested")]
    Inequivalent {
        /// "queue" or "exchange".
        what: &'static str,
        /// Its name.
        name: String,
        /// The argument that differs, as the API names it.
        argument: String,
        /// Its value at the broker.
        current: String,
        /// The requested value.
        wanted: String,
    },
    /// An object was to be deleted only if unused.
    #[error("{0} is in use")]
    InUse(String),
    /// A queue was to be deleted only if empty.
    #[error("queue {0:?} is not empty")]
    NotEmpty(String),
    /// Another consumer has exclusive use.
    #[error("queue {0:?} has an exclusive consumer, or has consumers while exclusive use was requested")]
    Exclusive(String),
    /// The queue was deleted, or its node stopped, while it was consumed.
    #[error("queue {0:?} was deleted")]
    QueueDeleted(String),
    /// A limit of the plan that the broker enforces.
    #[error("the plan's limit on {0} is reached")]
    Limit(&'static str),
    /// A start position was given for a queue that is not a stream.
    #[error("queue {0:?} is not a stream queue, so `start.position` is not supported")]
    NoStream(String),
    /// The type of the queue does not support the operation.
    #[error("this type of queue does not support that")]
    Unsupported(#[source] Option<lapin::Error>),
    /// The broker does not allow the routing key of a binding; the text is the broker's.
    #[error("the routing key is not allowed: {0}")]
    InvalidPattern(String),
    /// Another call is reading the dead letters; only one at a time can.
    #[error("another call is reading the dead letters")]
    Busy,
    /// The memory budget cannot take more.
    #[error("the gateway has no memory for this call at the moment; try again later")]
    NoMemory(#[from] Full),
    /// Any other answer.
    #[error("unexpected answer of the broker")]
    Unexpected(#[source] lapin::Error),
}

impl Error {
    /// Whether the connection is at fault, so that a new one may help.
    pub fn is_connection_error(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout)
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreachable(_) | Self::Timeout | Self::Busy => Kind::Unavailable,
            Self::Refused(_) => Kind::Denied,
            Self::NoQueue(_) | Self::NoExchange(_) | Self::NoBindingEndpoint | Self::QueueDeleted(_) => Kind::NotFound,
            Self::Inequivalent { .. }
            | Self::InUse(_)
            | Self::NotEmpty(_)
            | Self::Exclusive(_)
            | Self::NoStream(_)
            | Self::Unsupported(_) => Kind::Precondition,
            Self::InvalidPattern(_) => Kind::Invalid,
            Self::Limit(_) | Self::NoMemory(_) => Kind::Exhausted,
            Self::Unexpected(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "BROKER_UNREACHABLE",
            Self::Refused(_) => "BROKER_REFUSED_TENANT",
            Self::Timeout => "BROKER_TIMEOUT",
            Self::NoQueue(_) => "QUEUE_NOT_FOUND",
            Self::NoExchange(_) => "EXCHANGE_NOT_FOUND",
            Self::NoBindingEndpoint => "BINDING_ENDPOINT_NOT_FOUND",
            Self::Inequivalent { .. } => "EXISTS_WITH_OTHER_ARGUMENTS",
            Self::InUse(_) => "IN_USE",
            Self::NotEmpty(_) => "NOT_EMPTY",
            Self::Exclusive(_) => "EXCLUSIVE_CONSUMER",
            Self::QueueDeleted(_) => "QUEUE_DELETED",
            Self::Limit(_) => "PLAN_LIMIT",
            Self::NoStream(_) | Self::Unsupported(_) => "UNSUPPORTED_BY_QUEUE_TYPE",
            Self::InvalidPattern(_) => "INVALID_ARGUMENT",
            Self::Busy => "DEAD_LETTERS_BUSY",
            Self::NoMemory(_) => "MEMORY_EXHAUSTED",
            Self::Unexpected(_) => "BROKER_UNEXPECTED",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        match self {
            Self::Unreachable(_) | Self::Timeout | Self::Busy => format!("{self}; try again in a moment").into(),
            Self::Refused(_) => format!("{self}; it may have been deleted, or is being created").into(),
            Self::NoQueue(_) | Self::NoExchange(_) => format!("{self}; declare it first").into(),
            _ => self.to_string().into(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoMemory(_) => Some(memory::RETRY_AFTER),
            _ => None,
        }
    }
}

impl From<lapin::Error> for Error {
    fn from(error: lapin::Error) -> Self {
        let lapin::ErrorKind::ProtocolError(amqp) = error.kind() else {
            return match error.kind() {
                lapin::ErrorKind::ChannelsLimitReached => Self::Limit("streams on one connection"),
                lapin::ErrorKind::SerialisationError(_) => Self::Unexpected(error),
                // A parse error ends the connection and reaches every stream on it.
                _ => Self::Unreachable(Some(error)),
            };
        };
        let text = amqp.get_message().to_string();
        match amqp.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => match quoted(&text, "queue ") {
                Some(queue) if text.contains("no queue ") => Self::NoQueue(queue),
                // It exists, but its node is down, or its process was stopped or is being started.
                Some(_) => Self::Unreachable(Some(error)),
                None => match quoted(&text, "exchange ") {
                    Some(exchange) => Self::NoExchange(exchange),
                    None => Self::NoBindingEndpoint,
                },
            },
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => precondition(&text, error.clone()),
            AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => {
                Self::Exclusive(quoted(&text, "queue ").unwrap_or_default())
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => match quoted(&text, "queue ") {
                Some(queue) if text.contains("exclusive") => Self::Exclusive(queue),
                _ => Self::Refused(Some(error.clone())),
            },
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text.contains("connection limit") => {
                Self::Limit("broker connections")
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text.contains("not found") => {
                Self::Refused(Some(error.clone()))
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Self::Refused(Some(error.clone())),
            // A hard error ends the connection and reaches every stream on it, whichever of them caused it.
            AMQPErrorKind::Hard(_) => Self::Unreachable(Some(error.clone())),
            AMQPErrorKind::Soft(_) => Self::Unexpected(error.clone()),
        }
    }
}

/// The name in quotes after a word, as RabbitMQ writes it: `no queue 'q' in vhost 'v'`. It ends without a quote when
/// RabbitMQ has shortened the text.
pub(super) fn quoted(text: &str, after: &str) -> Option<String> {
    let rest = &text[text.find(&format!("{after}'"))? + after.len() + 1..];
    Some(rest.split('\'').next().unwrap_or(rest).to_owned())
}

fn precondition(text: &str, error: lapin::Error) -> Error {
    if let Some(argument) = quoted(text, "inequivalent arg ") {
        let queue = quoted(text, "queue ");
        let what = if queue.is_some() { "queue" } else { "exchange" };
        let name = queue.or_else(|| quoted(text, "exchange ")).unwrap_or_default();
        let (wanted, current) = (value_after(text, "received "), value_after(text, "but current is "));
        if let (Some(wanted), Some(current)) = (implied_type(&argument, &wanted), implied_type(&argument, &current)) {
            return Error::Inequivalent {
                what,
                name,
                argument: "type".into(),
                wanted: wanted.into(),
                current: current.into(),
            };
        }
        return Error::Inequivalent { what, name, argument: api_name(&argument), wanted, current };
    }
    if text.contains("limit") && text.contains("queue") && text.contains("vhost") {
        return Error::Limit("queues");
    }
    // The broker's `consumer_timeout` has closed the channel; the subscription can continue on a new one.
    if text.contains("delivery acknowledgement") && text.contains("timed out") {
        return Error::Unreachable(Some(error));
    }
    if text.contains("wildcards") {
        let words = text.trim_start_matches("PRECONDITION_FAILED - ");
        return Error::InvalidPattern(words.to_owned());
    }
    if text.contains("in use") {
        let name = quoted(text, "queue ").or_else(|| quoted(text, "exchange ")).unwrap_or_default();
        return Error::InUse(format!("{name:?}"));
    }
    if text.contains("'x-stream-offset'")
        && let Some(queue) = quoted(text, "queue ")
    {
        return Error::NoStream(queue);
    }
    if text.contains("not empty") {
        return Error::NotEmpty(quoted(text, "queue ").unwrap_or_default());
    }
    Error::Unsupported(Some(error))
}

/// The queue type that an argument set by the gateway implies. The gateway sets different ones for each type, so a
/// difference in any of them is a difference in type, whichever the broker compares first.
fn implied_type(argument: &str, value: &str) -> Option<&'static str> {
    match (argument, value) {
        ("x-dead-letter-exchange" | "x-overflow", "none") => Some("stream"),
        ("x-dead-letter-exchange" | "x-overflow", _) => Some("quorum or classic"),
        ("x-dead-letter-strategy", "none") => Some("classic or stream"),
        ("x-dead-letter-strategy", _) => Some("quorum"),
        _ => None,
    }
}

/// The name that the API has for an AMQP argument.
fn api_name(argument: &str) -> String {
    let known = match argument {
        "x-queue-type" | "type" => "type",
        "x-max-length" => "max_length",
        "x-max-length-bytes" => "max_length_bytes",
        "x-message-ttl" => "message_ttl",
        "x-expires" => "expires",
        "x-max-priority" => "max_priority",
        "x-single-active-consumer" => "single_active_consumer",
        "x-max-age" => "max_age",
        "x-stream-max-segment-size-bytes" => "stream_max_segment_bytes",
        "alternate-exchange" => "alternate_exchange",
        other => other,
    };
    known.to_owned()
}

/// `'value' of type '…'`, `'value'` or `none`, as RabbitMQ writes a value.
fn value_after(text: &str, after: &str) -> String {
    let Some(start) = text.find(after) else { return "another value".into() };
    let rest = text[start + after.len()..].trim_start_matches("the value ");
    match rest.strip_prefix('\'') {
        Some(value) => value.split('\'').next().unwrap_or_default().to_owned(),
        None => rest.split([' ', ',']).next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn soft(kind: AMQPSoftError, text: &str) -> Error {
        lapin::Error::from(lapin::ErrorKind::ProtocolError(AMQPError::new(kind.into(), text.into()))).into()
    }

    #[test]
    fn a_redeclaration_names_the_argument_that_differs() {
        let error = soft(
            AMQPSoftError::PRECONDITIONFAILED,
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'jobs' in vhost 'wg.acme': received the \
             value '7' of type 'long' but current is the value '5' of type 'long'",
        );
        assert_eq!(error.to_string(), "queue \"jobs\" exists with another max_length: it has 5, but 7 was requested");
        let none = soft(
            AMQPSoftError::PRECONDITIONFAILED,
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost 'v': received 'stream' but \
             current is 'quorum'",
        );
        assert_eq!(none.to_string(), "queue \"q\" exists with another type: it has quorum, but stream was requested");
    }

    #[test]
    fn a_difference_in_arguments_of_the_gateway_is_reported_as_a_difference_in_type() {
        let error = soft(
            AMQPSoftError::PRECONDITIONFAILED,
            "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost 'v': received none but \
             current is the value 'wg.dead-letters' of type 'longstr'",
        );
        let text = "queue \"q\" exists with another type: it has quorum or classic, but stream was requested";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_delivery_that_was_not_acknowledged_in_time_interrupts_and_does_not_end_a_subscription() {
        let text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 20000 ms. \
                    This timeout value can be configured, see consumers doc guide to learn more";
        assert!(soft(AMQPSoftError::PRECONDITIONFAILED, text).is_connection_error());
    }

    #[test]
    fn a_pattern_that_is_not_allowed_is_an_invalid_argument_with_the_text_of_the_broker() {
        let text = "PRECONDITION_FAILED - topic binding key '#.a.#.b.#' uses 3 '#' wildcards, at most 2 are allowed";
        let error = soft(AMQPSoftError::PRECONDITIONFAILED, text);
        assert_eq!((error.kind(), error.reason()), (Kind::Invalid, "INVALID_ARGUMENT"));
        assert!(error.message().contains("at most 2 are allowed"), "{error}");
    }

    #[test]
    fn a_queue_whose_node_is_down_is_not_missing() {
        for text in [
            "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost 'wg.acme' is down or inaccessible",
            "NOT_FOUND - queue 'q' in vhost 'wg.acme' process is stopped by supervisor",
            "NOT_FOUND - failed to perform operation on queue 'q' in vhost 'wg.acme' due to timeout",
        ] {
            assert!(soft(AMQPSoftError::NOTFOUND, text).is_connection_error(), "{text}");
        }
    }

    #[test]
    fn a_missing_object_is_named() {
        let queue = soft(AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'q' in vhost 'wg.acme'");
        assert!(matches!(queue, Error::NoQueue(name) if name == "q"));
        let shortened = soft(AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'a name that is very lo...");
        assert!(matches!(shortened, Error::NoQueue(name) if name == "a name that is very lo..."));
        let exchange = soft(AMQPSoftError::NOTFOUND, "NOT_FOUND - no exchange 'x' in vhost 'wg.acme'");
        assert!(matches!(exchange, Error::NoExchange(name) if name == "x"));
    }
}
