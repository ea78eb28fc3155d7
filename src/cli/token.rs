//! `warrengate token`: a token for other tools, or the identity of the current one.

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    grants::describe,
    json,
    output::properties,
    values,
};
use crate::pb;

const EXAMPLES: &str = "\
Examples:
  warrengate token                            only the token, for `Authorization: Bearer ...`
  warrengate token --as globex --json
  warrengate token --whoami";

/// The flags of `token`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Show the token's identity and grants instead of the token
    #[arg(long)]
    whoami: bool,
    /// The token's lifetime, like 10m [default: the configured limit]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    lifetime: Option<std::time::Duration>,
    // Last, since what follows a flattened group would be shown under its heading.
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let client = args.connection.connect_with(DATA, |options| match args.lifetime {
        Some(lifetime) => options.token_lifetime(lifetime),
        None => options,
    });
    let client = client.await?;
    if args.whoami {
        let me = client.auth().who_am_i(pb::WhoAmIRequest {}).await?.into_inner();
        return output.result(
            || {
                json!({
                    "tenant": me.tenant,
                    "client_id": me.client_id,
                    "grants": json::grants(me.grants.as_ref()),
                    "token_expires": json::time(me.token_expires),
                })
            },
            || {
                let tenant = if me.tenant.is_empty() { "none (platform administrator)" } else { &me.tenant };
                properties([
                    ("client", me.client_id.clone()),
                    ("tenant", tenant.to_owned()),
                    ("may", describe(me.grants.as_ref())),
                    ("token expires", json::time(me.token_expires).unwrap_or_default()),
                ])
            },
        );
    }
    let token = client.token().await?.ok_or_else(|| Error::Failed("no token is available".to_owned()))?;
    let text = token.secret().expose_secret();
    output.result(
        || {
            let expires = token.expires().map(|expires| json::time(Some(expires.into())));
            json!({"access_token": text, "token_type": "Bearer", "expires": expires})
        },
        || text.to_owned(),
    )
}
