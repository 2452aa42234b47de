//! What holds for a call wherever its function runs: which heads are taken, what an answer may
//! have, how a failure is told. Calls that stay here and calls that leave go by the same lines.

use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use swarmer_mesh::call::{self, Body, CallError, Refusal, check_answer_head, check_request_head};
use swarmer_model::{Coded as _, NodeId};
use swarmer_runtime::Function;

use crate::{
    codes,
    dispatch::body::to_mesh,
    functions::FunctionManager,
    problem::{Outcome, Problem},
};

/// The largest problem document that is read from another node: it has a detail of 2,000
/// characters at most, and a few fields beside it.
const MAX_DOCUMENT_BYTES: usize = 64 << 10;

/// How one attempt failed.
pub(super) struct Failed {
    /// What the rules of trying again go by.
    pub(super) error: CallError,
    /// What the caller is told.
    pub(super) problem: Box<Problem>,
    /// Whether the node is to blame, not the function or the caller.
    pub(super) node_fault: bool,
}

impl Failed {
    /// The function, or the room for it, failed; nobody else is to blame.
    fn by_function(problem: Problem, started: bool) -> Self {
        let error = if started { CallError::body_source(&problem) } else { CallError::Overloaded };
        Self { error, problem: problem.into(), node_fault: false }
    }

    /// The runtime says why there is no answer.
    pub(super) fn of_runtime(error: &swarmer_runtime::CallError) -> Self {
        let mut problem = Problem::new(error.code(), error.to_string());
        problem.retry_after_secs = error
            .retry_after()
            .map(|after| u32::try_from(after.as_secs()).unwrap_or(u32::MAX).max(1));
        Self::by_function(problem, !error.not_started())
    }

    /// No whole answer in the time that the call had.
    pub(super) fn late(since: Instant) -> Self {
        let error = swarmer_runtime::CallError::Timeout { after: since.elapsed() };
        let problem = Problem::new(error.code(), error.to_string());
        Self { error: CallError::Deadline, problem: problem.into(), node_fault: false }
    }

    /// As the node that asked for the call is told.
    pub(super) fn refusal(&self, node: &str) -> Refusal {
        Refusal::Problem {
            status: self.problem.status(),
            headers: self.problem.headers(node),
            document: self.problem.document(node).to_string().into(),
            started: !self.error.not_started(),
        }
    }
}

/// Makes a request ready to be handed to a function: without what belongs to the connection that it
/// came by, and within the bounds of a call.
pub(super) fn take_request(request: Request<Body>) -> Outcome<Request<Body>> {
    let (mut parts, body) = request.into_parts();
    call::strip_hop_by_hop(&mut parts.headers);
    check_request_head(&parts)
        .map_err(|error| Problem::new(call::codes::HEAD_TOO_LARGE, error.to_string()))?;
    let request = Request::from_parts(parts, body);
    swarmer_runtime::check_request(&request)
        .map_err(|error| Problem::new(error.code(), error.to_string()))?;
    Ok(request)
}

/// The function that is to run here, loaded if need be.
pub(super) async fn start(
    functions: &FunctionManager,
    id: &std::sync::Arc<str>,
    version: u32,
    left: Duration,
) -> Result<Function, Failed> {
    match tokio::time::timeout(left, functions.start(id, version)).await {
        Ok(Ok(function)) => Ok(function),
        Ok(Err(problem)) => {
            Err(Failed { error: CallError::NotStarted, problem: problem.into(), node_fault: false })
        }
        Err(_) => {
            let problem = Problem::new(codes::NO_UPSTREAM, "it could not be loaded in time");
            Err(Failed { error: CallError::Deadline, problem: problem.into(), node_fault: false })
        }
    }
}

/// What a function answered, as it may leave.
pub(super) fn answer(
    outcome: Result<Response<swarmer_runtime::Body>, swarmer_runtime::CallError>,
) -> Result<Response<Body>, Failed> {
    let mut response = outcome.map_err(|error| Failed::of_runtime(&error))?.map(to_mesh);
    call::strip_hop_by_hop(response.headers_mut());
    check_answer_head(response.headers()).map_err(|error| {
        // The guest stops when the body is dropped.
        let problem = Problem::new(call::codes::ANSWER_TOO_LARGE, error.to_string());
        Failed::by_function(problem, true)
    })?;
    Ok(response)
}

/// The problem that another node told instead of an answer.
pub(super) async fn told_by(
    node: NodeId,
    refused: call::Refused,
    response: Response<Body>,
) -> Failed {
    let (parts, body) = response.into_parts();
    match Limited::new(body, MAX_DOCUMENT_BYTES).collect().await {
        Ok(document) => {
            let document = document.to_bytes();
            let problem = Problem::from_answer(parts.status, &parts.headers, &document);
            Failed::by_function(problem, refused.started)
        }
        Err(error) => {
            let detail = format!("node {node} refused the call, and broke off why: {error}");
            Failed::by_function(Problem::new(call::codes::BROKEN, detail), refused.started)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(&str, &str)]) -> Request<Body> {
        let mut builder = Request::get("/x");
        for (name, value) in pairs {
            builder = builder.header(*name, *value);
        }
        builder.body(call::empty()).unwrap()
    }

    #[test]
    fn a_request_is_taken_without_what_belongs_to_its_connection() {
        let taken =
            take_request(request(&[("host", "a"), ("connection", "x-own"), ("x-own", "1")]));
        assert_eq!(taken.unwrap().headers().len(), 1);
    }

    #[test]
    fn a_request_that_no_call_could_carry_is_refused_also_here() {
        let long = "v".repeat(call::MAX_HTTP_HEAD_BYTES);
        let code = |pairs: &[(&str, &str)]| take_request(request(pairs)).unwrap_err().code;
        assert_eq!(code(&[("host", "a"), ("x", &long)]), call::codes::HEAD_TOO_LARGE);
        assert_eq!(code(&[]).name, "SW-RUNTIME-BAD-REQUEST");
        assert_eq!(code(&[("host", "a b")]).name, "SW-RUNTIME-BAD-REQUEST");
    }

    #[tokio::test]
    async fn what_another_node_refuses_is_told_as_it_would_be_here() {
        let error = swarmer_runtime::CallError::NodeBusy { retry_after: Duration::from_secs(2) };
        let here = Failed::of_runtime(&error);
        let Refusal::Problem { status, headers, document, started } = here.refusal("n2") else {
            panic!("a problem")
        };
        assert!(!started);
        let mut response = Response::new(call::full(document));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let there = told_by(NodeId(2), call::Refused { started }, response).await;
        assert_eq!(there.problem.document("n1"), here.problem.document("n2"));
        assert_eq!(there.problem.retry_after_secs, Some(2));
        assert!(there.error.not_started());
    }
}
