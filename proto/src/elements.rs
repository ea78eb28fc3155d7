//! Counts the elements of an encoded request before it is decoded.
//!
//! An element of two encoded bytes needs hundreds of bytes of memory when it is decoded. The scan is linear, allocates
//! nothing, and ends at the first limit that is exceeded, so decoding a frame needs at most a small multiple of its
//! encoded size. Invalid protobuf is not refused here: the decoder refuses it and reports the position.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tonic::Status;

use super::FILE_DESCRIPTOR_SET;

/// The maximum number of messages, map entries and list items in one request, at all depths.
pub const MAX_ELEMENTS: usize = 65_536;
/// Lower limits of single fields, by name.
const LIMITS: &[(&str, usize)] = &[("publications", 1_000), ("delivery_ids", 10_000), ("dead_letter_ids", 1_000)];
/// The maximum depth of nested messages; prost refuses more.
const MAX_DEPTH: usize = 100;

static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::load);

/// The error for a request with more elements than are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooManyElements {
    /// The path of the field; empty when the whole request has too many.
    pub field: String,
    /// The maximum number.
    pub limit: usize,
}

impl fmt::Display for TooManyElements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.is_empty() {
            true => write!(f, "the request has more than {} elements", self.limit),
            false => write!(f, "has more than {}", self.limit),
        }
    }
}

impl std::error::Error for TooManyElements {}

impl From<TooManyElements> for Status {
    /// Keeps the error as the source. The message has the form `field: problem`, because an HTTP response contains
    /// nothing else of it.
    fn from(error: TooManyElements) -> Self {
        let mut status = match error.field.is_empty() {
            true => Self::invalid_argument(error.to_string()),
            false => Self::invalid_argument(format!("{}: {error}", error.field)),
        };
        status.set_source(Arc::new(error));
        status
    }
}

/// A type of request whose elements are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root(usize);

impl Root {
    /// The type with this full name if it is a request. Responses are not counted, because the gateway writes them.
    pub(super) fn of(full_name: &str) -> Option<Self> {
        if !full_name.ends_with("Request") {
            return None;
        }
        SCHEMA.by_name.get(full_name).copied().map(Self)
    }

    /// Counts the elements of an encoded request.
    pub(super) fn check(self, encoded: &[u8]) -> Result<(), TooManyElements> {
        self.check_short(encoded, usize::MAX).unwrap_or(Ok(()))
    }

    /// The same for a request of at most so many fields; `None` for a longer one.
    pub(super) fn check_short(self, encoded: &[u8], max_fields: usize) -> Option<Result<(), TooManyElements>> {
        let mut left = Left { elements: MAX_ELEMENTS, fields: max_fields };
        match SCHEMA.scan(self.0, encoded, &mut left, 0) {
            Ok(()) => Some(Ok(())),
            Err(Stop::TooManyElements(error)) => Some(Err(error)),
            Err(Stop::TooManyFields) => None,
        }
    }
}

/// What a scan may still count.
struct Left {
    elements: usize,
    /// Fields of any kind.
    fields: usize,
}

/// Why a scan ends before the end of the request.
enum Stop {
    TooManyElements(TooManyElements),
    TooManyFields,
}

struct Schema {
    types: Vec<Vec<Option<Field>>>,
    by_name: HashMap<String, usize>,
}

struct Field {
    name: String,
    /// The index of its type if that is a message.
    message: Option<usize>,
    repeated: bool,
    /// The bytes of one element in a packed list; `None` for varints.
    width: Option<usize>,
    limit: usize,
}

