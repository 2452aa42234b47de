//! One HTTP/1.1 connection, kept alive, one request at a time.
//!
//! A client of our own, so that what it costs is small, the same for every subject, and known:
//! one write, as few reads as the answer comes in, and no allocation for an answer.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// An answer's head may be so long.
const MAX_HEAD: usize = 64 << 10;
/// An answer may be so long; nothing here asks for more.
const MAX_ANSWER: usize = 16 << 20;
/// A single question outside of a measured run may take so long.
const ONE_ANSWER: Duration = Duration::from_secs(10);

/// A connection and what was read from it.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// A chunked body without its framing.
    joined: Vec<u8>,
}

/// An answer, as it lies in the connection's buffers.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    head: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    /// The value of a header; its name is given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        header(self.head, name)
    }

    /// Whether the connection serves another request.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"))
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096), joined: Vec::new() })
    }

    /// Sends the bytes of one request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        self.joined.clear();
        let mut searched = 0;
        let head_end = loop {
            if let Some(at) = find(&self.buffer[searched..], b"\r\n\r\n") {
                break searched + at + 4;
            }
            searched = self.buffer.len().saturating_sub(3);
            ensure!(self.buffer.len() < MAX_HEAD, "the answer's head does not end");
            self.fill().await?;
        };
        let head = &self.buffer[..head_end];
        ensure!(head.starts_with(b"HTTP/1.1 "), "the answer is not HTTP/1.1");
        let status = number(&head[9..12], 10).context("the answer has no status")? as u16;
        let length = header(head, "content-length").map(|value| number(value, 10));
        let chunked = header(head, "transfer-encoding").is_some();
        let whole = if chunked {
            self.join_chunks(head_end).await?;
            false
        } else {
            let length = length.flatten().unwrap_or(0);
            ensure!(length <= MAX_ANSWER, "the answer is of {length} bytes");
            while self.buffer.len() < head_end + length {
                self.fill().await?;
            }
            ensure!(self.buffer.len() == head_end + length, "more came than one answer");
            true
        };
        let body = if whole { &self.buffer[head_end..] } else { &self.joined[..] };
        Ok(Answer { status, head: &self.buffer[..head_end], body })
    }

    async fn join_chunks(&mut self, mut at: usize) -> Result<()> {
        loop {
            let line = self.line(at).await?;
            let size = self.buffer[at..line].split(|byte| *byte == b';').next().unwrap_or_default();
            let size = number(size.trim_ascii(), 16).context("a chunk has no size")?;
            at = line + 2;
            if size == 0 {
                break;
            }
            ensure!(self.joined.len() + size <= MAX_ANSWER, "the answer is too long");
            while self.buffer.len() < at + size + 2 {
                self.fill().await?;
            }
            self.joined.extend_from_slice(&self.buffer[at..at + size]);
            at += size + 2;
        }
        // Trailers, and the empty line that ends them.
        loop {
            let line = self.line(at).await?;
            if line == at {
                return Ok(());
            }
            at = line + 2;
        }
    }

    /// Where the line that begins at `at` ends.
    async fn line(&mut self, at: usize) -> Result<usize> {
        loop {
            if let Some(end) = find(&self.buffer[at.min(self.buffer.len())..], b"\r\n") {
                return Ok(at + end);
            }
            ensure!(self.buffer.len() < at + MAX_HEAD, "a line does not end");
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed in the middle of an answer");
        }
        ensure!(self.buffer.len() <= 2 * MAX_ANSWER, "the answer is too long");
        Ok(())
    }
}

/// The bytes of a GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes()
}

/// The bytes of a POST of JSON.
pub(crate) fn post(address: SocketAddr, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Asks once, on a connection of its own: status, a header, body.
pub(crate) async fn ask(
    address: SocketAddr,
    path: &str,
    wanted_header: &str,
) -> Result<(u16, Option<String>, Vec<u8>)> {
    let ask = async {
        let mut connection = Connection::open(address).await?;
        let answer = connection.exchange(&get(address, path)).await?;
        let value = answer.header(wanted_header);
        let value = value.map(|value| String::from_utf8_lossy(value).into_owned());
        anyhow::Ok((answer.status, value, answer.body.to_vec()))
    };
    let answer = tokio::time::timeout(ONE_ANSWER, ask).await;
    answer.with_context(|| format!("no answer from {address}{path} in {ONE_ANSWER:?}"))?
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let colon = name.len();
        (line.get(colon) == Some(&b':') && line[..colon].eq_ignore_ascii_case(name.as_bytes()))
            .then(|| line[colon + 1..].trim_ascii())
    })
}

fn number(text: &[u8], radix: u32) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each request with the next of these texts, in pieces of this size.
    async fn server(answers: Vec<&'static str>, piece: usize) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut request = [0; 1024];
            for answer in answers {
                let _ = stream.read(&mut request).await.unwrap();
                for piece in answer.as_bytes().chunks(piece) {
                    stream.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn answers_of_both_framings_in_pieces_of_every_size() {
        for piece in [1, 2, 3, 7, 1000] {
            let plain = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Swarmer-Node: a\r\n\r\nabc";
            let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                2\r\nab\r\n1;x=y\r\nc\r\n0\r\nt: 1\r\n\r\n";
            let last = "HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let address = server(vec![plain, chunked, last], piece).await;
            let mut connection = Connection::open(address).await.unwrap();
            let request = get(address, "/");
            let answer = connection.exchange(&request).await.unwrap();
            assert_eq!((answer.status, answer.body), (200, &b"abc"[..]));
            assert_eq!(answer.header("x-swarmer-node"), Some(&b"a"[..]));
            assert!(answer.keeps_alive());
            let answer = connection.exchange(&request).await.unwrap();
            assert_eq!((answer.status, answer.body), (200, &b"abc"[..]), "piece {piece}");
            let answer = connection.exchange(&request).await.unwrap();
            assert_eq!(answer.status, 503);
            assert!(!answer.keeps_alive());
        }
    }

    #[tokio::test]
    async fn an_answer_broken_off_is_an_error() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "HTTP/1.1 200",
        ] {
            let address = server(vec![text], 1000).await;
            let mut connection = Connection::open(address).await.unwrap();
            assert!(connection.exchange(&get(address, "/")).await.is_err(), "{text:?}");
        }
    }
}
