//! AppendEntries on one long-lived, ordered channel: pipelined, bounded, each with a deadline.
//!
//! The channel outlives what the engine calls a stream: a heartbeat is a stream of one request.
//! Where the engine gives a request up, its answer is still waited for and thrown away, so that
//! the next answers find their requests. A channel that breaks fails all that is in flight on
//! it and is opened anew by the next stream, after a pause.

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use openraft::{
    error::{NetworkError, RPCError, Timeout},
    network::RPCTypes,
    raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult},
};
use swarmer_model::NodeId;
use tokio::time::{Instant, sleep_until};

use super::{
    network::{Answers, odd, rpc_error},
    types::{LogId, Types},
    wire::{Append, Appended, decode_framed, framed},
};
use crate::{
    latency::Latency,
    transport::{Channel, Transport, TransportError},
};

/// Requests in flight on a channel: enough to hide a disk's fsync behind the next batches, and
/// less than what the engine on the other side takes before it has answered the first (64).
const MAX_IN_FLIGHT: usize = 32;
/// A channel whose oldest request is not answered for so many of the engine's time-outs (one
/// heartbeat interval each) is broken off: a second on a LAN.
const PATIENCE: u32 = 10;
/// A channel is opened anew after so long, when nothing is in flight: it then moves to the
/// connection with the newest certificates, and the transport sees that it is in use.
const LIFETIME: Duration = Duration::from_secs(60);
/// First pause before a broken channel is opened again; doubles.
const REOPEN_MIN: Duration = Duration::from_millis(10);
/// Longest such pause: every heartbeat may try again.
const REOPEN_MAX: Duration = Duration::from_millis(80);

/// A request that was sent and not answered.
struct Pending {
    prev: Option<LogId>,
    last: Option<LogId>,
    sent: Instant,
    /// Whether the engine still waits for it.
    wanted: bool,
}

struct Link {
    channel: Channel,
    /// Whether something was pushed that is not flushed.
    unsent: bool,
    pending: VecDeque<Pending>,
    opened: Instant,
}

/// Sends AppendEntries to one node.
pub(crate) struct Appender {
    node: u64,
    target: u64,
    transport: Arc<dyn Transport>,
    latency: Arc<Latency>,
    link: Option<Link>,
    /// Channels that broke since the last answer.
    failures: u32,
    not_before: Option<Instant>,
}

impl Appender {
    pub(crate) fn new(
        node: u64,
        target: u64,
        transport: Arc<dyn Transport>,
        latency: Arc<Latency>,
    ) -> Self {
        Self { node, target, transport, latency, link: None, failures: 0, not_before: None }
    }

    /// Sends what the engine gives and yields the answers in its order; ends after an error, a
    /// refusal, or the last answer.
    pub(crate) async fn run<'s, S>(
        &'s mut self,
        input: S,
        ttl: Duration,
    ) -> Result<Answers<'s>, RPCError<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        self.ensure_open(ttl).await?;
        let session = Session { appender: self, input: Some(input), ttl, over: false };
        Ok(Box::pin(futures::stream::unfold(session, |mut session| async move {
            let answer = session.next().await?;
            Some((answer, session))
        })))
    }

    async fn ensure_open(&mut self, ttl: Duration) -> Result<(), RPCError<Types>> {
        let old = |link: &Link| link.pending.is_empty() && link.opened.elapsed() >= LIFETIME;
        self.link.take_if(|link| old(link));
        if self.link.is_some() {
            return Ok(());
        }
        if let Some(at) = self.not_before {
            // Waited for here, not refused: the engine's own pause is in the stream of requests,
            // which nobody asks before the channel is open. It would try again at once, and again.
            sleep_until(at).await;
        }
        let opening = self.transport.open(NodeId(self.target), ttl);
        let opened = tokio::time::timeout(ttl, opening).await;
        match opened.unwrap_or(Err(TransportError::Timeout)) {
            Ok(channel) => {
                let pending = VecDeque::new();
                let opened = Instant::now();
                self.link = Some(Link { channel, unsent: false, pending, opened });
                Ok(())
            }
            Err(error) => {
                self.broken();
                Err(rpc_error(error, self.timeout(ttl)))
            }
        }
    }

    /// Drops the channel with all that is in flight on it.
    fn broken(&mut self) {
        if let Some(link) = self.link.take() {
            self.latency.unanswered(link.pending.len());
        }
        let pause = REOPEN_MIN.saturating_mul(1 << self.failures.min(8)).min(REOPEN_MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause);
    }

    fn timeout(&self, timeout: Duration) -> Timeout<Types> {
        let action = RPCTypes::AppendEntries;
        Timeout { action, id: self.node, target: self.target, timeout }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.latency.unanswered(link.pending.len());
        }
    }
}

