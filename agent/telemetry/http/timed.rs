//! A connection whose other end must read what it asked for: who does not, for so long, is let go, since its place is another's.
//!
//! The time runs from the moment at which something cannot be written until all that was is: a byte now and then does not stop
//! it. Reading is not looked at.

use std::io::{self, Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream that fails where nobody takes what is written to it.
pub(super) struct Timed<S> {
    stream: S,
    within: Duration,
    /// Runs while something waits to be written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    /// Gives whoever reads `stream` so long for each answer.
    pub(super) fn new(stream: S, within: Duration) -> Self {
        Self { stream, within, deadline: None }
    }

    /// Lets an outcome pass, unless it is waited for it too long.
    fn timed<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_pending() {
            let within = self.within;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(within)));
            ready!(deadline.as_mut().poll(context));
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "nobody reads the answer")));
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, from);
        self.timed(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, from);
        self.timed(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        if outcome.is_ready() {
            self.deadline = None;
        }
        self.timed(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.timed(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn who_reads_nothing_is_let_go_and_who_reads_has_all() {
        let (near, mut far) = duplex(16);
        let mut timed = Timed::new(near, Duration::from_millis(50));
        let (mut read, page) = (Vec::new(), vec![7; 1000]);
        let writing = async {
            timed.write_all(&page).await?;
            timed.flush().await?;
            timed.shutdown().await
        };
        let (written, taken) = tokio::join!(writing, far.read_to_end(&mut read));
        written.expect("somebody reads");
        assert_eq!(taken.expect("all of it"), 1000);

        let (near, mut far) = duplex(16);
        let mut timed = Timed::new(near, Duration::from_millis(50));
        // A byte now and then is not an answer that is read.
        let reading = async {
            while far.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
        };
        let error = tokio::select! {
            written = timed.write_all(&page) => written.expect_err("nobody reads that slowly"),
            () = reading => unreachable!("it is written for ever"),
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