impl Schema {
    fn load() -> Self {
        // The descriptor set is compiled in, so decoding it cannot fail.
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
        let mut messages = Vec::new();
        for file in files.file {
            let package = file.package().to_owned();
            for message in file.message_type {
                collect(&package, message, &mut messages);
            }
        }
        let by_name: HashMap<_, _> =
            messages.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)).collect();
        let types = messages
            .iter()
            .map(|(_, message)| {
                let mut fields = Vec::new();
                for field in &message.field {
                    let number = usize::try_from(field.number()).unwrap_or(0);
                    if fields.len() <= number {
                        fields.resize_with(number + 1, || None);
                    }
                    fields[number] = Some(Field::of(field, &by_name));
                }
                fields
            })
            .collect();
        Self { types, by_name }
    }

    fn scan(&self, message: usize, mut rest: &[u8], left: &mut Left, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Ok(());
        }
        let mut limited = 0;
        while !rest.is_empty() {
            left.fields = left.fields.checked_sub(1).ok_or(Stop::TooManyFields)?;
            let Some((number, wire)) = tag(&mut rest) else { return Ok(()) };
            let Some(payload) = payload(wire, &mut rest) else { return Ok(()) };
            let Some(field) = self.types[message].get(number).and_then(Option::as_ref) else { continue };
            let elements = match (field.message, field.repeated) {
                (Some(_), _) => 1,
                (None, true) => field.elements(wire, payload),
                (None, false) => continue,
            };
            if field.limit < MAX_ELEMENTS {
                limited += elements;
                if limited > field.limit {
                    return Err(TooManyElements { field: field.name.clone(), limit: field.limit }.into());
                }
            }
            left.elements = left
                .elements
                .checked_sub(elements)
                .ok_or(TooManyElements { field: String::new(), limit: MAX_ELEMENTS })?;
            if let Some(inner) = field.message {
                self.scan(inner, payload, left, depth + 1).map_err(|stop| stop.inside(&field.name))?;
            }
        }
        Ok(())
    }
}

impl From<TooManyElements> for Stop {
    fn from(error: TooManyElements) -> Self {
        Self::TooManyElements(error)
    }
}

impl Stop {
    fn inside(self, name: &str) -> Self {
        match self {
            Self::TooManyElements(error) => error.inside(name).into(),
            Self::TooManyFields => self,
        }
    }
}

impl TooManyElements {
    fn inside(self, name: &str) -> Self {
        // A frame with the same name as its only list is not repeated in the path.
        match self.field.is_empty() || self.field == name {
            true => self,
            false => Self { field: format!("{name}.{}", self.field), ..self },
        }
    }
}

impl Field {
    fn of(field: &FieldDescriptorProto, by_name: &HashMap<String, usize>) -> Self {
        let width = match field.r#type() {
            Type::Double | Type::Fixed64 | Type::Sfixed64 => Some(8),
            Type::Float | Type::Fixed32 | Type::Sfixed32 => Some(4),
            _ => None,
        };
        let limit = LIMITS.iter().find(|(name, _)| *name == field.name()).map_or(MAX_ELEMENTS, |(_, limit)| *limit);
        Self {
            name: field.name().to_owned(),
            message: by_name.get(field.type_name().trim_start_matches('.')).copied(),
            repeated: field.label() == Label::Repeated,
            width,
            limit,
        }
    }

    /// The number of elements in one occurrence of a repeated scalar field: several if it is packed.
    fn elements(&self, wire: u8, payload: &[u8]) -> usize {
        match (wire, self.width, self.name.as_str()) {
            // Strings and bytes are not packed; ids are.
            (2, Some(width), _) => payload.len() / width,
            (2, None, "delivery_ids") => payload.iter().filter(|byte| **byte < 0x80).count(),
            _ => 1,
        }
    }
}

fn collect(package: &str, message: DescriptorProto, into: &mut Vec<(String, DescriptorProto)>) {
    let name = format!("{package}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested.clone(), into);
    }
    into.push((name, message));
}

fn tag(rest: &mut &[u8]) -> Option<(usize, u8)> {
    let tag = varint(rest)?;
    Some((usize::try_from(tag >> 3).ok()?, (tag & 7) as u8))
}

