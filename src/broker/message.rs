//! Messages between protobuf and AMQP: properties, headers, times, and the delivery that is retained until it is
//! settled.

pub(super) mod delay_bucket;
pub(super) mod headers;
pub(super) mod properties;
pub(super) mod retained;
pub(super) mod size;
pub(super) mod time;
pub(super) mod typed_json;
