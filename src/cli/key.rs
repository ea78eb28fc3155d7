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
  warrengate key rotate           tokens of the old key remain valid until they expire
  warrengate key revoke 0198f…    a key has leaked: its tokens are refused at once
  warrengate key revoke --all";

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
    /// Revoke a key at once, after a leak: its tokens are refused and the streams that they opened end
    Revoke {
        /// The key's id (kid), as /.well-known/jwks.json shows it
        #[arg(required_unless_present = "all")]
        key_id: Option<String>,
        /// Revoke all keys: every client has to request a new token
        #[arg(long, conflicts_with = "key_id")]
        all: bool,
    },
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
        Action::Revoke { key_id, all } => {
            let request = pb::RevokeSigningKeyRequest { key_id: key_id.unwrap_or_default(), all };
            let key_ids = admin.revoke_signing_key(request).await?.into_inner().key_ids;
            output.result(|| json!({ "key_ids": key_ids }), || properties([("revoked", key_ids.join(", "))]))
        }
    }
}
