//! Limits on the body of every request: how long it may take to arrive, and the memory that it uses until it is
//! decoded.
//!
//! Invariant: no byte of a gRPC frame is passed on before the whole frame is charged to the budget of its tenant, or to
//! that of callers without a token. The charge of a frame of a stream is released when the reader requests what follows
//! it, or drops the body; the charge of a unary request when it is answered. From then on its response is charged.

use std::{
    collections::HashSet,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::{Layer, Service};

use super::{
    anonymous::Anonymous,
    http2::{REFLECTION, REFLECTION_MEMORY},
    open_calls::{OpenCall, OpenCalls},
    receive_budget::ReceiveBudget,
    unread,
};
use crate::{
    auth::Caller,
    error::{Failure, Kind},
    long_work::{self, Turn},
    memory::{Full, MemoryBudget, MemoryPermit, ResponseCharge, TenantBudgets, TooLarge},
    pb::LONG_FIELDS,
    tenant,
};

/// The length of the flag and length before each message of a gRPC body.
const PREFIX: usize = 5;
/// The maximum expansion factor of compression.
const MAX_EXPANSION: usize = 1032;
/// Shorter frames never take long to decode: each field needs at least two bytes.
const LONG_FRAME: usize = 2 * LONG_FIELDS;
/// A frame of a client that costs at most this much is passed on even without free memory, because acknowledgements
/// free memory. The total is bounded by the number of streams.
const ALWAYS_PASSED_ON: usize = 16 * 1024;
/// The same for a call without a token, so that a client gets one when others from its address use up their memory.
const ANONYMOUS_PASSED_ON: usize = 4 * 1024;

/// Wraps the body of every request.
#[derive(Clone)]
pub(super) struct BodyLimitsLayer {
    pub(super) tenants: TenantBudgets,
    pub(super) anonymous: Anonymous,
    pub(super) open_calls: OpenCalls,
    /// The methods whose requests are streams.
    pub(super) streaming: Arc<HashSet<String>>,
    /// The methods whose responses are streams that other rules limit.
    pub(super) server_streaming: Arc<HashSet<String>>,
    /// The largest frame.
    pub(super) largest: usize,
    /// How long a unary request, or one frame of a stream, may take.
    pub(super) request_timeout: Duration,
    /// How long a whole request without a token may take.
    pub(super) open_timeout: Duration,
}

impl BodyLimitsLayer {
    /// Counts a call of a client that is not a stream.
    fn open_call<B>(&self, request: &Request<B>) -> Result<Option<ClientCall>, Failure> {
        let path = request.uri().path();
        let Some(caller) = request.extensions().get::<Caller>().filter(|_| !self.streaming.contains(path)) else {
            return Ok(None);
        };
        let tenant = caller.tenant().map(|tenant| tenant.as_str()).unwrap_or_default();
        let call = self.open_calls.begin(tenant).ok_or(tenant::Error::TooManyCalls)?;
        let memory = self.tenants.responses(tenant);
        let is_stream = self.server_streaming.contains(path);
        let charged = match path.starts_with(REFLECTION) {
            true => Some(ResponseCharge::new(memory.try_reserve_share(REFLECTION_MEMORY)?)),
            false => None,
        };
        let memory = (!is_stream && is_read(path)).then_some(memory);
        Ok(Some(ClientCall { call, is_stream, memory, charged }))
    }

    fn limited<B>(&self, request: &Request<B>, body: Body) -> (Body, UnaryCharge) {
        let caller = request.extensions().get::<Caller>();
        let is_stream = caller.is_some() && self.streaming.contains(request.uri().path());
        // A request over HTTP/1.1 has none: its connection buffers little.
        let receive_budget = request.extensions().get::<ReceiveBudget>().cloned().unwrap_or_default();
        let (payer, memory) = match caller {
            Some(caller) => {
                // Platform administrators have a budget like a tenant's; no tenant has an empty name.
                let tenant = caller.tenant().map(|tenant| tenant.as_str()).unwrap_or_default();
                receive_budget.set_client(self.tenants.receiving(tenant), is_stream);
                (tenant.to_owned(), self.tenants.of(tenant))
            }
            None => {
                let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
                let network = crate::auth::network(peer.map_or(IpAddr::from([0; 4]), |peer| peer.ip())).to_string();
                let memory = self.anonymous.memory().of(&network);
                receive_budget.set_anonymous(memory.clone());
                (network, memory)
            }
        };
        let limit = if caller.is_some() { self.request_timeout } else { self.open_timeout };
        let unary = UnaryCharge::default();
        let limited = Limited {
            inner: body,
            payer,
            memory,
            turn: None,
            largest: self.largest,
            always_passed_on: if caller.is_some() { ALWAYS_PASSED_ON } else { ANONYMOUS_PASSED_ON },
            limit,
            is_stream,
            deadline: (!is_stream).then(|| Box::pin(tokio::time::sleep(limit))),
            charged: None,
            waiting: None,
            unread: Bytes::new(),
            partial: BytesMut::new(),
            missing: 0,
            decoding: Decoding::Short,
            unary: (!is_stream).then(|| unary.clone()),
        };
        (Body::new(limited), unary)
    }
}

/// Whether a method changes nothing, so that its response may be replaced by an error.
fn is_read(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    ["Get", "List", "Peek", "WhoAmI"].iter().any(|read| method.starts_with(read))
}

/// An open call of a client that is not a stream.
struct ClientCall {
    call: OpenCall,
    /// Whether its response is a stream that other rules limit.
    is_stream: bool,
    /// The budget for its response, if the response may be refused; `None` if it must be sent in any case.
    memory: Option<MemoryBudget>,
    /// What is charged for its response from the beginning.
    charged: Option<ResponseCharge>,
}

impl ClientCall {
    fn answered(self, mut response: Response<Body>) -> Response<Body> {
        if let Some(charged) = self.charged {
            response.extensions_mut().insert(charged);
        }
        unread::charge(response, (!self.is_stream).then_some(self.call), self.memory)
    }
}

impl<S> Layer<S> for BodyLimitsLayer {
    type Service = LimitedBodies<S>;

    fn layer(&self, inner: S) -> LimitedBodies<S> {
        LimitedBodies { layer: self.clone(), inner }
    }
}

/// See [`BodyLimitsLayer`].
#[derive(Clone)]
pub(super) struct LimitedBodies<S> {
    layer: BodyLimitsLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for LimitedBodies<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let open = match self.layer.open_call(&request) {
            Ok(open) => open,
            Err(failure) => return Answer { inner: Err(failure), charge: UnaryCharge::default(), open: None },
        };
        let (body, charge) = self.layer.limited(&request, body);
        let inner = Ok(Box::pin(self.inner.call(request.map(|()| body))));
        Answer { inner, charge, open }
    }
}

