//! What an answer means: the tables of `SEMANTICS.md`, as code.

use http::StatusCode;
use serde_json::Value;

use crate::{
    cluster::{Lost, Reply},
    history::{Answer, Outcome},
};

/// Codes that promise that nothing happened.
const REFUSED: [&str; 5] = [
    "SW-RAFT-NO-LEADER",
    "SW-RAFT-NO-QUORUM",
    "SW-NODE-NOT-READY",
    "SW-NODE-DRAINING",
    "SW-API-BUSY",
];
const CONFLICT: &str = "SW-API-CONFLICT";
const NOT_FOUND: &str = "SW-API-NOT-FOUND";

fn told(reply: &Reply) -> String {
    let detail = reply.json();
    let detail = detail["detail"].as_str().unwrap_or_default();
    let detail: String = detail.chars().take(200).collect();
    format!("{} {} {detail}", reply.status, reply.code())
}

fn done(reply: &Reply) -> bool {
    matches!(reply.status, 200 | 201 | 204)
}

/// A change; `gone`: "there is none" is a failure, not the harness's mistake.
pub fn change(
    reply: Result<Reply, Lost>,
    gone: bool,
    revision: impl FnOnce(&Reply) -> Option<u64>,
) -> Outcome {
    let reply = match reply {
        Ok(reply) => reply,
        Err(Lost::NotSent(why)) => return Outcome::Failed { why },
        Err(Lost::Sent(why)) => return Outcome::Unknown { why },
    };
    if done(&reply) {
        return Outcome::Ok { answer: Answer::Done { revision: revision(&reply) } };
    }
    let (why, code) = (told(&reply), reply.code());
    if REFUSED.contains(&code.as_str()) || code == CONFLICT || (gone && code == NOT_FOUND) {
        return Outcome::Failed { why };
    }
    match StatusCode::from_u16(reply.status) {
        Ok(status) if status.is_server_error() => Outcome::Unknown { why },
        Ok(StatusCode::MISDIRECTED_REQUEST | StatusCode::TOO_MANY_REQUESTS) => {
            Outcome::Unknown { why }
        }
        _ => Outcome::Harness { why },
    }
}

/// A read of what is there; nothing is there is an answer too.
pub fn list(reply: Result<Reply, Lost>, read: impl FnOnce(&Value) -> Option<Answer>) -> Outcome {
    match reply {
        Ok(reply) if reply.status == 200 => given(read(&reply.json())),
        reply => no_read(reply),
    }
}

fn given(answer: Option<Answer>) -> Outcome {
    match answer {
        Some(answer) => Outcome::Ok { answer },
        None => Outcome::Failed { why: "the answer cannot be read".into() },
    }
}

fn no_read(reply: Result<Reply, Lost>) -> Outcome {
    match reply {
        Err(Lost::NotSent(why) | Lost::Sent(why)) => Outcome::Failed { why },
        Ok(reply) if reply.status >= 500 || matches!(reply.status, 421 | 429) => {
            Outcome::Failed { why: told(&reply) }
        }
        Ok(reply) => Outcome::Harness { why: told(&reply) },
    }
}

