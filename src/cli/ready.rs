//! `warrengate ready`: a health check for a gateway on this machine, with an exit code.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use serde_json::json;

use super::{Error, Output};
use crate::transport::probe;

const EXAMPLES: &str = "\
Examples:
  warrengate ready
  warrengate ready --ops 127.0.0.1:8080 --ca certs/gateway-ca.pem";

/// The flags of `ready`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The address of the operations listener
    #[arg(long, value_name = "ADDRESS", env = "WARRENGATE_OPS__LISTEN", default_value = "127.0.0.1:8080")]
    ops: SocketAddr,
    /// The CA of its certificate, if it uses TLS
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut ops = args.ops;
    if ops.ip().is_unspecified() {
        ops.set_ip(match ops.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    match probe(ops, args.ca.as_deref()).await {
        Ok(Ok(())) => output.result(|| json!({ "ready": true }), || "ready".to_owned()),
        Ok(Err(answer)) => Err(Error::Failed(format!("not ready: {answer}"))),
        Err(error) => Err(Error::Failed(error.to_string())),
    }
}
