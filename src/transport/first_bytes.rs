//! A peer must say something. A connection enters; one that fails when its first bytes do not come in time leaves. Neither
//! hyper nor tonic has such a bound: keep-alive begins after HTTP/2's preface, and a peer that never sends it would hold a
//! socket for ever, and a drain until its deadline.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tonic::transport::server::Connected;

/// HTTP/2's connection preface (RFC 9113, section 3.4); no HTTP/1.1 request that we serve is shorter.
const PREFACE: usize = 24;

/// A connection whose first bytes have a deadline.
#[derive(Debug)]
pub struct FirstBytes<S> {
    stream: S,
    /// None when they have come.
    waiting: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> FirstBytes<S> {
    /// They must come within this time.
    pub(super) fn within(time: Duration, stream: S) -> Self {
        Self { stream, waiting: Some((Box::pin(tokio::time::sleep(time)), PREFACE)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some((deadline, missing)) = &mut this.waiting else { return read };
        match read {
            Poll::Ready(result) => {
                *missing = missing.saturating_sub(buf.filled().len() - before);
                if *missing == 0 {
                    this.waiting = None;
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                std::task::ready!(deadline.as_mut().poll(cx));
                tracing::debug!("a connection that says nothing is closed");
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for FirstBytes<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_stops_before_its_preface_is_over_and_one_that_sent_it_may_be_silent() {
        let time = Duration::from_millis(50);
        let mut buffer = [0; 64];
        let (mut peer, ours) = duplex(64);
        let mut ours = FirstBytes::within(time, ours);
        peer.write_all(b"PRI").await.expect("room");
        assert_eq!(ours.read(&mut buffer).await.expect("bytes"), 3);
        let error = ours.read(&mut buffer).await.expect_err("over");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let (mut peer, ours) = duplex(64);
        let mut ours = FirstBytes::within(time, ours);
        peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("room");
        assert_eq!(ours.read(&mut buffer).await.expect("bytes"), PREFACE);
        assert!(tokio::time::timeout(time * 4, ours.read(&mut buffer)).await.is_err(), "silent, and not cut");
    }
}
