//! The files of the audit log: appended to, rotated, never more than a bound of bytes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::chain::{Chain, Check, Damage, Hash};

/// Bytes of one file; then the next one is begun.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Files that are kept: with the size of each, 128 MiB, some 300,000 changes. Older ones go, so
/// whoever needs them for longer copies them away.
const MAX_FILES: usize = 8;
/// The longest line that is read: a record is far smaller.
const MAX_LINE_BYTES: u64 = 1 << 20;
const SUFFIX: &str = ".jsonl";

/// A place where the log is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    pub(crate) file: String,
    /// From 1 on.
    pub(crate) line: u64,
    pub(crate) reason: String,
}

/// What a check of all files found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    pub(crate) files: usize,
    pub(crate) records: u64,
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
    /// The hash of the last record: kept elsewhere, it proves later that nothing was made anew.
    pub(crate) head: String,
    pub(crate) damage: Option<Place>,
}

/// The log on disk, open at its end.
pub(super) struct Files {
    dir: PathBuf,
    current: Option<Current>,
    chain: Chain,
    max_file_bytes: u64,
}

struct Current {
    file: File,
    length: u64,
}

/// What was found when the log was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Bytes of a record that was not written to its end, cut off.
    pub(super) cut_bytes: u64,
    /// Damage of the newest file: it is left as it is, and a new chain begins in a new file.
    pub(super) damage: Option<Place>,
}

impl Files {
    /// Opens the log in `dir`, which is made if it is not there, and finds where it goes on.
    pub(super) fn open(dir: PathBuf) -> io::Result<(Self, Found)> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let mut found = Found::default();
        let mut chain = Chain::begin(1);
        let mut current = None;
        if let Some((first, path)) = list(&dir)?.pop() {
            let file = OpenOptions::new().read(true).append(true).open(&path)?;
            let whole = whole_lines(&file)?;
            let length = file.metadata()?.len();
            if whole < length {
                // The process or the machine ended in the middle of a write.
                file.set_len(whole)?;
                found.cut_bytes = length - whole;
            }
            let mut check = Check::default();
            let mut lines = 0;
            match check_file(&path, &mut check, u64::MAX, &mut lines) {
                Ok(()) => {
                    if let Some(at) = check.chain() {
                        chain = at.clone();
                    } else {
                        chain = Chain::begin(first);
                    }
                    current = Some(Current { file, length: whole });
                }
                Err(CheckError::Io(error)) => return Err(error),
                Err(CheckError::Damage(place)) => {
                    chain = Chain::begin(first + count_lines(&path)? + 1);
                    found.damage = Some(place);
                }
            }
        }
        Ok((Self { dir, current, chain, max_file_bytes: MAX_FILE_BYTES }, found))
    }

    /// Where the chain goes on.
    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Where the files are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Appends sealed lines, which `chain` is the end of. All of them or, with an error, none.
    pub(super) fn append(&mut self, lines: &str, chain: Chain) -> io::Result<()> {
        let full = self.current.as_ref().is_some_and(|current| {
            current.length > 0 && current.length + lines.len() as u64 > self.max_file_bytes
        });
        if full {
            if let Some(done) = self.current.take() {
                done.file.sync_data()?;
            }
            self.forget_old()?;
        }
        if self.current.is_none() {
            let path = self.dir.join(format!("{:020}{SUFFIX}", self.chain.next()));
            let file =
                OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
            // Of a try that failed.
            file.set_len(0)?;
            File::open(&self.dir)?.sync_all()?;
            self.current = Some(Current { file, length: 0 });
        }
        let Some(current) = &mut self.current else {
            return Err(io::Error::other("no file of the audit log is open"));
        };
        if let Err(error) = current.file.write_all(lines.as_bytes()) {
            // Half a line must not stand before the next one.
            if current.file.set_len(current.length).is_err() {
                self.current = None;
            }
            return Err(error);
        }
        current.length += lines.len() as u64;
        self.chain = chain;
        Ok(())
    }

    /// What is to be fsynced.
    pub(super) fn to_sync(&self) -> io::Result<Option<File>> {
        self.current.as_ref().map(|current| current.file.try_clone()).transpose()
    }

    fn forget_old(&self) -> io::Result<()> {
        let files = list(&self.dir)?;
        // One more is about to be begun.
        for (_, path) in files.iter().take((files.len() + 1).saturating_sub(MAX_FILES)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// All files, the oldest first, each with the number of its first record.
fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(first) = name.strip_suffix(SUFFIX).and_then(|number| number.parse().ok()) {
            files.push((first, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Bytes up to the end of the last whole line.
fn whole_lines(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut at, mut whole) = (0, 0);
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(whole);
        }
        let length = buffer.len();
        if let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') {
            whole = at + end as u64 + 1;
        }
        at += length as u64;
        reader.consume(length);
    }
}

fn count_lines(path: &Path) -> io::Result<u64> {
    let mut count = 0;
    for byte in BufReader::new(File::open(path)?).bytes() {
        count += u64::from(byte? == b'\n');
    }
    Ok(count)
}

enum CheckError {
    Io(io::Error),
    Damage(Place),
}

impl From<io::Error> for CheckError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads one line without its end; none at the end of the file.
fn read_line(reader: &mut impl io::BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(Some(line))
}

/// Checks the records of one file that come before the number `end`.
fn check_file(
    path: &Path,
    check: &mut Check,
    end: u64,
    records: &mut u64,
) -> Result<(), CheckError> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut number = 0;
    while check.chain().is_none_or(|chain| chain.next() < end) {
        let Some(line) = read_line(&mut reader)? else { return Ok(()) };
        number += 1;
        let checked =
            std::str::from_utf8(&line).map_or(Err(Damage::Changed), |line| check.line(line));
        if let Err(damage) = checked {
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let reason = damage.to_string();
            return Err(CheckError::Damage(Place { file: file.to_owned(), line: number, reason }));
        }
        *records += 1;
    }
    Ok(())
}

