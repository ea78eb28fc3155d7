//! HTTP/2 without a gRPC library. Each DATA frame is written as given, whether it is complete or not.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Request, Response};

use super::{SharedStack, raw::tls_to, wait::within};

/// A connection to a gateway.
pub struct Http2 {
    send: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A call on a connection.
pub struct Http2Call {
    pub send: SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    received: BytesMut,
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = tls_to(address, &SharedStack::get().stack.gateway_ca()).await;
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        Self { send, connection: tokio::spawn(connection) }
    }

    /// A connection of a peer that reads a byte of each response, whose rest the gateway must keep.
    pub async fn connect_unread(address: SocketAddr) -> Self {
        let stream = tls_to(address, &SharedStack::get().stack.gateway_ca()).await;
        let (send, connection) = h2::client::Builder::new().initial_window_size(1).handshake(stream).await.unwrap();
        Self { send, connection: tokio::spawn(connection) }
    }

    /// Starts a call with its headers only.
    pub async fn call(&self, method: &str, token: Option<&str>) -> Http2Call {
        let mut request = Request::post(format!("https://127.0.0.1/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.request(request.body(()).unwrap(), false).await
    }

    /// Sends any request.
    pub async fn request(&self, request: Request<()>, ends: bool) -> Http2Call {
        let mut send = within("a free stream", self.send.clone().ready()).await.unwrap();
        let (response, send) = send.send_request(request, ends).unwrap();
        Http2Call { send, response: Some(response), body: None, received: BytesMut::new() }
    }

    /// Opens calls and resets them at once, until the gateway ends the connection.
    pub async fn flood_with_resets(&self) {
        let opened = |mut send: SendRequest<Bytes>| {
            send.send_request(Request::post("https://127.0.0.1/flood").body(()).unwrap(), false).ok()
        };
        while let Ok(send) = within("a free stream", self.send.clone().ready()).await
            && let Some((_, mut stream)) = opened(send)
        {
            stream.send_reset(h2::Reason::CANCEL);
            // The connection must be able to send, but not one reset at a time.
            if u32::from(stream.stream_id()) % 1024 == 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether the gateway has ended the connection.
    pub fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }

    /// Waits until the gateway has ended it.
    pub async fn closed(self) {
        within("the end of the connection", self.connection).await.unwrap().ok();
    }
}

impl Http2Call {
    /// Sends one DATA frame, as soon as the window allows it.
    pub async fn data(&mut self, data: impl Into<Bytes>, ends: bool) {
        let data = data.into();
        self.send.reserve_capacity(data.len());
        while self.send.capacity() < data.len() {
            let capacity = within("the window", std::future::poll_fn(|cx| self.send.poll_capacity(cx))).await;
            capacity.expect("an open stream").expect("an open connection");
        }
        self.send.send_data(data, ends).unwrap();
    }

    /// The response head.
    pub async fn head(&mut self) -> Response<()> {
        let response = within("an answer", self.response.take().unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        self.body = Some(body);
        Response::from_parts(parts, ())
    }

    /// The next message of the response; `None` at its end.
    pub async fn message<M: prost::Message + Default>(&mut self) -> Option<M> {
        if self.response.is_some() {
            self.head().await;
        }
        let body = self.body.as_mut().unwrap();
        loop {
            if let Some(([_, length @ ..], rest)) = self.received.split_first_chunk::<5>() {
                let length = u32::from_be_bytes(*length) as usize;
                if rest.len() >= length {
                    let message = M::decode(&rest[..length]).unwrap();
                    drop(self.received.split_to(5 + length));
                    return Some(message);
                }
            }
            let data = within("a message", body.data()).await?.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            self.received.extend_from_slice(&data);
        }
    }

    /// The status of the response, in the headers or trailers, after everything else was read.
    pub async fn status(&mut self) -> tonic::Status {
        let head = match self.response {
            Some(_) => self.head().await.headers().clone(),
            None => HeaderMap::new(),
        };
        if let Some(status) = tonic::Status::from_header_map(&head) {
            return status;
        }
        let body = self.body.as_mut().unwrap();
        while let Some(data) = within("the end of the answer", body.data()).await {
            let length = data.unwrap().len();
            body.flow_control().release_capacity(length).unwrap();
        }
        let trailers = within("trailers", body.trailers()).await.unwrap().expect("trailers");
        tonic::Status::from_header_map(&trailers).expect("a status")
    }
}
