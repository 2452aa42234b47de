//! Histories as files: a header line, then one operation a line, all JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{BufRead, Write},
};

use serde::{Deserialize, Serialize};

use super::{Action, Answer, Operation, Outcome, Step};

/// The version of the format; a reader takes no other.
pub const FORMAT: u32 = 1;
/// More operations than any run makes; a longer file is not a history.
const MAX_OPERATIONS: usize = 5_000_000;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// The scenario's name.
    pub scenario: String,
    /// The seed of the run.
    pub seed: u64,
}

/// Why a file is not a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The line, from 1; 0 if it is about the whole.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Malformed {}

fn at<E: fmt::Display>(line: usize) -> impl Fn(E) -> Malformed {
    move |error| Malformed { line, what: error.to_string() }
}

/// Writes a history.
///
/// # Errors
/// The writer's.
pub fn write(
    to: &mut impl Write,
    header: &Header,
    operations: &[Operation],
) -> std::io::Result<()> {
    serde_json::to_writer(&mut *to, header)?;
    for operation in operations {
        to.write_all(b"\n")?;
        serde_json::to_writer(&mut *to, operation)?;
    }
    to.write_all(b"\n")?;
    to.flush()
}

/// Reads a history.
///
/// # Errors
/// Not a history, with the first line that shows it: another format, an unknown field, times that
/// go back, a client that does two things at once or goes on after an unknown outcome, an answer
/// that does not fit its action.
pub fn read(from: impl BufRead) -> Result<(Header, Vec<Operation>), Malformed> {
    let mut lines = from.lines().enumerate().map(|(i, line)| (i + 1, line));
    let (_, first) = lines.next().ok_or_else(|| at(0)("it is empty"))?;
    let header: Header = serde_json::from_str(&first.map_err(at(1))?).map_err(at(1))?;
    if header.format != FORMAT {
        return Err(at(1)(format!("format {}, this reader knows {FORMAT}", header.format)));
    }
    let mut operations = Vec::new();
    for (number, line) in lines {
        let line = line.map_err(at(number))?;
        operations.push(serde_json::from_str(&line).map_err(at(number))?);
        if operations.len() > MAX_OPERATIONS {
            return Err(at(number)(format!("more than {MAX_OPERATIONS} operations")));
        }
    }
    validate(&operations)?;
    Ok((header, operations))
}

/// The rules that hold between operations.
///
/// # Errors
/// As for [`read`].
pub fn validate(operations: &[Operation]) -> Result<(), Malformed> {
    let mut ids = BTreeSet::new();
    let mut clients: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, operation) in operations.iter().enumerate() {
        // The header is line 1.
        let line = i + 2;
        if !ids.insert(operation.id) {
            return Err(at(line)(format!("operation {} stands twice", operation.id)));
        }
        if operation.completed_ns < operation.invoked_ns {
            return Err(at(line)("it ended before it began"));
        }
        if let Outcome::Ok { answer } = &operation.outcome
            && !fits(&operation.action, answer)
        {
            return Err(at(line)(format!("{answer:?} is no answer to {:?}", operation.action)));
        }
        clients.entry(operation.client).or_default().push(i);
    }
    for (client, mut done) in clients {
        done.sort_by_key(|i| operations[*i].invoked_ns);
        for pair in done.windows(2) {
            let (first, second) = (&operations[pair[0]], &operations[pair[1]]);
            if second.invoked_ns < first.completed_ns {
                return Err(at(pair[1] + 2)(format!("client {client} does two things at once")));
            }
            if matches!(first.outcome, Outcome::Unknown { .. }) {
                let what = format!("client {client} goes on after an unknown outcome");
                return Err(at(pair[1] + 2)(what));
            }
        }
    }
    Ok(())
}