/// Checks every file of `dir` up to where the chain goes on by this node's own knowledge.
pub(super) fn verify(dir: &Path, chain: &Chain) -> io::Result<Verdict> {
    let files = list(dir)?;
    let mut check = Check::default();
    let mut records = 0;
    let mut damage = None;
    for (i, (_, path)) in files.iter().enumerate() {
        match check_file(path, &mut check, chain.next(), &mut records) {
            Ok(()) => {}
            // The oldest may go while this reads.
            Err(CheckError::Io(error)) if i == 0 && error.kind() == io::ErrorKind::NotFound => {}
            Err(CheckError::Io(error)) => return Err(error),
            Err(CheckError::Damage(place)) => {
                damage = Some(place);
                break;
            }
        }
    }
    let reached = check.chain().map_or(1, Chain::next);
    let head: Hash = check.chain().map_or([0; 32], Chain::head);
    if damage.is_none() && (reached, head) != (chain.next(), chain.head()) {
        let (expected, found) = (chain.next() - 1, reached - 1);
        let file = files.last().and_then(|(_, path)| path.file_name()?.to_str().map(str::to_owned));
        let reason = if expected == found {
            Damage::Changed.to_string()
        } else {
            Damage::Missing { expected, found }.to_string()
        };
        damage = Some(Place { file: file.unwrap_or_default(), line: records, reason });
    }
    Ok(Verdict {
        files: files.len(),
        records,
        first: check.first(),
        last: check.chain().map(|chain| chain.next() - 1),
        head: hex::encode(head),
        damage,
    })
}

