//! The gRPC codec of the generated clients and servers.
//!
//! The encoder reserves a message's whole length before it writes. prost's own codec doubles the
//! buffer when it is full, which copies large frames again.

use std::{marker::PhantomData, sync::OnceLock};

use prost::{Message, Name, bytes::Buf as _};
use tonic::{
    Status,
    codec::{self, DecodeBuf, EncodeBuf},
};

use super::elements::Root;

/// Requests with more fields are decoded by the function of [`set_long_decoding`].
pub const LONG_FIELDS: usize = 16_384;

/// What became of a computation that may take tens of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongWorkState {
    /// It has run.
    Done,
    /// It has to wait. The body of the request passes on an empty frame, and the decoder is called again, when it may run.
    Deferred,
    /// Too many others wait.
    Refused,
}

/// Runs a computation that may take tens of milliseconds, or defers it; the second argument is whether this one was deferred
/// before.
pub type LongWork = fn(&mut (dyn FnMut() + Send), bool) -> LongWorkState;

static LONG_WORK: OnceLock<LongWork> = OnceLock::new();

/// Sets how this process decodes requests that are so large that decoding them would stall an asynchronous runtime; the
/// first call counts. Without it they are decoded like all others.
pub fn set_long_decoding(run: LongWork) {
    let _ = LONG_WORK.set(run);
}

/// Encodes and decodes protobuf messages; `build.rs` names it to the code generator.
#[derive(Debug)]
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Name + Default + Send + 'static> codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Decoder<U> {
        Decoder { root: Root::of(&U::full_name()), is_deferred: false, decoded: PhantomData }
    }
}

/// Encodes messages into a buffer of the right size.
#[derive(Debug)]
pub(crate) struct Encoder<T>(PhantomData<T>);

impl<T: Message> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Reads messages. The elements of a request are counted before it is decoded.
#[derive(Debug)]
pub(crate) struct Decoder<U> {
    root: Option<Root>,
    /// Whether the decoding of the message in the buffer was deferred.
    is_deferred: bool,
    decoded: PhantomData<U>,
}

impl<U: Message + Default> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let Some(root) = self.root else { return decode(buffer) };
        // The whole frame is in one piece.
        if let Some(checked) = root.check_short(buffer.chunk(), LONG_FIELDS) {
            checked?;
            return decode(buffer);
        }
        let mut work = || -> Result<Option<U>, Status> {
            root.check(buffer.chunk())?;
            decode(buffer)
        };
        let Some(run) = LONG_WORK.get() else { return work() };
        let mut decoded = Ok(None);
        let state = run(&mut || decoded = work(), self.is_deferred);
        self.is_deferred = state == LongWorkState::Deferred;
        match state {
            // The bytes of a deferred message stay in the buffer.
            LongWorkState::Done | LongWorkState::Deferred => decoded,
            LongWorkState::Refused => {
                let text = "the gateway is decoding too many large requests at the moment; try again later";
                Err(Status::resource_exhausted(text))
            }
        }
    }
}

fn decode<U: Message + Default>(buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
    U::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use http_body_util::Full;
    use prost::bytes::Bytes;
    use tonic::{
        Code,
        codec::{Codec as _, Streaming},
    };

    use super::*;
    use crate::{Message as Content, Publication, PublishBatchRequest, Value};

    /// Decodes a request whose messages have this number of headers in total.
    fn decode(headers: usize) -> Result<usize, Code> {
        const EACH: usize = 10;
        let all = (0..EACH).map(|number| (number.to_string(), Value::default())).collect();
        let message = Some(Content { headers: all, ..Content::default() });
        let publications = vec![Publication { message, ..Publication::default() }; headers / EACH];
        let request = PublishBatchRequest { publications }.encode_to_vec();
        let prefix = u32::try_from(request.len()).expect("short").to_be_bytes();
        let body = Full::new(Bytes::from([&[0][..], &prefix, &request].concat()));
        let decoder = Codec::<(), PublishBatchRequest>::default().decoder();
        let mut requests = Streaming::new_request(decoder, body, None, None);
        let Poll::Ready(decoded) = pin!(requests.message()).poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("the body is complete");
        };
        decoded.map(|request| request.expect("a request").publications.len()).map_err(|status| status.code())
    }

    #[test]
    fn a_long_request_that_may_not_wait_is_refused_as_resource_exhausted() {
        assert_eq!(decode(9_000), Ok(900), "decoded like all others");
        set_long_decoding(|_, _| LongWorkState::Refused);
        assert_eq!(decode(9_000), Err(Code::ResourceExhausted));
        assert_eq!(decode(1_000), Ok(100), "it is not long");
    }
}
