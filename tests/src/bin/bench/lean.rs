//! A WebSocket client that costs next to nothing, so that what is measured is the host: no masking, no JSON, one task a
//! connection that hands on what it is sent.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

/// One connection; closed with this value.
pub struct Lean {
    out: OwnedWriteHalf,
    reader: JoinHandle<()>,
}

impl Lean {
    /// Connects where `auth.mode` is `none`, and waits for the welcome. `heard` gets every message after it.
    pub async fn open(
        address: SocketAddr,
        user: &str,
        heard: impl FnMut(&[u8]) + Send + 'static,
    ) -> anyhow::Result<Lean> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /v1/connect?user={user} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let (read, out) = stream.into_split();
        let mut frames = Frames { read, buffer: Vec::new(), from: 0 };
        let head = frames.head().await?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{user} is refused: {head}");
        let welcome = frames.next().await?.context("no welcome")?;
        ensure!(
            frames.buffer[welcome].starts_with(b"{\"type\":\"welcome\""),
            "the first message is no welcome"
        );
        let reader = tokio::spawn(read_on(frames, heard));
        Ok(Lean { out, reader })
    }

    /// Sends one text message of at most 65,535 bytes.
    pub async fn send(&mut self, text: &str) -> anyhow::Result<()> {
        self.out.write_all(&frame(text)?).await.context("a client can't send")
    }
}

impl Drop for Lean {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A text frame, masked with zeros.
fn frame(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut frame = vec![0x81];
    match text.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        long @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
        _ => bail!("too long a message"),
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    Ok(frame)
}

async fn read_on(mut frames: Frames, mut heard: impl FnMut(&[u8])) {
    // Whoever misses something says so; here a connection may just end.
    while let Ok(Some(payload)) = frames.next().await {
        heard(&frames.buffer[payload]);
    }
}

struct Frames {
    read: OwnedReadHalf,
    buffer: Vec<u8>,
    /// What is before is used up.
    from: usize,
}

impl Frames {
    /// The head of the HTTP response.
    async fn head(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                self.from = end + 4;
                return Ok(String::from_utf8_lossy(&self.buffer[..end]).into_owned());
            }
            ensure!(self.fill().await?, "the connection ended before it was one");
        }
    }

    /// Where the next frame's payload is in the buffer; none at the end.
    async fn next(&mut self) -> anyhow::Result<Option<std::ops::Range<usize>>> {
        loop {
            let rest = &self.buffer[self.from..];
            let header = match rest.get(1).map(|length| length & 0x7F) {
                None => None,
                Some(126) => rest.get(2..4).map(|b| (4, usize::from(u16::from_be_bytes([b[0], b[1]])))),
                Some(127) => bail!("too long a frame"),
                Some(short) => Some((2, usize::from(short))),
            };
            if let Some((header, length)) = header.filter(|(header, length)| rest.len() >= header + length) {
                let start = self.from + header;
                self.from = start + length;
                return Ok(Some(start..start + length));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self) -> anyhow::Result<bool> {
        self.buffer.drain(..self.from);
        self.from = 0;
        if self.buffer.is_empty() {
            // Idle connections keep nothing.
            self.buffer = Vec::new();
        }
        Ok(self.read.read_buf(&mut self.buffer).await? > 0)
    }
}