fn fits(action: &Action, answer: &Answer) -> bool {
    match (action, answer) {
        (Action::Read { .. }, Answer::Value { value, revision }) => {
            value.is_some() == revision.is_some()
        }
        (
            Action::Write { .. }
            | Action::Cas { .. }
            | Action::Add { .. }
            | Action::Remove { .. }
            | Action::Deploy { .. }
            | Action::Pause
            | Action::Started { .. }
            | Action::Expel
            | Action::Admit
            | Action::Intrude { .. }
            | Action::Settle
            | Action::Capacity { .. }
            | Action::Wish { .. }
            | Action::Drain { .. }
            | Action::DrainRegion { .. }
            | Action::Acquire { .. }
            | Action::Renew { .. }
            | Action::Release { .. }
            | Action::Rest
            | Action::Stands { .. }
            | Action::Lost { .. }
            | Action::Leads { .. }
            | Action::Stretched { .. }
            | Action::Flapped { .. }
            | Action::Strike { .. }
            | Action::Restart
            | Action::Back
            | Action::Retire { .. },
            Answer::Done { .. },
        )
        | (Action::List, Answer::Elements { .. })
        | (Action::Watch { .. }, Answer::Events { .. })
        | (Action::Trace { .. }, Answer::Commits { .. })
        | (Action::Replay { .. }, Answer::Refused { .. })
        | (Action::Strange { .. }, Answer::Heard { .. })
        | (Action::Members { .. } | Action::Voters, Answer::Names { .. })
        | (Action::Look, Answer::State { .. })
        | (Action::Fetch { .. }, Answer::Bytes { .. })
        | (Action::Call { .. } | Action::Post { .. }, Answer::Served { .. }) => true,
        (Action::Txn { steps }, Answer::Steps { steps: done }) => {
            steps.len() == done.len()
                && steps.iter().zip(done).all(|pair| match pair {
                    (Step::Append(k, v), Step::Append(l, w)) => (k, v) == (l, w),
                    (Step::Read(k, _), Step::Read(l, Some(_))) => k == l,
                    _ => false,
                })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { format: FORMAT, scenario: "register".into(), seed: 7 }
    }

    fn operation(id: u64, client: u32, invoked_ns: u64, completed_ns: u64) -> Operation {
        Operation {
            id,
            client,
            node: "n1".into(),
            invoked_ns,
            completed_ns,
            action: Action::Read { key: "a".into() },
            outcome: Outcome::Ok { answer: Answer::Value { value: Some(3), revision: Some(9) } },
        }
    }

    fn written(operations: &[Operation]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, &header(), operations).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut last = operation(2, 1, 30, 40);
        last.outcome = Outcome::Unknown { why: "reset".into() };
        let all = vec![operation(1, 1, 10, 20), operation(3, 2, 10, 50), last];
        assert_eq!(read(written(&all).as_slice()), Ok((header(), all)));
    }

    #[test]
    fn what_is_no_history_is_refused_with_its_line() {
        let refused = |operations: &[Operation]| read(written(operations).as_slice()).unwrap_err();
        let twice = refused(&[operation(1, 1, 1, 2), operation(1, 2, 1, 2)]);
        assert_eq!((twice.line, twice.what.contains("twice")), (3, true), "{twice}");
        assert_eq!(refused(&[operation(1, 1, 5, 4)]).line, 2);
        let both = refused(&[operation(1, 1, 10, 20), operation(2, 1, 19, 30)]);
        assert!(both.what.contains("two things"), "{both}");
        let mut unknown = operation(1, 1, 10, 20);
        unknown.outcome = Outcome::Unknown { why: String::new() };
        assert!(refused(&[unknown, operation(2, 1, 30, 40)]).what.contains("unknown"));
        let mut odd = operation(1, 1, 1, 2);
        odd.outcome = Outcome::Ok { answer: Answer::Elements { elements: vec![] } };
        assert!(refused(&[odd]).what.contains("no answer"));

        assert_eq!(read(&b""[..]).unwrap_err().line, 0);
        let text = String::from_utf8(written(&[operation(1, 1, 1, 2)])).unwrap();
        for bad in [
            text.replace("\"format\":1", "\"format\":2"),
            text.replace("\"client\"", "\"cliemt\""),
            text.replace("\"told\":\"ok\"", "\"told\":\"perhaps\""),
            text[..text.len() - 5].to_owned(),
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
