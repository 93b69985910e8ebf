//! The byte stream under a connection, in two halves: TCP as it is, or TLS over it.
//!
//! Cancel: a read or write that is dropped may have moved bytes; the connection above it is then of no more use, and
//! knows it.

use std::io::{self, IoSlice};

use bytes::BufMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Error, Result};
use crate::kafka::Properties;
use crate::kafka::security::broker_name;

/// What is read at once, where less is asked for: without it a small answer, its length first, would take three calls of
/// the kernel. With half, that of Produce for some dozens of partitions takes two; of larger ones, more is copied twice.
const AHEAD_BYTES: usize = 4 << 10;

/// What is read at once under TLS, which asks for 4 KiB each time: without it a frame of a mebibyte takes 256 calls of the
/// kernel. With twice as much it no longer stays in the processor's nearest cache.
const CIPHERED_BYTES: usize = 64 << 10;

/// TLS over TCP.
type Ciphered = TlsStream<BufReader<TcpStream>>;

/// What comes from the broker.
#[derive(Debug)]
pub(super) enum Reading {
    /// TCP as it is. What is read ahead is bounded by [`AHEAD_BYTES`].
    Plain(BufReader<OwnedReadHalf>),
    /// TLS, which holds what it has deciphered and nobody has asked for yet.
    Tls(ReadHalf<Ciphered>),
}

/// What goes to the broker.
#[derive(Debug)]
pub(super) enum Writing {
    /// TCP as it is.
    Plain(OwnedWriteHalf),
    /// TLS.
    Tls(WriteHalf<Ciphered>),
}

/// Connects to `address` (`host:port`), to the first of its IP addresses that answers, and speaks TLS where that is asked
/// for.
pub(super) async fn open(address: &str, properties: &Properties) -> Result<(Reading, Writing)> {
    // What is wrong with our own files is found before anybody is asked.
    let tls = properties.security.tls()?;
    let stream = connect(address, properties).await?;
    let Some(tls) = tls else {
        let (reading, writing) = stream.into_split();
        return Ok((Reading::Plain(BufReader::with_capacity(AHEAD_BYTES, reading)), Writing::Plain(writing)));
    };
    let stream = BufReader::with_capacity(CIPHERED_BYTES, stream);
    let stream = TlsConnector::from(tls).connect(broker_name(address)?, stream).await.map_err(|error| {
        properties.security.explained(address, &error).unwrap_or_else(|| {
            let hint = "name a TLS listener, or correct `security.protocol`";
            Error::transient(format!("broker {address} has broken off TLS as it began")).source(error).hint(hint)
        })
    })?;
    let (reading, writing) = tokio::io::split(stream);
    Ok((Reading::Tls(reading), Writing::Tls(writing)))
}

async fn connect(address: &str, properties: &Properties) -> Result<TcpStream> {
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
            Ok(stream) => return Ok(stream),
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
                Self::Tls(stream) => stream.write_vectored(slices).await?,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut slices, written);
        }
        match self {
            Self::Plain(_) => Ok(()),
            // What it has taken it may still hold.
            Self::Tls(stream) => stream.flush().await,
        }
    }
}

impl Reading {
    /// Fills `bytes`.
    pub(super) async fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.read_exact(bytes).await.map(|_| ()),
            Self::Tls(stream) => stream.read_exact(bytes).await.map(|_| ()),
        }
    }

    /// Reads what there is into the spare capacity of `buffer`; 0 is the end of the stream.
    pub(super) async fn read_buf(&mut self, buffer: &mut (impl BufMut + Send)) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
        }
    }
}