/// The last lines, the oldest first; those that are no UTF-8 are left out.
pub(super) fn tail(dir: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut lines: Vec<String> = Vec::new();
    for (_, path) in list(dir)?.into_iter().rev() {
        let mut reader = BufReader::new(File::open(path)?);
        let mut of_file = std::collections::VecDeque::new();
        while let Some(line) = read_line(&mut reader)? {
            if of_file.len() >= count - lines.len() {
                of_file.pop_front();
            }
            of_file.extend(String::from_utf8(line));
        }
        lines.splice(0..0, of_file);
        if lines.len() >= count {
            break;
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn write(files: &mut Files, count: u64) {
        for i in 0..count {
            let mut chain = files.chain().clone();
            let line = chain.seal("now", "n1", &json!({ "i": i })).unwrap();
            files.append(&format!("{line}\n"), chain).unwrap();
        }
    }

    fn newest(dir: &Path) -> PathBuf {
        list(dir).unwrap().pop().unwrap().1
    }

    #[test]
    fn it_goes_on_where_it_was_and_a_torn_end_is_cut_and_told() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("audit");
        let (mut files, found) = Files::open(dir.clone()).unwrap();
        assert_eq!(found, Found::default());
        write(&mut files, 3);
        drop(files);
        let mut text = fs::read_to_string(newest(&dir)).unwrap();
        text.push_str("{\"sequence\":4,\"ti");
        fs::write(newest(&dir), text).unwrap();
        let (mut files, found) = Files::open(dir.clone()).unwrap();
        assert_eq!(found, Found { cut_bytes: 17, damage: None });
        write(&mut files, 2);
        let verdict = verify(&dir, files.chain()).unwrap();
        assert_eq!((verdict.damage, verdict.records, verdict.last), (None, 5, Some(5)));
        assert_eq!(tail(&dir, 2).unwrap().len(), 2);
        assert!(tail(&dir, 2).unwrap()[1].contains("\"sequence\":5"));
    }

    #[test]
    fn it_is_rotated_and_bounded_and_whole_over_all_files() {
        let temp = tempfile::tempdir().unwrap();
        let (mut files, _) = Files::open(temp.path().to_owned()).unwrap();
        files.max_file_bytes = 1_000;
        write(&mut files, 100);
        let kept = list(temp.path()).unwrap();
        assert_eq!(kept.len(), MAX_FILES);
        let verdict = verify(temp.path(), files.chain()).unwrap();
        assert_eq!((&verdict.damage, verdict.last), (&None, Some(100)));
        assert_eq!(verdict.first, Some(kept[0].0));
        assert_eq!(tail(temp.path(), 20).unwrap().len(), 20);
        // A whole file that is gone is missed, but for the oldest.
        fs::remove_file(&kept[3].1).unwrap();
        let damage = verify(temp.path(), files.chain()).unwrap().damage.unwrap();
        assert_eq!(
            (damage.line, damage.file),
            (1, kept[4].1.file_name().unwrap().to_string_lossy().into())
        );
    }

    #[test]
    fn damage_is_told_with_its_place_and_a_new_chain_begins_beside_it() {
        let temp = tempfile::tempdir().unwrap();
        let (mut files, _) = Files::open(temp.path().to_owned()).unwrap();
        write(&mut files, 5);
        let path = newest(temp.path());
        let good = fs::read_to_string(&path).unwrap();
        fs::write(&path, good.replace("\"i\":2", "\"i\":9")).unwrap();
        let place = |verdict: Verdict| verdict.damage.map(|damage| (damage.line, damage.reason));
        let changed = place(verify(temp.path(), files.chain()).unwrap()).unwrap();
        assert_eq!(changed, (3, Damage::Changed.to_string()));
        let (mut files, found) = Files::open(temp.path().to_owned()).unwrap();
        assert_eq!(found.damage.unwrap().line, 3);
        write(&mut files, 2);
        assert_eq!(list(temp.path()).unwrap().len(), 2);
        assert_eq!(place(verify(temp.path(), files.chain()).unwrap()).unwrap().0, 3);
    }

    #[test]
    fn the_last_records_are_missed_too_while_the_node_runs() {
        let temp = tempfile::tempdir().unwrap();
        let (mut files, _) = Files::open(temp.path().to_owned()).unwrap();
        write(&mut files, 5);
        let path = newest(temp.path());
        let good = fs::read_to_string(&path).unwrap();
        let short: Vec<&str> = good.lines().take(3).collect();
        fs::write(&path, format!("{}\n", short.join("\n"))).unwrap();
        let damage = verify(temp.path(), files.chain()).unwrap().damage.unwrap();
        assert_eq!(damage.reason, Damage::Missing { expected: 5, found: 3 }.to_string());
    }
}
