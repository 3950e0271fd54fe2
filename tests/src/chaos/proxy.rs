//! The network between a host and one NATS server. Cut, it is a black hole: nothing is closed and nothing gets through;
//! what was on its way arrives when it is mended, as TCP does it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards connections; ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of loopback, in front of `target`.
    pub async fn start(target: SocketAddr) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let whole = watch::Sender::new(true);
        let task = tokio::spawn(accept(listener, target, whole.subscribe()));
        Ok(Proxy { address, whole, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing gets through from now on.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// What waited gets through, and what comes.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, whole: watch::Receiver<bool>) {
    loop {
        // A connection that is gone before it was taken is nobody's.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connect(stream, target, whole.clone()));
        }
    }
}

async fn connect(near: TcpStream, target: SocketAddr, mut whole: watch::Receiver<bool>) {
    if whole.wait_for(|whole| *whole).await.is_err() {
        return;
    }
    // Nobody there: the near end is closed, as if it had been refused.
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    // Either option is only about speed.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::spawn(forward(near_in, far_out, whole.clone()));
    forward(far_in, near_out, whole).await;
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut whole: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        // The end of a connection is news too, and does not get through a cut.
        if whole.wait_for(|whole| *whole).await.is_err() || count == 0 {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_cut_holds_everything_back_and_loses_nothing() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap()).await.unwrap();
        let mut near = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut far, _) = server.accept().await.unwrap();
        let mut byte = [0];
        near.write_all(b"a").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
        proxy.cut();
        near.write_all(b"b").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), far.read_exact(&mut byte)).await;
        assert!(early.is_err(), "nothing gets through a cut");
        proxy.mend();
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b");
        drop(near);
        assert_eq!(far.read(&mut byte).await.unwrap(), 0);
    }
}
