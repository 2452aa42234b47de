//! Reads the file of a backup, and believes none of it before it has seen all of it.

use std::{
    collections::BTreeSet,
    io::{self, Read},
};

use serde::de::DeserializeOwned;
use swarmer_model::{Digest, DigestHasher, Function};

use super::{
    FORMAT, HEAD_BYTES, Header, Kind, MAGIC, MAX_FUNCTIONS_BYTES, MAX_JSON_BYTES, components,
};
use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// How much is read at once.
const PIECE_BYTES: usize = 256 << 10;

/// What a whole and undamaged backup holds.
pub(crate) struct Contents {
    pub(crate) header: Header,
    pub(crate) functions: Vec<Function>,
    pub(crate) artifacts: Vec<Piece>,
}

/// Where an artifact lies in the file.
pub(crate) struct Piece {
    pub(crate) digest: Digest,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Reads a backup from its first to its last byte; artifacts are digested, not kept.
///
/// # Errors
/// [`codes::BACKUP_DAMAGED`] if a byte is not as it was written, or missing;
/// [`codes::BACKUP_NEWER`] if another version of the software must read it.
pub(crate) fn verify(file: &mut impl Read) -> Outcome<Contents> {
    Reader { file, all: DigestHasher::default(), at: 0 }.read()
}

struct Reader<'a, R> {
    file: &'a mut R,
    /// Of all bytes so far.
    all: DigestHasher,
    /// How many they are.
    at: u64,
}

/// What stands before the payload of a frame.
struct Head {
    kind: Kind,
    length: u64,
    digest: Digest,
}

