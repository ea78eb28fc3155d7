//! A gRPC codec for raw bytes, for requests that no generated client sends.

use bytes::{Buf as _, BufMut as _, Bytes};
use secrecy::ExposeSecret as _;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::Channel,
};

use super::{Tenant, wait::within, web};

#[derive(Default)]
pub struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

async fn ready() -> Grpc<Channel> {
    let mut grpc = Grpc::new(web::channel().await);
    grpc.ready().await.unwrap();
    grpc
}

async fn authorized<T>(tenant: &Tenant, body: T) -> Request<T> {
    let token = tenant.client.token().await.unwrap().unwrap();
    let mut request = Request::new(body);
    let value = MetadataValue::try_from(format!("Bearer {}", token.secret().expose_secret())).unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// A unary call with this body.
pub async fn call(tenant: &Tenant, method: &str, body: Bytes) -> Result<Bytes, Status> {
    let path = PathAndQuery::try_from(format!("/{method}")).unwrap();
    let request = authorized(tenant, body).await;
    within("an answer", ready().await.unary(request, path, BytesCodec)).await.map(tonic::Response::into_inner)
}

/// A stream of `Messaging` with these frames.
pub async fn stream(tenant: &Tenant, method: &str, frames: Vec<Bytes>) -> Streaming<Bytes> {
    let path = PathAndQuery::try_from(format!("/warrengate.v1.Messaging/{method}")).unwrap();
    // The client's side stays open, because the gateway must end the stream.
    use futures_util::StreamExt as _;
    let frames = futures_util::stream::iter(frames).chain(futures_util::stream::pending());
    let request = authorized(tenant, frames).await;
    ready().await.streaming(request, path, BytesCodec).await.unwrap().into_inner()
}

/// The status that a stream ends with.
pub async fn end(stream: &mut Streaming<Bytes>) -> Status {
    within("the end of the stream", async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    })
    .await
}
