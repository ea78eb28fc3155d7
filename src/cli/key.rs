//! `warrengate key`: the keys that sign tokens.

use serde_json::json;

use super::{
    Error, Output,
    connection::{ADMINISTRATION, ConnectionArgs},
    output::properties,
};
use crate::pb;

const EXAMPLES: &str = "\
Examples:
  warrengate key rotate      tokens of the old key remain valid until they expire";

/// The flags of `key`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Sign with a new key; tokens of the old one remain valid until they expire
    Rotate,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut admin = args.connection.connect(ADMINISTRATION).await?.admin();
    match args.action {
        Action::Rotate => {
            let rotated = admin.rotate_signing_key(pb::RotateSigningKeyRequest {}).await?.into_inner();
            output.result(
                || json!({ "key_id": rotated.key_id }),
                || properties([("new signing key", rotated.key_id.clone())]),
            )
        }
    }
}
