//! The protobuf API `warrengate.v1` as Rust types: messages, gRPC clients and servers, and the error details that
//! accompany a gRPC status.
//!
//! Decoded messages are unchecked input: whoever receives one validates its names and values.

mod codec;

pub mod error;

/// The types that prost and tonic generate.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated code")]
#[allow(rustdoc::invalid_html_tags, reason = "comments of .proto files are plain text, not HTML")]
mod generated {
    tonic::include_proto!("warrengate.v1");
}

pub use generated::*;

/// The encoded `FileDescriptorSet` of the API, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/warrengate.v1.binpb"));

/// The HTTP paths of all methods: `/warrengate.v1.Messaging/Publish`.
pub fn method_paths() -> Vec<String> {
    // The descriptor set is compiled in, so decoding it cannot fail.
    let files: prost_types::FileDescriptorSet = prost::Message::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut paths = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let methods = service.method.iter();
            paths.extend(methods.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())));
        }
    }
    paths
}
