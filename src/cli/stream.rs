//! `warrengate stream`: the open publish, subscribe and redrive streams of a tenant on a gateway.

use serde_json::{Value, json};

use super::{
    Error, Output,
    connection::{ADMINISTRATION, ConnectionArgs},
    json,
    output::table,
    plan::limits::amount,
};
use crate::pb;

const EXAMPLES: &str = "\
Examples:
  warrengate stream list acme
  warrengate stream list acme --client acme.app --kind subscribe
  warrengate stream list --as acme                  a tenant's client with the observe grant: its own tenant
  warrengate stream close acme 0198c0ffee0000000000000000000000

The streams are those of the answering gateway. The client of a closed stream may open another one at once; to prevent
that, revoke the client.";

/// The flags of `stream`.
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
    /// Show the open streams of a tenant
    List {
        /// The tenant [default: the caller's own]
        tenant: Option<String>,
        /// Only those of this client
        #[arg(long = "client", value_name = "ID")]
        client: Option<String>,
        /// Only those of this kind
        #[arg(long, value_name = "KIND", value_enum)]
        kind: Option<Kind>,
    },
    /// Close a stream; its unsettled messages return to their queue
    Close {
        /// The tenant
        tenant: String,
        /// The stream's id
        stream_id: String,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Publish and PublishBatch
    Publish,
    /// Subscribe and Receive
    Subscribe,
    /// RedriveDeadLetters
    Redrive,
}

impl From<Kind> for pb::StreamKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Publish => Self::Publish,
            Kind::Subscribe => Self::Subscribe,
            Kind::Redrive => Self::Redrive,
        }
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut admin = args.connection.connect(ADMINISTRATION).await?.admin();
    match args.action {
        Action::List { tenant, client, kind } => {
            let mut streams = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = pb::ListStreamsRequest {
                    tenant: tenant.clone().unwrap_or_default(),
                    client_id: client.clone().unwrap_or_default(),
                    kind: kind.map_or(pb::StreamKind::Unspecified, Into::into).into(),
                    page_size: 1_000,
                    page_token,
                };
                let page = admin.list_streams(request).await?.into_inner();
                streams.extend(page.streams);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            output.result(|| streams.iter().map(object).collect(), || text(&streams))
        }
        Action::Close { tenant, stream_id } => {
            admin.close_stream(pb::CloseStreamRequest { tenant, stream_id: stream_id.clone() }).await?;
            output.result(|| json!({"closed": stream_id}), || format!("closed {stream_id}"))
        }
    }
}

fn kind(stream: &pb::OpenStream) -> String {
    json::short(stream.kind().as_str_name(), "STREAM_KIND")
}

fn object(stream: &pb::OpenStream) -> Value {
    json!({
        "stream_id": stream.stream_id,
        "client_id": stream.client_id,
        "kind": kind(stream),
        "peer_address": stream.peer_address,
        "since": json::time(stream.since),
        "queue": stream.queue,
        "in_flight_messages": stream.in_flight_messages,
        "in_flight_bytes": stream.in_flight_bytes,
        "messages": stream.messages,
        "messages_per_second": stream.messages_per_second,
    })
}

fn text(streams: &[pb::OpenStream]) -> String {
    let row = |stream: &pb::OpenStream| {
        [
            stream.stream_id.clone(),
            stream.client_id.clone(),
            kind(stream),
            stream.queue.clone(),
            stream.peer_address.clone(),
            json::time(stream.since).unwrap_or_default(),
            format!("{} ({})", stream.in_flight_messages, amount(stream.in_flight_bytes)),
            stream.messages.to_string(),
            format!("{}/s", stream.messages_per_second),
        ]
    };
    let header = ["stream", "client", "kind", "queue", "from", "since", "in flight", "messages", "rate"];
    table(header, streams.iter().map(row))
}
