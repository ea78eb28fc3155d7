//! The PROXY protocol, versions 1 and 2, by which a load balancer reports whose connection it forwards.
//!
//! Invariant: a header is read only from an address that the configuration trusts, and is required there. Otherwise a
//! peer could choose the address by which limits and the audit trail identify it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::config::Network;

/// The beginning of a version 2 header.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The maximum length of a version 1 line, including its end.
const MAX_LINE: usize = 107;
/// The maximum length of addresses and extensions in version 2.
const MAX_LENGTH: usize = 1024;

/// Whether connections from this address begin with a header.
pub(super) fn is_trusted(peer: IpAddr, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.contains(peer))
}

/// Reads a header and nothing after it. `None` if the proxy opened the connection itself, for example as a health
/// check.
pub(super) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    // The shortest header of either version is longer.
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE { read_binary(stream).await } else { read_line(stream, &start).await }
}

async fn read_binary(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version_and_command, family, length @ ..] = head;
    let length = usize::from(u16::from_be_bytes(length));
    if version_and_command >> 4 != 2 || length > MAX_LENGTH {
        return Err(malformed());
    }
    let mut addresses = vec![0; length];
    stream.read_exact(&mut addresses).await?;
    let is_proxied = match version_and_command & 0xf {
        0 => false,
        1 => true,
        _ => return Err(malformed()),
    };
    // Other protocols than TCP over IPv4 or IPv6 have no usable address.
    Ok(match family {
        0x11 if is_proxied => {
            let (source, port) = source::<4>(&addresses)?;
            Some((Ipv4Addr::from(source), port).into())
        }
        0x21 if is_proxied => {
            let (source, port) = source::<16>(&addresses)?;
            Some((Ipv6Addr::from(source), port).into())
        }
        _ => None,
    })
}

/// Reads the source; both addresses come first, then both ports.
fn source<const N: usize>(addresses: &[u8]) -> io::Result<([u8; N], u16)> {
    let source = addresses.first_chunk::<N>().ok_or_else(malformed)?;
    let port = addresses.get(2 * N..).and_then(|ports| ports.first_chunk::<2>()).ok_or_else(malformed)?;
    Ok((*source, u16::from_be_bytes(*port)))
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin), start: &[u8]) -> io::Result<Option<SocketAddr>> {
    let mut line = start.to_vec();
    if !line.starts_with(b"PROXY ") {
        return Err(malformed());
    }
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_LINE {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    let line = std::str::from_utf8(&line).map_err(|_| malformed())?;
    let words: Vec<_> = line.trim_end().split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, _, port, _] => {
            let source: IpAddr = source.parse().map_err(|_| malformed())?;
            if source.is_ipv4() != (*family == "TCP4") {
                return Err(malformed());
            }
            Ok(Some((source, port.parse().map_err(|_| malformed())?).into()))
        }
        _ => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a valid PROXY protocol header")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<(Option<SocketAddr>, Vec<u8>)> {
        let mut stream = bytes;
        let address = read_header(&mut stream).await?;
        Ok((address, stream.to_vec()))
    }

    fn binary(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, addresses, b"rest"].concat()
    }

    #[tokio::test]
    async fn both_versions_contain_the_address_and_following_bytes_are_not_read() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0xc3, 0x50, 0x20, 0xfb];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().expect("an address").octets());
        v6[32..34].copy_from_slice(&50_000_u16.to_be_bytes());
        for (bytes, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 8443\r\nrest".to_vec(), Some("192.0.2.7:50000")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 8443\r\nrest".to_vec(), Some("[2001:db8::7]:50000")),
            (b"PROXY UNKNOWN\r\nrest".to_vec(), None),
            (binary(1, 0x11, &v4), Some("192.0.2.7:50000")),
            // With an extension after the addresses.
            (binary(1, 0x11, &[&v4[..], &[0x04, 0, 1, 0]].concat()), Some("192.0.2.7:50000")),
            (binary(1, 0x21, &v6), Some("[2001:db8::7]:50000")),
            (binary(0, 0, &[]), None),
            (binary(1, 0x31, &[0; 216]), None),
        ] {
            let (address, rest) = read(&bytes).await.expect("a header");
            assert_eq!(address, expected.map(|address| address.parse().expect("an address")));
            assert_eq!(rest, b"rest");
        }
    }

    #[tokio::test]
    async fn an_invalid_header_is_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 2001:db8::7 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 70000 2\r\n",
            b"PROXY TCP4 192.0.2.7\r\n.......",
            &binary(1, 0x11, &[0; 5]),
            &binary(7, 0x11, &[0; 12]),
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 200][..]].concat(),
        ] {
            let error = read(bytes).await.expect_err("malformed");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let error = read(&SIGNATURE).await.expect_err("a truncated header");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
