//! Calls that other nodes send here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::{RecvStream, SendStream};
use swarmer_mesh::{
    call::{self, CallError, IncomingCall, Refusal, Served},
    transport::Peer,
};
use swarmer_runtime::CallContext;

use crate::dispatch::{
    Dispatcher,
    body::to_runtime,
    rule,
    trace::{new_traceparent, valid_traceparent},
};

/// How long a receiver waits for the state that the caller has already seen.
const STALE_WAIT: Duration = Duration::from_millis(500);

impl Dispatcher {
    /// Serves one call that `peer` sent.
    pub(crate) async fn serve(&self, peer: &Peer, send: SendStream, recv: RecvStream) {
        let call = match call::receive_call(send, recv).await {
            Ok(call) => call,
            Err(error) => {
                tracing::debug!(target: "swarmer::dispatch", peer = %peer.node, %error,
                    "a call could not be read");
                return;
            }
        };
        if let Err(error) = self.answer(peer, call).await
            && !matches!(error, CallError::Cancelled)
        {
            tracing::debug!(target: "swarmer::dispatch", peer = %peer.node, %error,
                "an answer was not sent whole");
        }
    }

    async fn answer(&self, peer: &Peer, call: IncomingCall) -> Result<(), CallError> {
        let deps = self.deps();
        let deadline = call.deadline.into_std();
        let served = |version| Served {
            node: deps.node,
            version,
            revision: deps.desired.current().revision,
        };
        let head = &call.head;
        if deps.desired.current().revision < head.revision {
            let left = deadline.saturating_duration_since(Instant::now()).min(STALE_WAIT);
            let seen = deps.desired.wait_until(|state| state.revision >= head.revision);
            if tokio::time::timeout(left, seen).await.is_err() {
                return call.responder.refuse(Refusal::Stale, served(None)).await;
            }
        }
        if let Some(source) = &head.source
            && !self.speaks_for(peer, source)
        {
            return call.responder.refuse(Refusal::NotEntitled, served(None)).await;
        }
        let desired = deps.desired.current();
        let entry = desired.function(&head.destination.namespace, &head.destination.name).cloned();
        drop(desired);
        let version = match (&entry, head.destination.version) {
            (Some(_), Some(version)) => version,
            // Not known here, though the state is new enough: it was deleted.
            _ => return call.responder.refuse(Refusal::NotStarted, served(None)).await,
        };
        let Some(entry) = entry else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        let started = rule::start(&deps.functions, &entry.id, version, left).await;
        let function = match started {
            Ok(function) => function,
            Err(failed) => {
                return call.responder.refuse(failed.refusal(&deps.name), served(None)).await;
            }
        };
        let traceparent = &call.head.trace.traceparent;
        let traceparent: Arc<str> = if valid_traceparent(traceparent) {
            traceparent.as_str().into()
        } else {
            new_traceparent()
        };
        let hop = call.head.hop;
        let gone = call.responder.cancelled();
        let (request, _, responder) = call.into_request()?;
        let context = CallContext { deadline, traceparent: Some(traceparent), hop };
        let running = function.call(request.map(to_runtime), context);
        let outcome = tokio::select! {
            biased;
            // Dropping the call stops the guest.
            () = gone => return Err(CallError::Cancelled),
            outcome = running => outcome,
        };
        match rule::answer(outcome) {
            // The guest stops when the answer's body is dropped: `respond` drops it as soon as the
            // caller is gone.
            Ok(response) => responder.respond(response, served(Some(version))).await,
            Err(failed) => responder.refuse(failed.refusal(&deps.name), served(None)).await,
        }
    }
}
