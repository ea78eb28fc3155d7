//! The wire format: what prost and tonic make of `proto/warrengate/v1`. Nothing comes in but bytes, and nothing is made of
//! them but decoded messages that no one has checked yet; the rooms below turn them into names and values that are valid.
//! Messages that go out become bytes by `codec`.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated code")]
#![allow(rustdoc::invalid_html_tags, reason = "comments of .proto files are plain text: <token> is no tag")]

mod codec;

// For what is generated below, and nobody else.
use codec::Codec;

tonic::include_proto!("warrengate.v1");

/// The encoded `FileDescriptorSet` of the API, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/warrengate.v1.binpb"));

/// The paths of all methods, as HTTP has them: `/warrengate.v1.Messaging/Publish`.
pub fn method_paths() -> Vec<String> {
    // Compiled in, so it can be decoded.
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
