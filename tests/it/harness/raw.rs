//! Streams at the frame level, as a client in another language uses them, and decoded statuses.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use warrengate::{
    client::Client,
    pb::{
        self, publish_request::Frame as PublishFrame, publish_response, subscribe_request::Frame as SubscribeFrame,
        subscribe_response,
    },
};

use super::wait::within;

/// The stable reason of a status.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// The request field that a status names.
pub fn field(status: &Status) -> String {
    let details = status.get_error_details();
    details.bad_request().map(|bad| bad.field_violations[0].field.clone()).unwrap_or_default()
}

/// Everything in a status that a caller could compare, except the name that it sent itself.
pub fn shape(status: &Status, name: &str) -> (Code, String, String, String) {
    (status.code(), reason(status), field(status), status.message().replace(name, "<name>"))
}

/// A stream of frames in both directions.
pub struct Raw<Q, A> {
    requests: Option<mpsc::Sender<Q>>,
    responses: Streaming<A>,
}

pub type RawSubscribe = Raw<pb::SubscribeRequest, pb::SubscribeResponse>;
pub type RawPublish = Raw<pb::PublishRequest, pb::PublishResponse>;

impl<Q, A> Raw<Q, A> {
    /// Closes the sending side.
    pub fn finish(&mut self) {
        self.requests = None;
    }

    async fn request(&self, request: Q) {
        // Sending fails when the stream has ended, which the test checks separately.
        let _ = self.requests.as_ref().unwrap().send(request).await;
    }

    async fn response(&mut self) -> Result<Option<A>, Status> {
        within("a frame", self.responses.message()).await
    }

    /// Reads until the end of the stream, and returns its status and time.
    pub async fn end(&mut self) -> (Status, Instant) {
        // The deadline covers everything, because heartbeats would extend a deadline for each frame.
        within("the end of the stream", async {
            loop {
                match self.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return (Status::ok(""), Instant::now()),
                    Err(status) => return (status, Instant::now()),
                }
            }
        })
        .await
    }
}

impl RawSubscribe {
    /// Opens the stream and sends nothing.
    pub async fn open(client: &Client) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(64);
        let opened = client.raw_messaging().subscribe(ReceiverStream::new(outgoing)).await?;
        Ok(Self { requests: Some(requests), responses: opened.into_inner() })
    }

    /// Opens the stream and waits until it has started.
    pub async fn started(client: &Client, queue: &str) -> Self {
        let mut stream = Self::open(client).await.unwrap();
        stream.send(SubscribeFrame::Start(start(queue))).await;
        let first = stream.event().await.unwrap();
        assert!(matches!(first, Some(subscribe_response::Event::Started(_))), "{first:?}");
        stream
    }

    pub async fn send(&self, frame: SubscribeFrame) {
        self.request(pb::SubscribeRequest { frame: Some(frame) }).await;
    }

    /// A request without a frame.
    pub async fn send_empty(&self) {
        self.request(pb::SubscribeRequest { frame: None }).await;
    }

    /// The next event other than a heartbeat.
    pub async fn event(&mut self) -> Result<Option<subscribe_response::Event>, Status> {
        loop {
            let Some(response) = self.response().await? else { return Ok(None) };
            match response.event {
                Some(subscribe_response::Event::Heartbeat(_)) => {}
                event => return Ok(event),
            }
        }
    }

    /// The next delivery, which must be the next event, and the only one in its frame.
    pub async fn delivery(&mut self) -> pb::Delivery {
        match self.event().await.unwrap() {
            Some(subscribe_response::Event::Deliveries(mut frame)) if frame.deliveries.len() == 1 => {
                frame.deliveries.remove(0)
            }
            other => panic!("a delivery expected, not {other:?}"),
        }
    }

    pub async fn ack(&self, delivery_ids: Vec<u64>, through: u64) {
        self.send(SubscribeFrame::Ack(pb::Ack { delivery_ids, through })).await;
    }
}

impl RawPublish {
    pub async fn open(client: &Client) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(64);
        let opened = client.raw_messaging().publish(ReceiverStream::new(outgoing)).await?;
        Ok(Self { requests: Some(requests), responses: opened.into_inner() })
    }

    pub async fn send(&self, frame: PublishFrame) {
        self.request(pb::PublishRequest { frame: Some(frame) }).await;
    }

    pub async fn send_empty(&self) {
        self.request(pb::PublishRequest { frame: None }).await;
    }

    /// The next event.
    pub async fn event(&mut self) -> Result<Option<publish_response::Event>, Status> {
        Ok(self.response().await?.and_then(|response| response.event))
    }

    /// Publishes one message, and waits for its outcome.
    pub async fn publish(&mut self, publication: pb::Publication) -> Result<pb::PublishResult, Status> {
        self.send(PublishFrame::Publications(pb::Publications { publications: vec![publication] })).await;
        loop {
            match self.event().await? {
                Some(publish_response::Event::Results(mut frame)) => return Ok(frame.results.remove(0)),
                Some(_) => {}
                None => panic!("the stream ended without an outcome"),
            }
        }
    }
}

/// A start frame with the defaults.
pub fn start(queue: &str) -> pb::SubscribeStart {
    pb::SubscribeStart { queue: queue.into(), ..pb::SubscribeStart::default() }
}

/// Checks that a stream ended within two seconds, and prints the time. The target is one second; a busy machine needs
/// longer to observe it.
#[allow(clippy::print_stdout, reason = "a measured figure, for `--nocapture`")]
pub fn assert_prompt(what: &str, requested: Instant, ended: Instant) {
    let took = ended.saturating_duration_since(requested);
    println!("{what}: {} ms", took.as_millis());
    assert!(took < Duration::from_secs(2), "{what}: {took:?}");
}

/// A completed TLS handshake with a gateway, as by a gRPC client, with nothing sent afterwards.
pub async fn tls_to(address: SocketAddr, ca: &Path) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    within("the handshake", TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap()
}