/// The charge for the message of a unary request. It is kept until the request is answered.
#[derive(Clone, Default)]
struct UnaryCharge(Arc<Mutex<Option<MemoryPermit>>>);

impl UnaryCharge {
    /// Keeps the charge of the request's message. Charges for further messages, which are unused, are returned.
    fn keep(&self, permit: MemoryPermit) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(permit);
    }

    fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Answers a request, and then returns what was charged for it.
pub(super) struct Answer<F> {
    /// The error if the tenant has too many open calls, or not enough memory is left for this one.
    inner: Result<Pin<Box<F>>, Failure>,
    charge: UnaryCharge,
    open: Option<ClientCall>,
}

impl<E, F: Future<Output = Result<Response<Body>, E>>> Future for Answer<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let answer = match &mut self.inner {
            Ok(inner) => ready!(inner.as_mut().poll(cx)),
            Err(failure) => return Poll::Ready(Ok(Status::from(failure.clone()).into_http())),
        };
        self.charge.release();
        let open = self.open.take();
        Poll::Ready(answer.map(|response| match open {
            Some(open) => open.answered(response),
            None => response,
        }))
    }
}

/// A body whose frames are charged and whose arrival is timed.
struct Limited {
    inner: Body,
    /// The tenant or network on whose behalf a frame is decoded.
    payer: String,
    memory: MemoryBudget,
    /// The turn of a frame that takes long to decode, while it waits for it.
    turn: Option<BoxFuture<'static, Turn>>,
    largest: usize,
    /// Steps that cost at most this much need no free memory.
    always_passed_on: usize,
    limit: Duration,
    is_stream: bool,
    /// The deadline of a whole unary request, or of the frame of a stream that has begun.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The charge for the frames that the reader has at least partly received.
    charged: Option<MemoryPermit>,
    waiting: Option<BoxFuture<'static, Result<MemoryPermit, TooLarge>>>,
    /// Received bytes that have not been passed on.
    unread: Bytes,
    /// A prefix that has not been received completely.
    partial: BytesMut,
    /// The bytes of a frame that the reader has not received yet.
    missing: usize,
    /// How that frame is decoded.
    decoding: Decoding,
    /// Where the charge of a unary request's message is kept.
    unary: Option<UnaryCharge>,
}

