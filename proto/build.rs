//! Compiles the protobuf files with protox, so that no `protoc` is needed on the machine.

use std::{error::Error, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 5] = ["message", "messaging", "topology", "auth", "admin"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=warrengate");
    let files = FILES.map(|name| format!("warrengate/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["."])?;

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("warrengate.v1.binpb"), descriptors.encode_to_vec())?;

    let mut config = tonic_prost_build::Config::new();
    // The codec needs the name of a request to count its elements.
    config.enable_type_names();
    tonic_prost_build::configure()
        // Bodies are not copied between the sockets.
        .bytes(".warrengate.v1")
        .codec_path("crate::codec::Codec")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