impl<R: Read> Reader<'_, R> {
    fn read(mut self) -> Outcome<Contents> {
        let magic: [u8; MAGIC.len()] = self.array()?;
        if magic != *MAGIC {
            return Err(Problem::new(codes::BACKUP_DAMAGED, "it does not begin as a backup does"));
        }
        match u32::from_be_bytes(self.array()?) {
            FORMAT => {}
            format if format > FORMAT => {
                let detail = format!("it has format {format}; this version reads up to {FORMAT}");
                return Err(Problem::new(codes::BACKUP_NEWER, detail));
            }
            format => return Err(self.damaged(format!("there is no format {format}"))),
        }
        let head = self.head()?;
        if head.kind != Kind::Header {
            return Err(self.damaged("the header is missing".to_owned()));
        }
        let header = self.json(&head)?;
        let (mut functions, mut artifacts) = (Vec::new(), Vec::new());
        let mut functions_bytes = 0;
        loop {
            let before = self.all.clone().finish();
            let head = self.head()?;
            match head.kind {
                Kind::Header => return Err(self.damaged("a second header".to_owned())),
                Kind::Function => {
                    functions_bytes += head.length;
                    if functions_bytes > MAX_FUNCTIONS_BYTES {
                        let why =
                            format!("its functions have more than {MAX_FUNCTIONS_BYTES} bytes");
                        return Err(self.damaged(why));
                    }
                    functions.push(self.json(&head)?);
                }
                Kind::Artifact => {
                    let piece = Piece { digest: head.digest, offset: self.at, length: head.length };
                    self.payload(&head, |_| {})?;
                    artifacts.push(piece);
                }
                Kind::End => {
                    if head.length != 0 || head.digest != before {
                        return Err(self.damaged("its end does not fit to what is before".into()));
                    }
                    break;
                }
            }
        }
        if self.some(&mut [0])? > 0 {
            return Err(self.damaged("more bytes follow its end".to_owned()));
        }
        // Only now is it known that every byte is as it was written.
        let functions = functions.iter().map(|json| parse(json)).collect::<Outcome<_>>()?;
        let contents = Contents { header: parse(&header)?, functions, artifacts };
        check(&contents)?;
        Ok(contents)
    }

    fn head(&mut self) -> Outcome<Head> {
        let bytes: [u8; HEAD_BYTES] = self.array()?;
        let Some(kind) = Kind::of(bytes[0]) else {
            return Err(self.damaged(format!("there is no frame of kind {}", bytes[0])));
        };
        let (mut length, mut digest) = ([0; 8], [0; 32]);
        length.copy_from_slice(&bytes[1..9]);
        digest.copy_from_slice(&bytes[9..]);
        Ok(Head { kind, length: u64::from_be_bytes(length), digest: Digest(digest) })
    }

    fn json(&mut self, head: &Head) -> Outcome<Vec<u8>> {
        if head.length > MAX_JSON_BYTES {
            let why = format!("a document of {} bytes, at most {MAX_JSON_BYTES}", head.length);
            return Err(self.damaged(why));
        }
        let mut json = Vec::new();
        self.payload(head, |bytes| json.extend_from_slice(bytes))?;
        Ok(json)
    }

    /// Takes the payload of a frame; it is checked when all of it was taken.
    fn payload(&mut self, head: &Head, mut take: impl FnMut(&[u8])) -> Outcome<()> {
        let mut hasher = DigestHasher::default();
        let mut missing = head.length;
        let mut buffer = vec![0; PIECE_BYTES.min(usize::try_from(missing).unwrap_or(PIECE_BYTES))];
        while missing > 0 {
            let most = usize::try_from(missing).map_or(buffer.len(), |m| m.min(buffer.len()));
            let count = self.some(&mut buffer[..most])?;
            if count == 0 {
                return Err(self.truncated());
            }
            hasher.update(&buffer[..count]);
            take(&buffer[..count]);
            missing -= count as u64;
        }
        if hasher.finish() != head.digest {
            return Err(self.damaged("the frame that ends here is not as it was written".into()));
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            match self.some(&mut bytes[filled..])? {
                0 => return Err(self.truncated()),
                count => filled += count,
            }
        }
        Ok(bytes)
    }

    /// The next bytes; 0 at the end of the file.
    fn some(&mut self, buffer: &mut [u8]) -> Outcome<usize> {
        let count = loop {
            match self.file.read(buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let detail = format!("reading the backup at byte {}: {error}", self.at);
                    return Err(Problem::new(codes::FILE, detail));
                }
            }
        };
        self.all.update(&buffer[..count]);
        self.at += count as u64;
        Ok(count)
    }

    fn damaged(&self, why: String) -> Problem {
        Problem::new(codes::BACKUP_DAMAGED, format!("{why} (byte {})", self.at))
    }

    fn truncated(&self) -> Problem {
        self.damaged("it breaks off".to_owned())
    }
}

/// Reads a document that is as it was written.
fn parse<T: DeserializeOwned>(json: &[u8]) -> Outcome<T> {
    serde_json::from_slice(json).map_err(|error| {
        let detail = format!("a document in it is unknown to this version: {error}");
        Problem::new(codes::BACKUP_NEWER, detail)
    })
}

/// Whether all that is needed is there, and nothing else.
fn check(contents: &Contents) -> Outcome<()> {
    let damaged = |why: String| Err(Problem::new(codes::BACKUP_DAMAGED, why));
    let (count, told) = (contents.functions.len(), contents.header.functions);
    if count as u64 != told {
        return damaged(format!("it has {count} function(s), its header says {told}"));
    }
    let mut names = BTreeSet::new();
    if let Some(function) = contents.functions.iter().find(|f| !names.insert(f.id())) {
        return damaged(format!("{} is in it twice", function.id()));
    }
    let needed: BTreeSet<Digest> = contents.functions.iter().flat_map(components).collect();
    let mut held = BTreeSet::new();
    for piece in &contents.artifacts {
        if !held.insert(piece.digest) {
            return damaged(format!("{} is in it twice", piece.digest));
        }
        if !needed.contains(&piece.digest) {
            return damaged(format!("no function in it needs {}", piece.digest));
        }
    }
    match needed.difference(&held).next() {
        Some(missing) => damaged(format!("the component {missing} is not in it")),
        None => Ok(()),
    }
}