/// How many of the received bytes may be passed on, and their cost.
struct Step {
    length: usize,
    cost: usize,
    missing: usize,
    decoding: Decoding,
}

/// How the last frame that is passed on can wait for its decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decoding {
    /// It is decoded at once.
    Short,
    /// It may take long, and can be decoded later.
    Deferrable,
    /// It may take long, but the decoder has consumed its bytes when it has decompressed them.
    Compressed,
}

impl Decoding {
    fn of(flag: u8, length: usize) -> Self {
        match flag {
            0 if length < LONG_FRAME => Self::Short,
            0 => Self::Deferrable,
            _ => Self::Compressed,
        }
    }

    /// Tells the decoder, which is called with the frame after this.
    fn announce(self) {
        match self {
            Self::Short => {}
            Self::Deferrable => long_work::allow_deferral(),
            Self::Compressed => long_work::forbid_deferral(),
        }
    }
}

impl Limited {
    /// The complete frames at the beginning of `data`, or a part of the first one if it is incomplete; `None` if even
    /// its prefix is incomplete.
    fn step(&self, data: &[u8]) -> Option<Step> {
        let mut step = Step { length: 0, cost: 0, missing: 0, decoding: Decoding::Short };
        while let Some((prefix, rest)) = data[step.length..].split_first_chunk::<PREFIX>() {
            let [flag, length @ ..] = *prefix;
            let length = u32::from_be_bytes(length) as usize;
            let decoding = Decoding::of(flag, length);
            // Such a frame is passed on alone, so that it is decoded before the body is read again.
            if decoding != Decoding::Short && step.length > 0 {
                break;
            }
            // A frame that is too large is refused by the decoder as soon as it sees the prefix.
            let cost = if flag == 0 { length } else { length.saturating_mul(MAX_EXPANSION) }.min(self.largest);
            if rest.len() < length {
                if step.length == 0 {
                    step = Step { length: data.len(), cost, missing: length - rest.len(), decoding };
                }
                break;
            }
            step.length += PREFIX + length;
            step.cost += cost;
            step.decoding = decoding;
            if decoding != Decoding::Short {
                break;
            }
        }
        (step.length > 0).then_some(step)
    }

    /// Ready when the deadline has passed and nothing has arrived.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        let text = format!("the request did not arrive within {} s", self.limit.as_secs().max(1));
        Poll::Ready(status(Failure::new(Kind::Deadline, "REQUEST_TIMEOUT", text)))
    }

    /// Extends a deadline that passed while the reader was paused: the bytes had arrived, so the peer is not at fault.
    fn extend_missed_deadline(&mut self) {
        if let Some(deadline) = &mut self.deadline
            && deadline.is_elapsed()
        {
            deadline.as_mut().reset(Instant::now() + self.limit);
        }
    }

    /// Releases the charge of the frames that the reader has processed.
    fn release(&mut self) {
        let charged = self.charged.take();
        if let (Some(unary), Some(permit)) = (&self.unary, charged) {
            unary.keep(permit);
        }
    }

    /// Prepares the decoding of a frame that is now passed on completely.
    fn passed_on(&mut self) {
        if self.missing > 0 {
            return;
        }
        if self.is_stream {
            self.deadline = None;
        }
        self.decoding.announce();
    }

    /// Charges a step.
    fn poll_charge(&mut self, cx: &mut Context<'_>, cost: usize) -> Poll<Result<(), Status>> {
        if self.waiting.is_none() {
            self.release();
            let cost = cost.min(self.memory.limit());
            match self.memory.try_reserve(cost) {
                Ok(permit) => {
                    self.charged = Some(permit);
                    return Poll::Ready(Ok(()));
                }
                Err(_) if cost <= self.always_passed_on => return Poll::Ready(Ok(())),
                Err(_) => {
                    let memory = self.memory.clone();
                    self.waiting = Some(Box::pin(async move { memory.reserve(cost).await }));
                }
            }
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Ok(())) };
        match waiting.as_mut().poll(cx) {
            Poll::Ready(Ok(permit)) => {
                self.waiting = None;
                self.charged = Some(permit);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(exhausted())),
            // A stream is slowed down; a unary request is refused in time.
            Poll::Pending if self.is_stream => Poll::Pending,
            Poll::Pending => self.poll_deadline(cx).map(|_| Err(exhausted())),
        }
    }
}

