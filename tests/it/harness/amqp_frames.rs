//! AMQP at the level of frames, directly to the broker, for messages that no library sends.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    SharedStack,
    broker::{certificate_of, tls},
    wait::within,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

/// A channel with confirms in a tenant's vhost.
pub struct Frames(TlsStream<TcpStream>);

/// A short string of any bytes.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text].concat()
}

/// A long string or a table of any bytes.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

impl Frames {
    pub async fn open(tenant: &str) -> Self {
        let port = SharedStack::get().stack.node().amqps_port();
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let connector = TlsConnector::from(tls(Some(&certificate_of(tenant))));
        let name = "127.0.0.1".try_into().unwrap();
        let mut frames = Self(within("TLS", connector.connect(name, tcp)).await.unwrap());
        frames.0.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        frames.expect(10, 10).await;
        // An empty table of properties, the mechanism, an empty response, and the locale.
        let start = [long(b""), short(b"EXTERNAL"), long(b""), short(b"en_US")].concat();
        frames.method(0, 10, 11, &start).await;
        frames.expect(10, 30).await;
        // Channels, the size of frames, and no heartbeats.
        frames.method(0, 10, 31, &[0, 10, 0, 2, 0, 0, 0, 0]).await;
        frames.method(0, 10, 40, &[short(format!("wg.{tenant}").as_bytes()), short(b""), vec![0]].concat()).await;
        frames.expect(10, 41).await;
        frames.method(1, 20, 10, &short(b"")).await;
        frames.expect(20, 11).await;
        frames.method(1, 85, 10, &[0]).await;
        frames.expect(85, 11).await;
        frames
    }

    /// Publishes a message, with these flags and properties as they are, and waits for the confirm.
    pub async fn publish(&mut self, exchange: &str, routing_key: &[u8], flags: u16, properties: &[u8], body: &[u8]) {
        let target = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key), &[0]].concat();
        self.method(1, 60, 40, &target).await;
        let size = (body.len() as u64).to_be_bytes();
        self.frame(HEADER, 1, &[&[0, 60, 0, 0][..], &size, &flags.to_be_bytes(), properties].concat()).await;
        self.frame(BODY, 1, body).await;
        self.expect(60, 80).await;
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind][..], &channel.to_be_bytes(), &long(payload), &[0xCE]].concat();
        self.0.write_all(&frame).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Reads one frame, which must be this method.
    async fn expect(&mut self, class: u16, method: u16) {
        let payload = within("the broker's answer", async {
            let mut head = [0; 7];
            self.0.read_exact(&mut head).await.unwrap();
            let size = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
            let mut payload = vec![0; size + 1];
            self.0.read_exact(&mut payload).await.unwrap();
            payload
        })
        .await;
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        assert_eq!(payload[..4], expected, "{}", String::from_utf8_lossy(&payload));
    }
}
