//! The byte stream under a connection, in two halves. Plaintext now; TLS and SASL come in here, and nowhere else.
//!
//! Cancel: a read or write that is dropped may have moved bytes; the connection above it is then of no more use, and
//! knows it.

use std::io::{self, IoSlice};

use bytes::BufMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, lookup_host};

use crate::error::{Error, Result};
use crate::kafka::Properties;

/// What is read at once, where less is asked for: without it a small answer, its length first, would take three calls of
/// the kernel. With half, that of Produce for some dozens of partitions takes two; of larger ones, more is copied twice.
const AHEAD_BYTES: usize = 4 << 10;

/// What comes from the broker.
#[derive(Debug)]
pub(super) enum Reading {
    /// TCP as it is. What is read ahead is bounded by [`AHEAD_BYTES`].
    Plain(BufReader<OwnedReadHalf>),
}

/// What goes to the broker.
#[derive(Debug)]
pub(super) enum Writing {
    /// TCP as it is.
    Plain(OwnedWriteHalf),
}

/// Connects to `address` (`host:port`), to the first of its IP addresses that answers.
pub(super) async fn open(address: &str, properties: &Properties) -> Result<(Reading, Writing)> {
    let lost = |error: io::Error| Error::transient(format!("cannot connect to broker {address}")).source(error);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for ip in lookup_host(address).await.map_err(lost)? {
        let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(lost)?;
        if properties.socket_receive_bytes > 0 {
            socket.set_recv_buffer_size(properties.socket_receive_bytes).map_err(lost)?;
        }
        // Requests are small or written at once: Nagle's algorithm would hold their ends back for nothing.
        socket.set_nodelay(true).map_err(lost)?;
        socket.set_keepalive(true).map_err(lost)?;
        match socket.connect(ip).await {
            Ok(stream) => {
                let (reading, writing) = stream.into_split();
                return Ok((Reading::Plain(BufReader::with_capacity(AHEAD_BYTES, reading)), Writing::Plain(writing)));
            }
            Err(error) => last = error,
        }
    }
    Err(lost(last))
}

impl Writing {
    /// Writes all of these, none of which is empty.
    pub(super) async fn write_all(&mut self, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !slices.is_empty() {
            let written = match self {
                Self::Plain(stream) => stream.write_vectored(slices).await?,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }
}

impl Reading {
    /// Fills `bytes`.
    pub(super) async fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.read_exact(bytes).await.map(|_| ()),
        }
    }

    /// Reads what there is into the spare capacity of `buffer`; 0 is the end of the stream.
    pub(super) async fn read_buf(&mut self, buffer: &mut (impl BufMut + Send)) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(buffer).await,
        }
    }
}