/// A call of the function that sends its path back; `base` is where it is mounted.
pub fn call(reply: Result<Reply, Lost>, base: &str) -> Outcome {
    let reply = match reply {
        Ok(reply) => reply,
        Err(Lost::NotSent(why)) => return Outcome::Failed { why },
        Err(Lost::Sent(why)) => return Outcome::Unknown { why },
    };
    if !reply.header("x-swarmer-error").is_empty() {
        return Outcome::Failed { why: told(&reply) };
    }
    // Number and digest: 3-ab12.
    let number = reply.header("x-swarmer-version").split('-').next().unwrap_or_default();
    let Ok(version) = number.parse() else {
        return Outcome::Harness { why: told(&reply) };
    };
    if reply.status != 200 {
        return Outcome::Harness { why: told(&reply) };
    }
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    // Two answers in one body would be two bases.
    let answers = u32::try_from(body.matches(base).count()).unwrap_or(u32::MAX);
    let echo = body.strip_prefix(base).unwrap_or(&body).to_owned();
    let by = reply.header("x-swarmer-node").to_owned();
    Outcome::Ok { answer: Answer::Served { echo, version, answers, by } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn reply(status: u16, code: &str, body: &str) -> Result<Reply, Lost> {
        let mut headers = HeaderMap::new();
        if !code.is_empty() {
            headers.insert("x-swarmer-error", code.parse().unwrap());
        }
        Ok(Reply { status, headers, body: body.to_owned().into() })
    }

    fn word(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Ok { .. } => "ok",
            Outcome::Failed { .. } => "failed",
            Outcome::Unknown { .. } => "unknown",
            Outcome::Harness { .. } => "harness",
        }
    }

    /// The table of SEMANTICS.md, row by row: answer, as a change, as a read.
    #[test]
    fn answers_mean_what_the_table_says() {
        let not_sent = || Err(Lost::NotSent("refused".into()));
        let sent = || Err(Lost::Sent("reset".into()));
        let rows: [(Result<Reply, Lost>, &str, &str); 14] = [
            (reply(200, "", "{}"), "ok", "ok"),
            (not_sent(), "failed", "failed"),
            (sent(), "unknown", "failed"),
            (reply(404, NOT_FOUND, "{}"), "harness", "harness"),
            (reply(409, CONFLICT, "{}"), "failed", "harness"),
            (reply(503, "SW-RAFT-NO-LEADER", "{}"), "failed", "failed"),
            (reply(503, "SW-RAFT-NO-QUORUM", "{}"), "failed", "failed"),
            (reply(503, "SW-NODE-NOT-READY", "{}"), "failed", "failed"),
            (reply(503, "SW-RAFT-SHUT-DOWN", "{}"), "unknown", "failed"),
            (reply(504, "SW-RAFT-TIMEOUT-UNKNOWN", "{}"), "unknown", "failed"),
            (reply(500, "SW-NODE-INTERNAL", "{}"), "unknown", "failed"),
            (reply(429, "SW-RUNTIME-BUSY", "{}"), "unknown", "failed"),
            (reply(422, "SW-MODEL-INVALID", "{}"), "harness", "harness"),
            (reply(404, "SW-API-NO-ENDPOINT", "{}"), "harness", "harness"),
        ];
        for (answer, as_change, as_read) in rows {
            let changed = change(answer.clone(), false, |_| None);
            assert_eq!(word(&changed), as_change, "{answer:?}");
            let empty = Answer::Elements { elements: Vec::new() };
            let read = list(answer.clone(), |_| Some(empty));
            assert_eq!(word(&read), as_read, "{answer:?}");
        }
        assert_eq!(word(&change(reply(404, NOT_FOUND, "{}"), true, |_| None)), "failed");
        assert_eq!(word(&list(reply(200, "", "["), |_| None)), "failed", "cannot be read");
    }

    #[test]
    fn calls_mean_what_the_table_says() {
        let mut good = reply(200, "", "/echo/c7");
        if let Ok(good) = &mut good {
            good.headers.insert("x-swarmer-version", "3-ab12cd".parse().unwrap());
            good.headers.insert("x-swarmer-node", "n2".parse().unwrap());
        }
        let answer = Answer::Served { echo: "c7".into(), version: 3, answers: 1, by: "n2".into() };
        assert_eq!(call(good, "/echo/"), Outcome::Ok { answer });
        assert_eq!(word(&call(reply(503, "SW-MESH-UNREACHABLE", ""), "/echo/")), "failed");
        assert_eq!(word(&call(reply(200, "", "/echo/c7"), "/echo/")), "harness");
        assert_eq!(word(&call(Err(Lost::Sent("reset".into())), "/echo/")), "unknown");
    }
}
