//! The byte stream under a connection. Plaintext now; TLS and SASL come in here, and nowhere else.
//!
//! Cancel: a read that is dropped may have taken bytes; the connection above it is then of no more use, and knows it.

use std::io;

use bytes::BufMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use crate::error::{Error, Result};
use crate::kafka::Properties;

/// The byte stream under a connection.
#[derive(Debug)]
pub(super) enum Transport {
    /// TCP as it is.
    Plain(TcpStream),
}

impl Transport {
    /// Connects to `address` (`host:port`), to the first of its IP addresses that answers.
    pub(super) async fn open(address: &str, properties: &Properties) -> Result<Self> {
        let lost = |error: io::Error| Error::transient(format!("cannot connect to broker {address}")).source(error);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for ip in lookup_host(address).await.map_err(lost)? {
            let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(lost)?;
            if properties.socket_receive_bytes > 0 {
                socket.set_recv_buffer_size(properties.socket_receive_bytes).map_err(lost)?;
            }
            // Requests are small and each is waited for: Nagle's algorithm would hold them back for nothing.
            socket.set_nodelay(true).map_err(lost)?;
            socket.set_keepalive(true).map_err(lost)?;
            match socket.connect(ip).await {
                Ok(stream) => return Ok(Self::Plain(stream)),
                Err(error) => last = error,
            }
        }
        Err(lost(last))
    }

    /// Writes all of `bytes`.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
        }
    }

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
