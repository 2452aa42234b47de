//! Log files that are read while they grow: what a process tells without being asked.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

/// A line may be so long.
const MAX_LINE: usize = 1 << 20;
/// So much is read at once.
const PIECE: usize = 64 << 10;

/// One file, from its beginning.
pub(crate) struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line that has not ended yet.
    rest: Vec<u8>,
}

impl Tail {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, rest: Vec::new() }
    }

    /// Begins anew: the file is another one now.
    pub(crate) fn begin(&mut self) {
        (self.file, self.rest) = (None, Vec::new());
    }

    /// Hands over the lines that came since it was last asked.
    pub(crate) fn lines(&mut self, mut take: impl FnMut(&str)) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => match File::open(&self.path) {
                Ok(file) => self.file.insert(file),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error.into()),
            },
        };
        let mut piece = [0; PIECE];
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            self.rest.extend_from_slice(&piece[..count]);
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
                ensure!(self.rest.len() < MAX_LINE, "{}: a line too long", self.path.display());
                continue;
            };
            let whole: Vec<u8> = self.rest.drain(..=end).collect();
            String::from_utf8_lossy(&whole).lines().for_each(&mut take);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_come_once_and_whole_and_a_new_file_is_read_from_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut tail = Tail::new(&path);
        let read = |tail: &mut Tail| {
            let mut lines = Vec::new();
            tail.lines(|line| lines.push(line.to_owned())).unwrap();
            lines
        };
        assert!(read(&mut tail).is_empty(), "there is no file yet");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(read(&mut tail), ["one", "two"]);
        assert!(read(&mut tail).is_empty());
        file.write_all(b"ee\n").unwrap();
        assert_eq!(read(&mut tail), ["three"]);
        let mut file = File::create(&path).unwrap();
        tail.begin();
        file.write_all(b"four\n").unwrap();
        assert_eq!(read(&mut tail), ["four"]);
    }
}