/// The bytes of a value; empty for varints.
fn payload<'a>(wire: u8, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = match wire {
        0 => {
            varint(rest)?;
            return Some(&[]);
        }
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (payload, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(payload)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Name as _;

    use super::*;
    use crate::{
        Ack, Message, Publication, Publications, PublishBatchRequest, PublishRequest, SubscribeRequest, Value,
        ValueTable, publish_request, subscribe_request::Frame, value,
    };

    fn check(name: &str, encoded: &[u8]) -> Result<(), TooManyElements> {
        Root::of(name).expect("a request").check(encoded)
    }

    #[test]
    fn a_thousand_publications_pass_and_one_more_is_refused() {
        let batch = |count| PublishBatchRequest { publications: vec![Publication::default(); count] }.encode_to_vec();
        let frame = |count| {
            let publications = Publications { publications: vec![Publication::default(); count] };
            PublishRequest { frame: Some(publish_request::Frame::Publications(publications)) }.encode_to_vec()
        };
        for (name, encoded) in [
            (PublishBatchRequest::full_name(), &batch as &dyn Fn(usize) -> Vec<u8>),
            (PublishRequest::full_name(), &frame as &dyn Fn(usize) -> Vec<u8>),
        ] {
            assert_eq!(check(&name, &encoded(1_000)), Ok(()));
            let error = check(&name, &encoded(1_001)).expect_err("too many");
            assert_eq!((error.field.as_str(), error.limit), ("publications", 1_000));
        }
    }

    #[test]
    fn packed_ids_are_counted_one_by_one_and_named_by_their_path() {
        let ack = |ids: usize| {
            let delivery_ids = (0..ids as u64).collect();
            let frame = Some(Frame::Ack(Ack { delivery_ids, ..Default::default() }));
            SubscribeRequest { frame }.encode_to_vec()
        };
        let name = SubscribeRequest::full_name();
        assert_eq!(check(&name, &ack(10_000)), Ok(()));
        let error = check(&name, &ack(10_001)).expect_err("too many");
        assert_eq!((error.field.as_str(), error.limit), ("ack.delivery_ids", 10_000));
        // For protobuf, occurrences of the same field are one list.
        let error = check(&name, &ack(10_000).repeat(7)).expect_err("too many in all");
        assert_eq!(error, TooManyElements { field: String::new(), limit: MAX_ELEMENTS });
    }

    #[test]
    fn headers_are_counted_at_every_depth() {
        let nested = |count: usize| {
            let entries = (0..count).map(|at| (at.to_string(), Value::default())).collect();
            let table = Value { kind: Some(value::Kind::TableValue(ValueTable { entries })) };
            let message = Message { headers: [("table".to_owned(), table)].into(), ..Default::default() };
            let publication = Publication { message: Some(message), ..Default::default() };
            PublishBatchRequest { publications: vec![publication; 2] }.encode_to_vec()
        };
        let name = PublishBatchRequest::full_name();
        assert_eq!(check(&name, &nested(1_000)), Ok(()));
        assert_eq!(check(&name, &nested(40_000)).expect_err("too many").limit, MAX_ELEMENTS);
    }

    #[test]
    fn a_request_with_more_fields_than_are_scanned_at_once_is_recognised() {
        let root = Root::of(&PublishBatchRequest::full_name()).expect("a request");
        let batch = |count| PublishBatchRequest { publications: vec![Publication::default(); count] }.encode_to_vec();
        assert_eq!(root.check_short(&batch(10), 10), Some(Ok(())));
        assert_eq!(root.check_short(&batch(11), 10), None);
        // Fields that the type does not have cost time, too.
        assert_eq!(root.check_short(&[0x78, 1].repeat(11), 10), None);
        assert_eq!(root.check(&[0x78, 1].repeat(11)), Ok(()));
    }

    #[test]
    fn responses_are_not_counted_and_invalid_protobuf_is_left_to_the_decoder() {
        assert!(Root::of("warrengate.v1.PublishBatchResponse").is_none());
        for bytes in [&[0x0a][..], &[0x0a, 0xff], &[0xff; 20], &[0x0b, 0x0b]] {
            assert_eq!(check("warrengate.v1.PublishRequest", bytes), Ok(()));
        }
    }
}
