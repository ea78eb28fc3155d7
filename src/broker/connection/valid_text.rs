//! Replaces bytes that are not UTF-8 in the short strings that the broker sends. AMQP does not require UTF-8 there, but
//! lapin does: otherwise one message with such a property ends the tenant's connection whenever it is delivered. The
//! broker itself shortens the text of its errors to 255 bytes, in the middle of a character if need be. Each invalid
//! byte becomes a `?`, so that all lengths remain as they are.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::broker::message::size::FRAME_MAX;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Type, channel and size.
const FRAME_HEADER: usize = 7;
const FRAME_END: usize = 1;
/// How deep lists and tables are followed. RabbitMQ's own entries have a depth of three.
const MAX_DEPTH: usize = 64;

/// A connection whose incoming short strings are UTF-8.
#[derive(Debug)]
pub(super) struct ValidText<S> {
    inner: S,
    /// The beginning of a frame that is not complete.
    partial: Vec<u8>,
    /// Repaired bytes that wait for the reader, and how many of them it has read.
    waiting: Vec<u8>,
    read: usize,
    /// The bytes of the present frame that are not repaired, because it has no short strings.
    unchanged: usize,
    /// Set when the peer does not send AMQP frames.
    is_foreign: bool,
}

impl<S> ValidText<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, partial: Vec::new(), waiting: Vec::new(), read: 0, unchanged: 0, is_foreign: false }
    }

    /// Repairs all complete frames; returns the number of bytes before the first incomplete one.
    fn repair(&mut self, bytes: &mut [u8]) -> usize {
        let mut done = self.unchanged.min(bytes.len());
        self.unchanged -= done;
        while !self.is_foreign {
            let rest = &mut bytes[done..];
            let Some((&mut [kind, _, _, ref size @ ..], _)) = rest.split_first_chunk_mut::<FRAME_HEADER>() else {
                return done;
            };
            let size = u32::from_be_bytes(*size) as usize;
            let length = FRAME_HEADER + size + FRAME_END;
            match kind {
                METHOD | HEADER if size <= FRAME_MAX as usize => {
                    let Some(frame) = rest.get_mut(..length) else { return done };
                    let payload = &mut frame[FRAME_HEADER..FRAME_HEADER + size];
                    // What cannot be parsed is passed on as it is, for lapin's error.
                    let _ = if kind == METHOD { method(payload) } else { content_header(payload) };
                    done += length;
                }
                METHOD | HEADER | BODY | HEARTBEAT => {
                    let present = length.min(rest.len());
                    self.unchanged = length - present;
                    done += present;
                }
                _ => self.is_foreign = true,
            }
        }
        bytes.len()
    }

    /// Takes new bytes: returns how many of them, from the beginning, can be passed on in place. Others are in
    /// `waiting` or in `partial`.
    fn take(&mut self, new: &mut [u8]) -> usize {
        if self.partial.is_empty() {
            let done = self.repair(new);
            self.partial.extend_from_slice(&new[done..]);
            return done;
        }
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(new);
        let done = self.repair(&mut bytes);
        self.partial.extend_from_slice(&bytes[done..]);
        bytes.truncate(done);
        (self.waiting, self.read) = (bytes, 0);
        0
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ValidText<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let waiting = &this.waiting[this.read..];
            if !waiting.is_empty() {
                let count = waiting.len().min(buf.remaining());
                buf.put_slice(&waiting[..count]);
                this.read += count;
                if this.read == this.waiting.len() {
                    // An idle connection keeps no buffer.
                    (this.waiting, this.read) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let new = &mut buf.filled_mut()[before..];
            if new.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let done = this.take(new);
            buf.set_filled(before + done);
            if done > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ValidText<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }
}

/// Repairs the arguments of a method that can contain texts of other clients or of the broker; `None` when it cannot be
/// parsed.
fn method(payload: &mut [u8]) -> Option<()> {
    let mut fields = Fields(payload);
    match (fields.number::<2>()?, fields.number::<2>()?) {
        // connection.close and channel.close: code and text.
        ([0, 10], [0, 50]) | ([0, 20], [0, 40]) => {
            fields.skip(2)?;
            fields.short_string()
        }
        // basic.return: code, text, exchange and routing key.
        ([0, 60], [0, 50]) => {
            fields.skip(2)?;
            fields.short_strings(3)
        }
        // basic.deliver: consumer, tag and flags, exchange and routing key.
        ([0, 60], [0, 60]) => {
            fields.short_string()?;
            fields.skip(9)?;
            fields.short_strings(2)
        }
        // basic.get-ok: tag and flags, exchange and routing key.
        ([0, 60], [0, 71]) => {
            fields.skip(9)?;
            fields.short_strings(2)
        }
        _ => Some(()),
    }
}

/// Repairs the properties of a message.
fn content_header(payload: &mut [u8]) -> Option<()> {
    let mut fields = Fields(payload);
    // Class, weight and the size of the body.
    fields.skip(12)?;
    let flags = u16::from_be_bytes(fields.number()?);
    for property in 0..14 {
        if flags & (1 << (15 - property)) == 0 {
            continue;
        }
        match property {
            // Headers.
            2 => fields.table(MAX_DEPTH)?,
            // Delivery mode and priority.
            3 | 4 => fields.skip(1)?,
            // The timestamp.
            9 => fields.skip(8)?,
            _ => fields.short_string()?,
        }
    }
    Some(())
}

/// Fields that have not been visited yet. Every function returns `None` when a field is not complete.
struct Fields<'a>(&'a mut [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a mut [u8]> {
        let (field, rest) = std::mem::take(&mut self.0).split_at_mut_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length).map(|_| ())
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    /// A field with its length before it.
    fn long(&mut self) -> Option<&'a mut [u8]> {
        let length = u32::from_be_bytes(self.number()?);
        self.take(length as usize)
    }

    fn short_string(&mut self) -> Option<()> {
        let [length] = self.number()?;
        repair_text(self.take(length.into())?);
        Some(())
    }

    fn short_strings(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.short_string())
    }

    fn table(&mut self, depth: usize) -> Option<()> {
        let mut entries = Fields(self.long()?);
        while !entries.0.is_empty() {
            entries.short_string()?;
            entries.value(depth)?;
        }
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let [kind] = self.number()?;
        match kind {
            b'V' => Some(()),
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'u' | b'U' => self.skip(2),
            b'i' | b'I' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'l' | b'L' | b'd' | b'T' => self.skip(8),
            b'S' | b'x' => self.long().map(|_| ()),
            b'F' => self.table(depth.checked_sub(1)?),
            b'A' => {
                let mut values = Fields(self.long()?);
                while !values.0.is_empty() {
                    values.value(depth.checked_sub(1)?)?;
                }
                Some(())
            }
            _ => None,
        }
    }
}