fn status(failure: Failure) -> Status {
    let mut status = Status::from(failure.clone());
    // Streams convert the status back to a failure.
    status.set_source(Arc::new(failure));
    status
}

fn exhausted() -> Status {
    status(Failure::from(Full))
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.release();
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if long_work::was_deferred() {
            let payer = this.payer.clone();
            this.turn = Some(Box::pin(async move { long_work::turn(&payer).await }));
        }
        if let Some(turn) = &mut this.turn {
            // The frame stays charged, and nothing follows it, until it is decoded.
            let turn = ready!(turn.as_mut().poll(cx));
            this.turn = None;
            long_work::grant(turn);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::new()))));
        }
        loop {
            if !this.unread.is_empty() {
                if this.missing > 0 {
                    let part = this.unread.split_to(this.missing.min(this.unread.len()));
                    this.missing -= part.len();
                    this.passed_on();
                    return Poll::Ready(Some(Ok(Frame::data(part))));
                }
                match this.step(&this.unread) {
                    Some(step) => {
                        if let Err(status) = ready!(this.poll_charge(cx, step.cost)) {
                            return Poll::Ready(Some(Err(status)));
                        }
                        (this.missing, this.decoding) = (step.missing, step.decoding);
                        this.passed_on();
                        return Poll::Ready(Some(Ok(Frame::data(this.unread.split_to(step.length)))));
                    }
                    None => this.partial = BytesMut::from(std::mem::take(&mut this.unread).chunk()),
                }
            }
            if this.is_stream && this.deadline.is_none() && (this.missing > 0 || !this.partial.is_empty()) {
                this.deadline = Some(Box::pin(tokio::time::sleep(this.limit)));
            }
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data().inspect(|_| this.extend_missed_deadline()) {
                    Ok(data) if this.partial.is_empty() => this.unread = data,
                    Ok(data) => {
                        let mut joined = std::mem::take(&mut this.partial);
                        joined.extend_from_slice(&data);
                        this.unread = joined.freeze();
                    }
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                // The rest is an incomplete prefix, which the decoder reports.
                Poll::Ready(None) if !this.partial.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(this.partial.split().freeze()))));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    // Between frames, the reader holds none of the charged bytes.
                    if this.missing == 0 {
                        this.release();
                    }
                    return this.poll_deadline(cx).map(|status| Some(Err(status)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.turn.is_none() && self.unread.is_empty() && self.partial.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    /// A body of these pieces, which stays open after the last one if `is_open`.
    struct Pieces(VecDeque<Bytes>, bool);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None if self.1 => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    /// Long enough to distinguish waiting from not waiting.
    const LIMIT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn received_bytes_are_charged_to_the_tenant_of_the_token_or_to_the_network() {
        let gateway = MemoryBudget::new(64 << 20);
        let (tenants, anonymous) = (TenantBudgets::new(gateway.clone()), Anonymous::new(&gateway));
        let layer = BodyLimitsLayer {
            tenants: tenants.clone(),
            anonymous: anonymous.clone(),
            open_calls: OpenCalls::default(),
            streaming: Arc::new(["/stream".to_owned()].into()),
            server_streaming: Arc::default(),
            largest: 1000,
            request_timeout: LIMIT,
            open_timeout: LIMIT,
        };
        let receive = |caller: Option<Caller>| {
            let mut request = Request::post("/stream").body(()).expect("a request");
            let budget = ReceiveBudget::default();
            request.extensions_mut().insert(budget.clone());
            request.extensions_mut().extend(
                caller
                    .map(|caller| {
                        let mut extensions = http::Extensions::new();
                        extensions.insert(caller);
                        extensions
                    })
                    .unwrap_or_default(),
            );
            drop(layer.limited(&request, Body::empty()));
            budget
        };
        let client = crate::names::ClientId::parse("acme.app").expect("an id");
        let budget = receive(Some(Caller::of_external_for_test(&client, "an issuer")));
        assert!(budget.is_patient());
        let permit = budget.reserve(10_000, 10_000).expect("free");
        assert_eq!(
            (tenants.receiving("acme").used(), tenants.of("acme").used(), gateway.used()),
            (10_000, 10_000, 10_000)
        );
        budget.reserve(tenants.of("acme").limit() / 2, usize::MAX).expect_err("more than its part");
        drop(permit);
        let budget = receive(None);
        assert!(!budget.is_patient());
        let _permit = budget.reserve(10_000, 10_000).expect("free");
        assert_eq!(anonymous.memory().of("0.0.0.0").used(), 10_000 - 4096);
    }

    #[tokio::test]
    async fn calls_that_no_plan_limits_are_counted_until_their_response_is_read() {
        let tenants = TenantBudgets::new(MemoryBudget::new(64 << 20));
        let open_calls = OpenCalls::default();
        let mut service = BodyLimitsLayer {
            tenants: tenants.clone(),
            anonymous: Anonymous::new(tenants.gateway()),
            open_calls: open_calls.clone(),
            streaming: Arc::default(),
            server_streaming: Arc::new(["/Receive".to_owned()].into()),
            largest: 1000,
            request_timeout: LIMIT,
            open_timeout: LIMIT,
        }
        .layer(tower::service_fn(async |_| {
            // A stream that has not ended, as of a health watch.
            Ok::<_, Status>(Response::new(Body::new(Pieces([Bytes::from_static(b"serving")].into(), true))))
        }));
        let reflection = format!("{REFLECTION}v1.ServerReflection/ServerReflectionInfo");
        for (path, is_counted, charged) in [
            ("/grpc.health.v1.Health/Watch", true, 0),
            ("/warrengate.v1.Topology/ListQueues", true, 0),
            (&reflection, true, REFLECTION_MEMORY),
            ("/Receive", false, 0),
        ] {
            let mut request = Request::post(path).body(Body::empty()).expect("a request");
            let client = crate::names::ClientId::parse("acme.app").expect("an id");
            request.extensions_mut().insert(Caller::of_external_for_test(&client, "an issuer"));
            let mut body = unread::keep(service.call(request).await.expect("answered")).into_body();
            let frame = body.frame().await.expect("a frame").expect("data");
            assert_eq!(open_calls.count("acme"), usize::from(is_counted), "{path}");
            assert_eq!(tenants.responses("acme").used(), charged, "{path}");
            drop(body);
            assert_eq!(open_calls.count("acme"), usize::from(is_counted), "{path}: its data is not sent");
            drop(frame);
            assert_eq!((open_calls.count("acme"), tenants.gateway().used()), (0, 0), "{path}");
        }
    }

    fn framed(lengths: &[usize]) -> Vec<u8> {
        let frame = |length: &usize| {
            let prefix = u32::try_from(*length).expect("short").to_be_bytes();
            [&[0][..], &prefix, &vec![7; *length]].concat()
        };
        lengths.iter().flat_map(frame).collect()
    }

    fn limited(body: Vec<u8>, piece: usize, is_open: bool, is_stream: bool, memory: &MemoryBudget) -> Limited {
        let pieces = body.chunks(piece).map(Bytes::copy_from_slice).collect();
        let limit = LIMIT;
        Limited {
            inner: Body::new(Pieces(pieces, is_open)),
            payer: "acme".into(),
            memory: memory.clone(),
            turn: None,
            largest: 1000,
            always_passed_on: 0,
            limit,
            is_stream,
            deadline: (!is_stream).then(|| Box::pin(tokio::time::sleep(limit))),
            charged: None,
            waiting: None,
            unread: Bytes::new(),
            partial: BytesMut::new(),
            missing: 0,
            decoding: Decoding::Short,
            unary: (!is_stream).then(UnaryCharge::default),
        }
    }

    #[tokio::test]
    async fn every_byte_is_passed_on_in_order_for_any_sizes_of_pieces() {
        let body = framed(&[0, 3, 900, 0, 0, 77, 5]);
        for piece in [1, 2, 3, 7, 64, 2000] {
            let memory = MemoryBudget::new(2000);
            let read = limited(body.clone(), piece, false, true, &memory).collect().await.expect("all").to_bytes();
            assert_eq!(read, body, "in pieces of {piece}");
            assert_eq!(memory.used(), 0);
        }
    }

    #[tokio::test]
    async fn a_frame_is_charged_before_it_is_complete_and_until_the_next_one_is_requested() {
        let memory = MemoryBudget::new(1000);
        let mut body = limited(framed(&[400, 600])[..600].to_vec(), 300, true, true, &memory);
        let _part = body.frame().await.expect("a part").expect("of the first frame");
        assert_eq!(memory.used(), 400, "all of the first frame, of which 295 bytes have come");
        let _rest = body.frame().await.expect("the rest").expect("of the first frame");
        let _second = body.frame().await.expect("a part").expect("of the second frame");
        assert_eq!(memory.used(), 600, "the second frame alone");
        drop(body);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn a_unary_request_is_charged_until_it_is_answered() {
        let memory = MemoryBudget::new(1000);
        let body = limited(framed(&[400]), 2000, false, false, &memory);
        let charge = body.unary.clone().expect("unary");
        let (answers, answered) = tokio::sync::oneshot::channel::<Response<Body>>();
        let mut answer = Answer { inner: Ok(Box::pin(answered)), charge, open: None };
        body.collect().await.expect("all");
        assert!((&mut answer).now_or_never().is_none());
        assert_eq!(memory.used(), 400, "the body has been read and dropped");
        answers.send(Response::new(Body::empty())).expect("awaited");
        drop(answer.await.expect("sent"));
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn acknowledgements_arrive_without_free_memory_and_past_frames_that_wait_for_it() {
        let memory = MemoryBudget::new(100);
        let all = memory.try_reserve(100).expect("free");
        let of_client = |length| {
            let mut body = limited(framed(&[length]), 2000, false, true, &memory);
            body.always_passed_on = 20;
            body
        };
        let (mut large, small) = (of_client(50), of_client(10));
        assert!(large.frame().now_or_never().is_none());
        assert_eq!(small.collect().await.expect("passed on").to_bytes().len(), PREFIX + 10);
        drop(all);
        assert!(large.frame().now_or_never().is_some());
    }

    #[tokio::test]
    async fn without_free_memory_a_stream_waits_and_a_unary_request_is_refused() {
        let memory = MemoryBudget::new(100);
        let all = memory.try_reserve(100).expect("free");
        let mut unary = limited(framed(&[50]), 2000, false, false, &memory);
        let refused = unary.frame().await.expect("an answer").expect_err("no memory");
        assert_eq!(crate::error::reason_of(&refused).as_deref(), Some("MEMORY_EXHAUSTED"));
        let mut stream = limited(framed(&[50]), 2000, false, true, &memory);
        let waited = tokio::time::timeout(3 * LIMIT, stream.frame()).await;
        assert!(waited.is_err(), "a stream is slowed down");
        drop((all, unary));
        assert!(stream.frame().await.expect("a frame").is_ok());
    }

    #[tokio::test]
    async fn a_late_request_is_refused_and_a_stream_without_a_pending_frame_is_not() {
        let memory = MemoryBudget::new(1000);
        let start = Instant::now();
        let mut unary = limited(framed(&[50])[..20].to_vec(), 2000, true, false, &memory);
        assert!(unary.frame().await.expect("a part").is_ok());
        let late = unary.frame().await.expect("an answer").expect_err("too late");
        assert_eq!(crate::error::reason_of(&late).as_deref(), Some("REQUEST_TIMEOUT"));
        assert!(start.elapsed() >= LIMIT);

        let mut stream = limited(framed(&[50]), 2000, true, true, &memory);
        assert!(stream.frame().await.expect("a frame").is_ok());
        assert!(tokio::time::timeout(3 * LIMIT, stream.frame()).await.is_err(), "between two frames");
        let mut stream = limited(framed(&[50])[..3].to_vec(), 2000, true, true, &memory);
        let late = stream.frame().await.expect("an answer").expect_err("an incomplete prefix");
        assert_eq!(crate::error::reason_of(&late).as_deref(), Some("REQUEST_TIMEOUT"));
        assert!(stream.frame().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_frame_that_may_take_long_to_decode_is_passed_on_alone() {
        let (long, memory) = (LONG_FRAME, MemoryBudget::new(1 << 20));
        let body = framed(&[10, 20, long, 30]);
        let mut limited = limited(body, usize::MAX, false, true, &memory);
        let mut lengths = Vec::new();
        while let Some(frame) = limited.frame().await {
            lengths.push(frame.expect("a frame").into_data().expect("data").len());
        }
        assert_eq!(lengths, [2 * PREFIX + 30, PREFIX + long, PREFIX + 30]);
        assert_eq!(Decoding::of(1, 10), Decoding::Compressed, "its decoded length is unknown");
    }
}
