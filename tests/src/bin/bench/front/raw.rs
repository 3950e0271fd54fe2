//! The yardstick of the fan-out: a process of its own that writes the same bytes to as many sockets, and does nothing
//! else.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, Command};

/// The argument with which the benchmark is that process.
pub const ARGUMENT: &str = "--raw-fan-out";

/// That process: prints where it listens; then writes each line of its input to every socket.
pub async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut sockets: Vec<TcpStream> = Vec::new();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => {
                let (socket, _) = accepted?;
                socket.set_nodelay(true)?;
                sockets.push(socket);
            }
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let frame = super::fan_out::frame(line.as_bytes());
                for socket in &mut sockets {
                    socket.write_all(&frame).await?;
                }
            }
        }
    }
}

/// The process, from outside; killed with this value.
pub struct Raw {
    _child: Child,
    input: ChildStdin,
    pub address: SocketAddr,
}

impl Raw {
    pub async fn start() -> anyhow::Result<Raw> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ARGUMENT).kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("no input")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let address = lines.next_line().await?.context("the yardstick does not listen")?.parse()?;
        Ok(Raw { _child: child, input, address })
    }

    /// Has this written to every socket.
    pub async fn tell(&mut self, text: &str) -> anyhow::Result<()> {
        ensure!(!text.contains('\n'), "one line");
        Ok(self.input.write_all(format!("{text}\n").as_bytes()).await?)
    }
}
