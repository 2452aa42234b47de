//! The one way out: every request that a guest sends passes here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use swarmer_model::{Code, Coded, Digest};

use crate::{body::Body, codes, key::FunctionKey};

/// Who sends, in which call, and how long anyone waits.
#[derive(Debug, Clone)]
pub struct EgressContext {
    /// The component's digest: part of the caller's identity.
    pub digest: Digest,
    /// The `traceparent` of the call in whose course this is sent. The request already has it
    /// as a header unless the guest set its own.
    pub traceparent: Option<Arc<str>>,
    /// The deadline of that call: waiting longer serves nobody.
    pub deadline: Instant,
    /// How many functions and nodes that call has passed.
    pub hop: u8,
}

/// The time limits that the guest asked for, if any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EgressOptions {
    /// To connect.
    pub connect_timeout: Option<Duration>,
    /// To the first byte of the answer.
    pub first_byte_timeout: Option<Duration>,
    /// Between two pieces of the answer's body.
    pub between_bytes_timeout: Option<Duration>,
}

/// Sends what guests send. Implemented by the node: calls of the mesh for `*.internal`, HTTP for
/// everything else. The runtime has already checked the function's declaration.
#[async_trait]
pub trait Egress: Send + Sync + 'static {
    /// Sends the request and gives the answer's head with a streaming body. The URI is absolute.
    ///
    /// The future is dropped when the guest is stopped; what it started must end then.
    async fn send(
        &self,
        from: &FunctionKey,
        context: EgressContext,
        request: http::Request<Body>,
        options: EgressOptions,
    ) -> Result<http::Response<Body>, EgressError>;
}

/// An [`Egress`] that reaches nothing: for nodes and tests without a way out.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEgress;

#[async_trait]
impl Egress for NoEgress {
    async fn send(
        &self,
        _: &FunctionKey,
        _: EgressContext,
        _: http::Request<Body>,
        _: EgressOptions,
    ) -> Result<http::Response<Body>, EgressError> {
        Err(EgressError::Denied("this node sends no requests of functions".to_owned()))
    }
}

/// An outgoing request failed. Each becomes the `wasi:http` error code that fits.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EgressError {
    /// Policy forbids it.
    #[error("the request is not allowed: {0}")]
    Denied(String),
    /// No such name or service.
    #[error("there is no such destination: {0}")]
    NotFound(String),
    /// The destination exists, but nothing there takes requests now.
    #[error("the destination is not available: {0}")]
    Unavailable(String),
    /// Nobody listens.
    #[error("the connection was refused: {0}")]
    Refused(String),
    /// Not connected in time.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// No answer in time.
    #[error("the answer took too long")]
    ResponseTimeout,
    /// The other side broke off.
    #[error("the connection was broken off: {0}")]
    Terminated(String),
    /// TLS failed.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// Not HTTP.
    #[error("the other side does not speak HTTP as it should: {0}")]
    Protocol(String),
    /// Too many hops.
    #[error("the call went in a circle")]
    Loop,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Coded for EgressError {
    fn code(&self) -> Code {
        match self {
            Self::Denied(_) => codes::EGRESS_DENIED,
            _ => codes::EGRESS_FAILED,
        }
    }
}
