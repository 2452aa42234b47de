//! The receiving half of a message as a body.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    task::AbortHandle,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    CallError,
    frame::{FrameReader, Kind},
    head::decode_trailers,
};

/// Ends a task when it is dropped: the pump of a request body must not outlive the call.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
enum State {
    /// Between two frames; `last` says that no other may follow.
    Between { last: bool },
    /// Inside a data frame.
    Data { left: usize, last: bool },
    /// Inside a trailers frame.
    Trailers { length: usize },
    /// Read to the end, or failed.
    Done,
}

/// The body of a message as it comes in, under QUIC's flow control: what is not read from here
/// is not acknowledged as room to the sender.
pub(super) struct ReceiveBody {
    reader: FrameReader,
    state: State,
    deadline: Instant,
    /// Made only if the body has to wait.
    sleep: Option<Pin<Box<Sleep>>>,
    _pump: Option<AbortOnDrop>,
}

impl ReceiveBody {
    /// The body after a head frame; `last` if that was the last frame.
    pub(super) fn new(
        reader: FrameReader,
        last: bool,
        deadline: Instant,
        pump: Option<AbortOnDrop>,
    ) -> Self {
        Self { reader, state: State::Between { last }, deadline, sleep: None, _pump: pump }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, CallError>> {
        loop {
            match self.state {
                State::Done => return Poll::Ready(Ok(None)),
                State::Between { last: true } => {
                    let more = ready!(self.reader.poll_chunk(cx))
                        .map_err(|error| CallError::from_read(error, true))?;
                    if more {
                        let reason = "data after the last frame";
                        return Poll::Ready(Err(CallError::protocol(reason)));
                    }
                    self.state = State::Done;
                }
                State::Between { last: false } => {
                    let Some(header) = ready!(self.reader.poll_header(cx, true))? else {
                        // A sender that was dropped leaves a FIN behind, but no last frame.
                        let reason = "the stream ended before the last frame";
                        return Poll::Ready(Err(CallError::broken(reason)));
                    };
                    self.state = match header.kind {
                        Kind::Data if header.length == 0 => State::Between { last: header.last },
                        Kind::Data => State::Data { left: header.length, last: header.last },
                        Kind::Trailers if header.last => State::Trailers { length: header.length },
                        kind => {
                            let reason = format!("a {kind:?} frame in the middle of a body");
                            return Poll::Ready(Err(CallError::protocol(reason)));
                        }
                    };
                }
                State::Data { left, last } => {
                    let data = ready!(self.reader.poll_data(cx, left, true))?;
                    self.state = match left - data.len() {
                        0 => State::Between { last },
                        left => State::Data { left, last },
                    };
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                State::Trailers { length } => {
                    let payload = ready!(self.reader.poll_payload(cx, length, true))?;
                    self.state = State::Between { last: true };
                    return Poll::Ready(
                        decode_trailers(&payload).map(|t| Some(Frame::trailers(t))),
                    );
                }
            }
        }
    }
}

impl http_body::Body for ReceiveBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let this = self.get_mut();
        let result = match this.poll_next(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                let deadline = this.deadline;
                let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                ready!(sleep.as_mut().poll(cx));
                Err(CallError::Deadline)
            }
        };
        if let Err(error) = &result {
            this.state = State::Done;
            this.reader.stop(error.reset_code());
        }
        Poll::Ready(result.transpose())
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done | State::Between { last: true })
    }

    fn size_hint(&self) -> SizeHint {
        match self.state {
            State::Done | State::Between { last: true } => SizeHint::with_exact(0),
            State::Data { left, last: true } => SizeHint::with_exact(left as u64),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for ReceiveBody {
    fn drop(&mut self) {
        if matches!(self.state, State::Between { last: true }) {
            self.reader.complete();
        }
    }
}
