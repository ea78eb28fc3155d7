//! `warrengate client`: the applications that may get tokens, and their grants.

use serde_json::json;

use super::{
    Error, Output,
    connection::{ADMINISTRATION, ConnectionArgs},
    dev_env,
    grants::{GrantArgs, describe},
    json,
    output::{properties, table},
    values,
};
use crate::pb::{self, admin_client::AdminClient};

const EXAMPLES: &str = "\
Examples:
  warrengate client create acme.worker --subscribe jobs.# --publish results:#
  warrengate client create acme.tool --all
  warrengate client list --tenant acme
  warrengate client update acme.worker --subscribe jobs.# --subscribe mail
  warrengate client rotate-secret acme.worker --overlap 1day
  warrengate client create acme.batch --issuer https://id.example --external-id 9b2c8e60-… --subscribe jobs.#
  warrengate client revoke acme.worker
  warrengate client delete acme.worker

A pattern is words separated by dots; * is one word, # is any number of words.";

/// The flags of `client`.
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
    /// Create a client and print its secret, once
    Create {
        /// TENANT.NAME, or NAME alone for a platform administrator
        id: String,
        /// A display name
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// The external issuer whose tokens it uses, instead of a secret
        #[arg(long, value_name = "ISSUER")]
        issuer: Option<String>,
        /// The client's id at that issuer; by default its name
        #[arg(long, value_name = "ID", requires = "issuer")]
        external_id: Option<String>,
        /// Only validate the request
        #[arg(long)]
        validate_only: bool,
        // Last, since what follows a flattened group would be shown under its heading.
        #[command(flatten)]
        grants: GrantArgs,
    },
    /// Show a tenant's clients
    List {
        /// The tenant; without it, the platform administrators
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
    },
    /// Change a client's display name, or replace its grants
    Update {
        /// The client
        id: String,
        /// A display name
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// The external issuer whose tokens it uses; "" for tokens of the gateway
        #[arg(long, value_name = "ISSUER")]
        issuer: Option<String>,
        /// The client's id at that issuer; by default its name
        #[arg(long, value_name = "ID", requires = "issuer")]
        external_id: Option<String>,
        /// Remove all grants
        #[arg(long, conflicts_with_all = ["publish", "subscribe", "configure", "administer", "observe", "all"])]
        no_grants: bool,
        #[command(flatten)]
        grants: GrantArgs,
    },
    /// Permanently revoke a client and end its streams
    Revoke {
        /// The client
        id: String,
    },
    /// Delete a client, revoked or not, and end its streams; its id can be used again
    Delete {
        /// The client
        id: String,
    },
    /// Create a new secret and print it, once; the old one becomes invalid
    RotateSecret {
        /// The client
        id: String,
        /// Keep the old secret valid for this time, like 1day; otherwise it becomes invalid now, with its tokens
        #[arg(long, value_name = "TIME", value_parser = values::duration)]
        overlap: Option<std::time::Duration>,
    },
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let update = match &args.action {
        Action::Update { display_name, grants, no_grants, issuer, .. } => {
            mask(display_name, grants, *no_grants, issuer.is_some())?
        }
        _ => Vec::new(),
    };
    let endpoint = args.connection.endpoint()?;
    let mut admin = args.connection.connect(ADMINISTRATION).await?.admin();
    match args.action {
        Action::Create { id, display_name, grants, validate_only, issuer, external_id } => {
            let (issuer, external_id) = (issuer.unwrap_or_default(), external_id.unwrap_or_default());
            let (display_name, grants) = (display_name.unwrap_or_default(), Some(grants.grants()));
            let client =
                Some(pb::Client { client_id: id, display_name, grants, issuer, external_id, ..Default::default() });
            let request = pb::CreateClientRequest { client, validate_only, ..Default::default() };
            let created = admin.create_client(request).await?.into_inner();
            let client = created.client.unwrap_or_default();
            secret_note(output, &created.client_secret);
            output.result(
                || json!({"client": json::client(&client), "client_secret": created.client_secret}),
                || format!("{}\n{}", text(&client), properties([("secret", created.client_secret.clone())])),
            )
        }
        Action::List { tenant } => list(&mut admin, tenant.unwrap_or_default(), output).await,
        Action::Update { id, display_name, grants, issuer, external_id, .. } => {
            let (issuer, external_id) = (issuer.unwrap_or_default(), external_id.unwrap_or_default());
            let (display_name, grants) = (display_name.unwrap_or_default(), Some(grants.grants()));
            let request = pb::UpdateClientRequest {
                client: Some(pb::Client {
                    client_id: id,
                    display_name,
                    grants,
                    issuer,
                    external_id,
                    ..Default::default()
                }),
                update_mask: Some(prost_types::FieldMask { paths: update }),
                validate_only: false,
            };
            show(output, admin.update_client(request).await?.into_inner().client)
        }
        Action::Revoke { id } => {
            show(output, admin.revoke_client(pb::RevokeClientRequest { client_id: id }).await?.into_inner().client)
        }
        Action::Delete { id } => {
            admin.delete_client(pb::DeleteClientRequest { client_id: id.clone() }).await?;
            output.result(|| json!({"client_id": id}), || format!("client {id} deleted"))
        }
        Action::RotateSecret { id, overlap } => {
            let overlap = overlap.and_then(|overlap| overlap.try_into().ok());
            let request = pb::RotateClientSecretRequest { client_id: id.clone(), overlap };
            let secret = admin.rotate_client_secret(request).await?.into_inner().client_secret;
            secret_note(output, &secret);
            if dev_env::replace_secret(&endpoint, &id, &secret)? {
                output.note(&format!("{} has the new secret, too", dev_env::PATH));
            }
            output.result(
                || json!({"client_id": id, "client_secret": secret}),
                || properties([("client", id.clone()), ("secret", secret.clone())]),
            )
        }
    }
}

