//! The memory of pages: a page is charged to its user's tenant from its request until its last byte is sent.
//!
//! It is apart from the memory of the tenant's messages, so that a tenant that has used that up can still see why.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::memory::{Full, MemoryBudget, MemoryPermit, TenantBudgets};

/// What a page needs at most, with the form that it was requested with and the response of the service.
const PAGE: usize = 2 << 20;
/// The same for pages with bodies of messages, with a whole topology, and for exports.
const LARGE_PAGE: usize = 24 << 20;
/// The paths of these.
const LARGE: [&str; 3] = ["/audit/export", "/dead-letters", "/topology"];
/// The part of the gateway's memory for pages, as a divisor, and its smallest size. A tenant has half of it.
const PART: usize = 8;
const MIN: usize = 64 << 20;

/// The memory of all pages.
#[derive(Debug)]
pub(super) struct PageMemory(TenantBudgets);

impl PageMemory {
    /// A part of the gateway's memory.
    pub(super) fn new(gateway: &MemoryBudget) -> Self {
        Self(TenantBudgets::new(gateway.child((gateway.limit() / PART).max(MIN))))
    }

    /// Memory for the page of this path.
    pub(super) fn reserve(&self, tenant: &str, path: &str) -> Result<MemoryPermit, Full> {
        let is_large = LARGE.iter().any(|large| path.starts_with(large));
        self.0.of(tenant).try_reserve(if is_large { LARGE_PAGE } else { PAGE })
    }
}

/// Marks the response of a page that is sent in small parts while something runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentInParts;

/// Keeps the memory until the response is sent. An event stream, or a page that is sent in parts, is one part at a time,
/// which needs little.
pub(super) fn charged(response: Response, permit: MemoryPermit) -> Response {
    let is_stream = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == "text/event-stream");
    match is_stream || response.extensions().get::<SentInParts>().is_some() {
        true => response,
        false => response.map(|inner| Body::new(Charged { inner, _permit: permit })),
    }
}

struct Charged {
    inner: Body,
    _permit: MemoryPermit,
}

impl HttpBody for Charged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    #[test]
    fn pages_are_charged_to_their_tenant_until_they_are_sent() {
        let gateway = MemoryBudget::new(64 << 20);
        let memory = PageMemory::new(&gateway);
        let export = memory.reserve("acme", "/audit/export").expect("free");
        memory.reserve("acme", "/dead-letters/letter").expect_err("only one large page of a tenant fits");
        let mut pages = Vec::new();
        while let Ok(page) = memory.reserve("acme", "/queues") {
            pages.push(page);
        }
        assert_eq!(pages.len(), 4);
        drop(memory.reserve("globex", "/topology").expect("another tenant has the other half"));
        pages.clear();
        let response = charged("a page".into_response(), export);
        assert_eq!(gateway.used(), LARGE_PAGE);
        drop(response);
        assert_eq!(gateway.used(), 0);
        let events = ([(CONTENT_TYPE, "text/event-stream")], "data: 1").into_response();
        let _events = charged(events, memory.reserve("acme", "/live").expect("free"));
        let mut redrive = "the start of a page".into_response();
        redrive.extensions_mut().insert(SentInParts);
        let _redrive = charged(redrive, memory.reserve("acme", "/dead-letters/redrive").expect("free"));
        assert_eq!(gateway.used(), 0);
    }
}