fn repair_text(mut text: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(text) {
        let invalid = &mut text[error.valid_up_to()..];
        let (invalid, rest) = invalid.split_at_mut(error.error_len().unwrap_or(invalid.len()));
        invalid.fill(b'?');
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
        [&[kind, 0, 1][..], &size, payload, &[0xCE]].concat()
    }

    fn short(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).expect("a short string")][..], text].concat()
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).expect("a small field").to_be_bytes()[..], bytes].concat()
    }

    /// A header with all properties, in which each text, also at each depth of the headers, is this one.
    fn header(text: &[u8]) -> Vec<u8> {
        let value = [&[b'S'][..], &long(b"\xFF is allowed here")].concat();
        let inner = [short(text), value].concat();
        let list = [&[b'F'][..], &long(&inner), b"t\x01"].concat();
        let table = [short(text), [&[b'A'][..], &long(&list)].concat()].concat();
        let mut payload = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0xFF, 0xFC][..], &short(text), &short(text)].concat();
        payload.extend([long(&table), vec![2, 9]].concat());
        payload.extend([short(text), short(text), short(text), short(text), vec![0; 8]].concat());
        payload.extend(short(text).repeat(4));
        frame(HEADER, &payload)
    }

    /// What the broker sends for a delivery of a message with this text in all short strings.
    fn delivery(text: &[u8]) -> Vec<u8> {
        let deliver = [&[0, 60, 0, 60][..], &short(text), &[0; 9], &short(text), &short(text)].concat();
        let bodies = [frame(BODY, b"\xFF\xFE"), frame(HEARTBEAT, b"")].concat();
        [frame(METHOD, &deliver), header(text), bodies].concat()
    }

    /// What arrives when the peer's bytes come in pieces of the given sizes, in turn, and are read in others.
    async fn received(sent: &[u8], pieces: &[usize], reads: &[usize]) -> Vec<u8> {
        let mut stream = ValidText::new(Pieces { rest: sent.to_vec(), sizes: pieces.to_vec(), next: 0 });
        let mut received = Vec::new();
        for size in reads.iter().cycle() {
            let mut buffer = vec![0; *size];
            match stream.read(&mut buffer).await.expect("no error") {
                0 => break,
                count => received.extend_from_slice(&buffer[..count]),
            }
        }
        received
    }

    /// A reader that returns at most the given numbers of bytes, in turn.
    struct Pieces {
        rest: Vec<u8>,
        sizes: Vec<usize>,
        next: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let size = self.sizes[self.next % self.sizes.len()].min(buf.remaining()).min(self.rest.len());
            self.next += 1;
            buf.put_slice(&self.rest[..size]);
            self.rest.drain(..size);
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn texts_are_repaired_at_every_place_and_nothing_else_is_changed() {
        for (sent, expected) in [
            (&b"\xFF\xFEA\x80"[..], &b"??A?"[..]),
            ("héllo wörld 🐇".as_bytes(), "héllo wörld 🐇".as_bytes()),
            // The beginning of a character.
            ("ab🐇".as_bytes().split_at(5).0, b"ab???"),
            (b"", b""),
        ] {
            assert_eq!(received(&delivery(sent), &[4096], &[4096]).await, delivery(expected), "{sent:?}");
        }
    }

    #[tokio::test]
    async fn a_shortened_error_of_the_broker_is_repaired() {
        let close = |text: &[u8]| frame(METHOD, &[&[0, 20, 0, 40, 1, 148][..], &short(text), &[0, 60, 0, 20]].concat());
        assert_eq!(received(&close(b"no queue '\xF0\x9F..."), &[4096], &[4096]).await, close(b"no queue '??..."));
    }

    #[tokio::test]
    async fn what_is_not_a_frame_of_amqp_is_passed_on() {
        for sent in [&b"AMQP\x00\x00\x09\x01"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
            assert_eq!(received(sent, &[3], &[4096]).await, sent);
        }
        let cut = frame(HEADER, &[0, 60, 0, 0]);
        let table = frame(HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0x20, 0][..], &[0, 0, 1, 0, 9]].concat());
        let both = [cut, table].concat();
        assert_eq!(received(&both, &[4096], &[4096]).await, both);
    }

    proptest! {
        #[test]
        fn frames_may_arrive_in_any_pieces(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4),
            pieces in prop::collection::vec(1_usize..300, 1..6),
            reads in prop::collection::vec(1_usize..300, 1..6),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let sent: Vec<u8> = texts.iter().flat_map(|text| delivery(text)).collect();
            let valid = |text: &Vec<u8>| {
                let mut text = text.clone();
                repair_text(&mut text);
                prop_assert!(std::str::from_utf8(&text).is_ok());
                Ok(delivery(&text))
            };
            let expected = texts.iter().map(valid).collect::<Result<Vec<_>, _>>()?.concat();
            prop_assert_eq!(runtime.block_on(received(&sent, &pieces, &reads)), expected);
        }
    }
}
