//! Speaks HTTP to one node, from inside of its namespace: the API is open on loopback only.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, runtime::Handle, time::timeout};

/// How long a connection may take to be made: they are all on loopback.
const CONNECT: Duration = Duration::from_secs(1);
/// The largest answer that is read.
const MAX_BODY: usize = 16 << 20;

/// Where it connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// The API.
    Api,
    /// The ingress.
    Http,
}

impl Port {
    /// Its number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Api => 7401,
            Self::Http => 8080,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// Not a byte was sent.
    NotSent(String),
    /// It may have arrived.
    Sent(String),
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header field; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The stable code of an error.
    pub fn code(&self) -> String {
        match self.header("x-swarmer-error") {
            "" => self.json()["code"].as_str().unwrap_or_default().to_owned(),
            code => code.to_owned(),
        }
    }
}

/// An answer that goes on.
#[derive(Debug)]
pub struct Stream {
    /// HTTP status.
    pub status: u16,
    body: Incoming,
    _sender: http1::SendRequest<Full<Bytes>>,
}

impl Stream {
    /// The next bytes; none at the end, whatever made it.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.body.frame().await?.ok()?.into_data() {
                Ok(data) => return Some(data),
                Err(_) => continue,
            }
        }
    }
}

/// The way to one port of one node. Clones have connections of their own.
#[derive(Debug)]
pub struct Gateway {
    inside: Handle,
    port: Port,
    node: Arc<str>,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Clone for Gateway {
    fn clone(&self) -> Self {
        Self::new(self.inside.clone(), self.port, Arc::clone(&self.node))
    }
}

impl Gateway {
    /// To a port of the node in whose namespace the tasks of `inside` run.
    pub fn new(inside: Handle, port: Port, node: Arc<str>) -> Self {
        Self { inside, port, node, sender: None }
    }

    /// The node's name.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, Lost> {
        let port = self.port.number();
        // The socket belongs to the namespace of the thread that opens it.
        let connected = self.inside.spawn(async move {
            let open = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
            let stream = timeout(CONNECT, open).await.map_err(|_| "no connection".to_owned())?;
            let stream = stream.map_err(|error| error.to_string())?;
            let _ = stream.set_nodelay(true);
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            Ok::<_, String>(sender)
        });
        match connected.await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(why)) => Err(Lost::NotSent(why)),
            Err(error) => Err(Lost::NotSent(error.to_string())),
        }
    }

    async fn sender(&mut self) -> Result<http1::SendRequest<Full<Bytes>>, Lost> {
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        self.connect().await
    }

    /// Sends a request and reads the whole answer within `deadline`.
    ///
    /// # Errors
    /// There is none; and whether the request can have arrived.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        deadline: Duration,
    ) -> Result<Reply, Lost> {
        let request = request(method, path, headers, body.into())?;
        let mut sender = self.sender().await?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| format!("{e:?}"))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| e.to_string())?;
            let (status, headers) = (head.status.as_u16(), head.headers);
            Ok(Reply { status, headers, body: body.to_bytes() })
        };
        match timeout(deadline, answer).await {
            Ok(Ok(reply)) => {
                self.sender = Some(sender);
                Ok(reply)
            }
            Ok(Err(why)) => Err(Lost::Sent(why)),
            Err(_) => Err(Lost::Sent(format!("nothing within {} ms", deadline.as_millis()))),
        }
    }

    /// Sends a `GET` of an answer that goes on, on a connection of its own.
    ///
    /// # Errors
    /// As [`Gateway::send`]; the deadline is that of the answer's head.
    pub async fn open(&self, path: &str, deadline: Duration) -> Result<Stream, Lost> {
        let request = request(Method::GET, path, &[], Bytes::new())?;
        let mut sender = self.connect().await?;
        match timeout(deadline, sender.send_request(request)).await {
            Ok(Ok(response)) => {
                let (head, body) = response.into_parts();
                Ok(Stream { status: head.status.as_u16(), body, _sender: sender })
            }
            Ok(Err(error)) => Err(Lost::Sent(format!("{error:?}"))),
            Err(_) => Err(Lost::Sent(format!("nothing within {} ms", deadline.as_millis()))),
        }
    }
}

fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Lost> {
    let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body)).map_err(|error| Lost::NotSent(error.to_string()))
}