async fn list(
    admin: &mut AdminClient<crate::client::Authenticated>,
    tenant: String,
    output: &Output,
) -> Result<(), Error> {
    let mut clients = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListClientsRequest { tenant: tenant.clone(), page_size: 1_000, page_token };
        let page = admin.list_clients(request).await?.into_inner();
        clients.extend(page.clients);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.result(
        || clients.iter().map(json::client).collect(),
        || {
            let row = |c: &pb::Client| [c.client_id.clone(), state(c).to_owned(), describe(c.grants.as_ref())];
            table(["client", "state", "may"], clients.iter().map(row))
        },
    )
}

fn mask(
    display_name: &Option<String>,
    grants: &GrantArgs,
    no_grants: bool,
    issuer: bool,
) -> Result<Vec<String>, Error> {
    let named =
        [("display_name", display_name.is_some()), ("grants", no_grants || grants.is_given()), ("issuer", issuer)];
    let paths: Vec<_> = named.iter().filter(|(_, given)| *given).map(|(name, _)| (*name).to_owned()).collect();
    if paths.is_empty() {
        return Err(Error::Usage("nothing to change: give --display-name, --issuer, grants or --no-grants".to_owned()));
    }
    Ok(paths)
}

fn secret_note(output: &Output, secret: &str) {
    if !secret.is_empty() {
        output.note("Save the secret now: it cannot be shown again.");
    }
}

fn show(output: &Output, client: Option<pb::Client>) -> Result<(), Error> {
    let client = client.unwrap_or_default();
    output.result(|| json::client(&client), || text(&client))
}

fn text(client: &pb::Client) -> String {
    properties([
        ("client", client.client_id.clone()),
        ("name", client.display_name.clone()),
        ("may", describe(client.grants.as_ref())),
        ("issuer", client.issuer.clone()),
        ("external id", client.external_id.clone()),
        ("state", state(client).to_owned()),
        ("created", json::time(client.created).unwrap_or_default()),
    ])
}

fn state(client: &pb::Client) -> &'static str {
    if client.revoked { "revoked" } else { "active" }
}