/// One stream of the engine.
struct Session<'s, S> {
    appender: &'s mut Appender,
    input: Option<S>,
    ttl: Duration,
    over: bool,
}

enum Event {
    Answer(Result<bytes::Bytes, TransportError>),
    Flushed(Result<(), TransportError>),
    Request(Option<AppendEntriesRequest<Types>>),
    Late,
}

type Answer = Result<StreamAppendResult<Types>, RPCError<Types>>;

impl<S> Session<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin,
{
    async fn next(&mut self) -> Option<Answer> {
        while !self.over {
            let link = self.appender.link.as_mut()?;
            if self.input.is_none() && !link.pending.iter().any(|pending| pending.wanted) {
                return None;
            }
            let room = link.pending.len() < MAX_IN_FLIGHT && !link.unsent;
            let wake = match link.pending.front() {
                Some(oldest) => oldest.sent + self.ttl * PATIENCE,
                None => link.opened + LIFETIME,
            };
            let (sender, receiver) = (&mut link.channel.sender, &mut link.channel.receiver);
            let event = tokio::select! {
                biased;
                answer = receiver.receive() => Event::Answer(answer),
                flushed = sender.flush(), if link.unsent => Event::Flushed(flushed),
                request = next_of(&mut self.input), if room => Event::Request(request),
                () = sleep_until(wake) => Event::Late,
            };
            match event {
                Event::Answer(Ok(body)) => {
                    if let Some(answer) = self.answered(&body) {
                        return Some(answer);
                    }
                }
                Event::Flushed(Ok(())) => link.unsent = false,
                Event::Request(Some(rpc)) => {
                    if let Err(error) = push(link, self.appender.target, rpc) {
                        self.over = true;
                        return Some(Err(NetworkError::from_string(error).into()));
                    }
                }
                Event::Request(None) => self.input = None,
                // Nothing is in flight: the next stream opens a fresh channel.
                Event::Late if link.pending.is_empty() => return None,
                Event::Late => return Some(Err(self.broken(TransportError::Timeout))),
                Event::Answer(Err(error)) | Event::Flushed(Err(error)) => {
                    return Some(Err(self.broken(error)));
                }
            }
        }
        None
    }

    fn broken(&mut self, error: TransportError) -> RPCError<Types> {
        self.over = true;
        self.appender.broken();
        rpc_error(error, self.appender.timeout(self.ttl * PATIENCE))
    }

    /// Takes the answer to the oldest request; none if nobody waits for it.
    fn answered(&mut self, body: &[u8]) -> Option<Answer> {
        let answer = decode_framed::<Appended>(body);
        let oldest = self.appender.link.as_mut().and_then(|link| link.pending.pop_front());
        let (Ok(Appended(answer)), Some(request)) = (answer, oldest) else {
            self.over = true;
            self.appender.broken();
            return Some(Err(odd()));
        };
        let fits = match &answer {
            Ok(matching) => *matching <= request.last,
            // Nothing can conflict with the beginning of the log.
            Err(StreamAppendError::Conflict(at)) => request.prev.as_ref() == Some(at),
            Err(StreamAppendError::HigherVote(_)) => true,
        };
        if !fits {
            self.over = true;
            self.appender.broken();
            return Some(Err(odd()));
        }
        self.appender.latency.answered(request.sent.elapsed());
        self.appender.failures = 0;
        let whole = matches!(&answer, Ok(matching) if *matching == request.last);
        if answer.is_err() {
            // The other side closes the channel after it; opening it again needs no pause.
            let link = self.appender.link.take();
            self.appender.latency.unanswered(link.map_or(0, |link| link.pending.len()));
        }
        if !request.wanted {
            return None;
        }
        self.over = !whole;
        Some(Ok(answer))
    }
}

impl<S> Drop for Session<'_, S> {
    fn drop(&mut self) {
        if let Some(link) = &mut self.appender.link {
            link.pending.iter_mut().for_each(|pending| pending.wanted = false);
        }
    }
}

fn push(link: &mut Link, to: u64, rpc: AppendEntriesRequest<Types>) -> Result<(), String> {
    let prev = rpc.prev_log_id;
    let last = rpc.entries.last().map_or(prev, |entry| Some(entry.log_id));
    let body = framed(&Append { to, rpc }).map_err(|error| error.to_string())?;
    link.channel.sender.push(body);
    link.unsent = true;
    link.pending.push_back(Pending { prev, last, sent: Instant::now(), wanted: true });
    Ok(())
}

/// The next request, or its end; waits for ever where it has ended before.
async fn next_of<S>(input: &mut Option<S>) -> Option<AppendEntriesRequest<Types>>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    match input {
        Some(input) => input.next().await,
        None => std::future::pending().await,
    }
}
