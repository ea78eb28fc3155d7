//! Messages between protobuf and AMQP: properties, headers, times, and the delivery that is kept until it is settled.

pub(super) mod headers;
pub(super) mod properties;
pub(super) mod retained;
pub(super) mod time;
