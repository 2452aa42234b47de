//! The transport's promises, over loopback.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod founding;
mod patience;
mod port;
mod rest;
mod stranger;
mod streams;
mod support;

use std::sync::Arc;

use bytes::Bytes;
use support::{TestClock, TestNode, acquaint, log, member, soon};
use swarmer_mesh::{
    identity::{Authority, WallClock},
    transport::{OpenError, RefusedBy, RequestError, StreamKind},
};
use swarmer_model::ClusterId;

fn clock() -> Arc<TestClock> {
    Arc::default()
}

fn authority(cluster: u128, clock: &TestClock) -> Authority {
    Authority::create(ClusterId(cluster), clock.now()).unwrap()
}

fn pair(clock: &Arc<TestClock>) -> (Authority, TestNode, TestNode) {
    let authority = authority(1, clock);
    let (a, b) = (member(&authority, 1, clock), member(&authority, 2, clock));
    acquaint(&a, &b);
    (authority, a, b)
}

async fn ask(from: &TestNode, to: &TestNode, kind: StreamKind) -> Result<Bytes, RequestError> {
    from.handle.request(to.id, kind, Bytes::from_static(b"hello"), soon()).await
}

/// A dial that must fail with a code on the dialler's side, found in both logs.
async fn refused(from: &TestNode, to: &TestNode, by: RefusedBy, code: swarmer_model::Code) {
    let error = ask(from, to, StreamKind::Artifact).await.unwrap_err();
    assert!(error.not_started());
    match &error {
        RequestError::Open(OpenError::Refused { by: found, code: named, .. }) => {
            assert_eq!((*found, *named), (by, code), "{error}");
        }
        other => panic!("{other}"),
    }
    let (dialler, accepter) = match by {
        RefusedBy::Us => ("us", "peer"),
        RefusedBy::Peer => ("peer", "us"),
    };
    log().refusal(dialler, to.addr, code.name).await;
    log().refusal(accepter, from.addr, code.name).await;
    assert_eq!(to.handle.stats().streams_served, 0);
    assert!(!from.handle.has_live_connection(to.id) && !to.handle.has_live_connection(from.id));
}
