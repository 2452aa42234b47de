//! What a user is told when something went wrong: what, why, what to do, and a stable code.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use swarmer_model::{Code, Coded, Invalid};

/// The longest detail that an answer carries.
const MAX_DETAIL_CHARS: usize = 2_000;

/// One failure, told the same way by API, CLI and log (RFC 9457 on the wire).
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    /// What could not be done, and why, in one or two sentences.
    pub(crate) detail: String,
    /// Seconds after which to try again, where that may help.
    pub(crate) retry_after_secs: Option<u32>,
    /// The broken rules of a resource.
    pub(crate) violations: Box<[Value]>,
    /// The node that met it, if it is another one than that which tells it.
    pub(crate) node: Option<Box<str>>,
}

/// A result whose error is told to a user.
pub(crate) type Outcome<T> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        let detail = match detail.char_indices().nth(MAX_DETAIL_CHARS) {
            Some((at, _)) => detail[..at].to_owned(),
            None => detail,
        };
        Self { code, detail, retry_after_secs: None, violations: Box::default(), node: None }
    }

    /// The problem that an error of another room makes, with what was being done.
    pub(crate) fn of(error: &dyn Coded, doing: &str) -> Self {
        Self::new(error.code(), format!("{doing}: {}", chain(error)))
    }

    /// The same problem, with what was being done said first.
    #[must_use]
    pub(crate) fn while_doing(mut self, doing: &str) -> Self {
        self.detail = format!("{doing}: {}", self.detail);
        self
    }

    /// The same problem, of the part of a document at `place`.
    #[must_use]
    pub(crate) fn at(mut self, place: &str) -> Self {
        for violation in &mut *self.violations {
            if let Some(field) = violation["field"].as_str() {
                let dot = if field.is_empty() { "" } else { "." };
                violation["field"] = json!(format!("{place}{dot}{field}"));
            }
        }
        self.while_doing(place)
    }

    #[must_use]
    pub(crate) fn retry_after(mut self, secs: u32) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    /// As an RFC 9457 problem document, told by `node`.
    pub(crate) fn document(&self, node: &str) -> Value {
        let node = self.node.as_deref().unwrap_or(node);
        let mut document = json!({
            "type": format!("urn:swarmer:error:{}", self.code),
            "title": self.code.summary,
            "status": self.code.status,
            "detail": self.detail,
            "code": self.code.name,
            "remedy": self.code.remedy,
        });
        if !node.is_empty() {
            document["node"] = json!(node);
        }
        if !self.violations.is_empty() {
            document["violations"] = json!(self.violations);
        }
        document
    }

    /// The status of an answer with it.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The header fields that belong to its document, told by `node`.
    pub(crate) fn headers(&self, node: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        headers.insert("x-swarmer-error", HeaderValue::from_static(self.code.name));
        let node = self.node.as_deref().unwrap_or(node);
        if let (false, Ok(node)) = (node.is_empty(), HeaderValue::from_str(node)) {
            headers.insert("x-swarmer-node", node);
        }
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        headers
    }

    /// Reads an answer's problem document with its header fields back, so that it can be told on
    /// as it was.
    pub(crate) fn from_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let mut problem = Self::from_document(status.as_u16(), body);
        if let Some(code) = text(HeaderName::from_static("x-swarmer-error"))
            && code != problem.code.name
        {
            // Of a newer version, most likely.
            problem.detail = format!("{code}: {}", problem.detail);
        }
        problem.retry_after_secs = text(header::RETRY_AFTER).and_then(|secs| secs.parse().ok());
        problem.node = text(HeaderName::from_static("x-swarmer-node")).map(Into::into);
        problem
    }

    /// Reads a problem document back, as a client of the API does.
    pub(crate) fn from_document(status: u16, body: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let name = document["code"].as_str().unwrap_or_default();
        let code = crate::codes::by_name(name);
        let detail = match document["detail"].as_str() {
            Some(detail) => detail.to_owned(),
            None => {
                let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
                format!("the answer was HTTP {status}: {text}")
            }
        };
        let mut problem = Self::new(code.unwrap_or(crate::codes::FAILED), detail);
        problem.violations = document["violations"].as_array().cloned().unwrap_or_default().into();
        problem
    }
}

/// The message of an error and of all its causes, each once.
pub(crate) fn chain<E: std::error::Error + ?Sized>(error: &E) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl fmt::Display for Problem {
    /// One line what and why, one line what to do, with the code.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}\n  why:  {}\n  do:   {}",
            self.code, self.code.summary, self.detail, self.code.remedy
        )
    }
}

impl std::error::Error for Problem {}

impl Coded for Problem {
    fn code(&self) -> Code {
        self.code
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let violations = invalid.violations.iter().filter_map(|v| serde_json::to_value(v).ok());
        let violations = violations.collect();
        let mut problem = Self::new(invalid.code(), invalid.to_string());
        problem.violations = violations;
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes;

    #[test]
    fn a_document_reads_back_as_the_same_problem() {
        let problem = Problem::new(codes::ROUTE_TAKEN, "/shop belongs to default/shop");
        let document = problem.document("a");
        assert_eq!(document["status"], 409);
        let text = serde_json::to_vec(&document).unwrap();
        let again = Problem::from_document(409, &text);
        assert_eq!(again.code, problem.code);
        assert_eq!(again.detail, problem.detail);
        assert_eq!(again.code.exit_code(), 4);
    }

    #[test]
    fn what_another_node_told_is_told_on_as_it_was() {
        let problem = Problem::new(codes::BUSY, "full").retry_after(3);
        let document = problem.document("a").to_string();
        let headers = problem.headers("a");
        let again = Problem::from_answer(problem.status(), &headers, document.as_bytes());
        assert_eq!(again.document("b").to_string(), document);
        assert_eq!(again.headers("b"), headers);
    }

    #[test]
    fn an_answer_that_is_no_document_is_still_told() {
        let problem = Problem::from_document(502, b"<html>bad gateway</html>");
        assert!(problem.detail.contains("502"), "{problem}");
    }

    #[test]
    fn codes_are_unique_and_well_formed() {
        let all = codes::all();
        let mut names: Vec<&str> = all.iter().map(|code| code.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len(), "a code stands twice");
        for code in all {
            assert!(code.name.starts_with("SW-"), "{code}");
            assert!((400..600).contains(&code.status), "{code}");
            assert!(code.summary.ends_with('.') && code.remedy.ends_with('.'), "{code}");
        }
    }

    #[test]
    fn no_fault_of_whoever_asked_ends_as_a_mere_failure() {
        for code in codes::all() {
            let fault = (400..500).contains(&code.status);
            assert_eq!(
                code.exit_code() == 1,
                !fault && !(502..=504).contains(&code.status),
                "{code}"
            );
        }
    }
}
