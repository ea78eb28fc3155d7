//! Generates `proto/src/generated` from the protobuf files: `cargo run -p warrengate-codegen`.
//!
//! The result is committed, so that builds of the gateway and of the client compile no generator, and a test fails when
//! it is stale. protox compiles the files, so that no `protoc` is needed. This crate does not depend on
//! `warrengate-proto`, so it works while the committed code does not compile.

use std::{error::Error, fs, path::Path};

use prost::Message as _;

/// The files in `proto/warrengate/v1`.
const FILES: [&str; 5] = ["message", "messaging", "topology", "auth", "admin"];
/// The encoded `FileDescriptorSet`, for gRPC reflection.
const DESCRIPTORS: &str = "warrengate.v1.binpb";
const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");

fn main() -> Result<(), Box<dyn Error>> {
    generate(&Path::new(PROTO).join("src/generated"))
}

fn generate(folder: &Path) -> Result<(), Box<dyn Error>> {
    let files = FILES.map(|name| format!("warrengate/v1/{name}.proto"));
    let descriptors = protox::compile(files, [PROTO])?;
    fs::write(folder.join(DESCRIPTORS), descriptors.encode_to_vec())?;

    let mut config = tonic_prost_build::Config::new();
    // The codec needs the name of a request to count its elements.
    config.enable_type_names();
    tonic_prost_build::configure()
        // Bodies are not copied between the sockets.
        .bytes(".warrengate.v1")
        .codec_path("crate::codec::Codec")
        .out_dir(folder)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot continue has failed")]
mod tests {
    use super::*;

    #[test]
    fn the_committed_code_is_generated_from_the_proto_files() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path()).unwrap();
        for name in ["warrengate.v1.rs", DESCRIPTORS] {
            let committed = fs::read(Path::new(PROTO).join("src/generated").join(name)).unwrap_or_default();
            let is_equal = committed == fs::read(folder.path().join(name)).unwrap();
            assert!(is_equal, "proto/src/generated/{name} is stale; run: cargo run -p warrengate-codegen");
        }
    }

    #[test]
    fn every_proto_file_is_compiled() {
        let entries = fs::read_dir(Path::new(PROTO).join("warrengate/v1")).unwrap();
        let mut found: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        let mut compiled = FILES.map(|name| format!("{name}.proto"));
        compiled.sort();
        assert_eq!(found, compiled);
    }
}
