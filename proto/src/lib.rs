//! The protobuf API `warrengate.v1` as Rust types: messages, gRPC clients and servers, and the error details that
//! accompany a gRPC status.
//!
//! Decoded messages are unchecked input: the receiver validates their names and values.

mod codec;
mod elements;

pub mod error;

/// The types that prost and tonic generate. Committed, so that builds need no generator (crates/codegen).
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated code")]
#[allow(rustdoc::invalid_html_tags, reason = "comments of .proto files are plain text, not HTML")]
mod generated {
    include!("generated/warrengate.v1.rs");
}

pub use codec::{LONG_FIELDS, LongWork, LongWorkState, set_long_decoding};
pub use elements::{MAX_ELEMENTS, TooManyElements};
pub use generated::*;

/// The encoded `FileDescriptorSet` of the API, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/warrengate.v1.binpb");

/// The HTTP paths of all methods: `/warrengate.v1.Messaging/Publish`.
pub fn method_paths() -> Vec<String> {
    paths(|_| true)
}

/// The HTTP paths of the methods whose requests are streams.
pub fn client_streaming_paths() -> Vec<String> {
    paths(prost_types::MethodDescriptorProto::client_streaming)
}

/// The HTTP paths of the methods whose responses are streams.
pub fn server_streaming_paths() -> Vec<String> {
    paths(prost_types::MethodDescriptorProto::server_streaming)
}

fn paths(is_wanted: impl Fn(&prost_types::MethodDescriptorProto) -> bool) -> Vec<String> {
    // The descriptor set is compiled in, so decoding it cannot fail.
    let files: prost_types::FileDescriptorSet = prost::Message::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut paths = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let methods = service.method.iter().filter(|method| is_wanted(method));
            paths.extend(methods.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())));
        }
    }
    paths
}
