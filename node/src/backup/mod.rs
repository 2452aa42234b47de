//! The file of a backup: what users asked of a cluster at one revision, with every byte that it
//! takes to run it again. Nothing of the cluster itself is in it: no keys, nodes, placements or
//! tokens.
//!
//! All numbers are big-endian.
//!
//! ```text
//! magic     8 bytes  "swrmback"
//! format    u32      1
//! frames             kind u8, length u64, SHA-256 of the payload (32 bytes), payload
//!   1 header         JSON, see `Header`: the first frame
//!   2 function       JSON, a Function as it stood in the desired state: as many as the header says
//!   3 artifact       the bytes of a component: each one that a version of a function names, once
//!   4 end            no payload; in place of its SHA-256 that of all bytes of the file before it
//! ```
//!
//! Nothing follows the end.

mod reader;
mod writer;

use serde::{Deserialize, Serialize};
use swarmer_model::{Digest, Function, Revision};

pub(crate) use reader::{Contents, Piece, verify};
pub(crate) use writer::Writer;

const MAGIC: &[u8; 8] = b"swrmback";
/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// The longest header or function: a value of the desired state has at most 8 KiB.
const MAX_JSON_BYTES: u64 = 64 << 10;
/// The most that all functions take: the desired state has at most 256 MiB, and is held in memory.
const MAX_FUNCTIONS_BYTES: u64 = 256 << 20;
/// Kind, length and digest.
const HEAD_BYTES: usize = 1 + 8 + 32;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Header = 1,
    Function = 2,
    Artifact = 3,
    End = 4,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Header, Self::Function, Self::Artifact, Self::End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// What a backup says of itself; also the first line of the answer that it is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    /// The cluster that it was taken of.
    pub(crate) cluster: String,
    /// The revision of the desired state at which all functions were read.
    pub(crate) revision: Revision,
    /// When, by the clock of the node that answered (RFC 3339).
    pub(crate) taken: String,
    /// The version of the software of that node.
    pub(crate) software: String,
    /// How many functions there are.
    pub(crate) functions: u64,
}

/// The components that a function needs: those of all its versions and of what is wanted.
pub(crate) fn components(function: &Function) -> impl Iterator<Item = Digest> {
    let versions = function.status.versions.iter().map(|version| version.template.component);
    versions.chain([function.spec.template.component])
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use swarmer_model::Metadata;

    use super::*;
    use crate::{codes, problem::Outcome};

    fn function(name: &str, components: &[&[u8]]) -> Vec<u8> {
        let mut now: Option<Function> = None;
        for component in components {
            let mut next = Function::new(Metadata::named(name), Digest::of(component));
            next.succeed(now.as_ref(), &[], 7);
            now = Some(next);
        }
        serde_json::to_vec(&now.unwrap()).unwrap()
    }

    fn header(functions: u64) -> Header {
        Header {
            cluster: "c".into(),
            revision: 9,
            taken: "2026-01-01T00:00:00Z".into(),
            software: "0.1.0".into(),
            functions,
        }
    }

    fn file(functions: &[Vec<u8>], artifacts: &[&[u8]]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header(functions.len() as u64)).unwrap();
        for function in functions {
            writer.function(function).unwrap();
        }
        for bytes in artifacts {
            writer.begin_artifact(Digest::of(bytes), bytes.len() as u64).unwrap();
            for piece in bytes.chunks(3) {
                writer.bytes(piece).unwrap();
            }
        }
        writer.finish().unwrap()
    }

    fn good() -> Vec<u8> {
        file(
            &[function("a", &[b"first", b"second"]), function("b", &[b"second"])],
            &[b"first", b"second"],
        )
    }

    fn read(bytes: &[u8]) -> Outcome<Contents> {
        verify(&mut Cursor::new(bytes))
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = good();
        let contents = read(&bytes).unwrap();
        assert_eq!(contents.header, header(2));
        let names: Vec<String> = contents.functions.iter().map(Function::id).collect();
        assert_eq!(names, ["default/a", "default/b"]);
        assert_eq!(contents.functions[0].status.versions.len(), 2);
        let pieces = contents.artifacts.iter().map(|piece| {
            let start = usize::try_from(piece.offset).unwrap();
            &bytes[start..start + usize::try_from(piece.length).unwrap()]
        });
        assert_eq!(pieces.collect::<Vec<_>>(), [b"first".as_slice(), b"second"]);
        assert!(read(&file(&[], &[])).unwrap().functions.is_empty(), "an empty cluster");
    }

    #[test]
    fn every_damaged_bit_and_every_lost_end_is_seen() {
        let good = good();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let problem = read(&bad).err().unwrap_or_else(|| panic!("byte {at}, bit {bit}"));
                let expected = if (8..12).contains(&at) && bad[8..12] != [0; 4] {
                    codes::BACKUP_NEWER
                } else {
                    codes::BACKUP_DAMAGED
                };
                assert_eq!(problem.code, expected, "byte {at}, bit {bit}: {problem}");
            }
            let problem = read(&good[..at]).err().unwrap_or_else(|| panic!("{at} bytes"));
            assert_eq!(problem.code, codes::BACKUP_DAMAGED, "{at} bytes");
        }
        let problem = read(&[good.as_slice(), b"x"].concat()).err().unwrap();
        assert!(problem.detail.contains("follow"), "{problem}");
    }

    #[test]
    fn a_whole_file_that_does_not_fit_together_is_refused() {
        let a = || function("a", &[b"first", b"second"]);
        for (bytes, says) in [
            (file(&[a()], &[b"second"]), Digest::of(b"first").to_string()),
            (file(&[a()], &[b"first", b"second", b"third"]), Digest::of(b"third").to_string()),
            (file(&[a()], &[b"first", b"first", b"second"]), "twice".into()),
            (file(&[a(), a()], &[b"first", b"second"]), "twice".into()),
        ] {
            let problem = read(&bytes).err().expect(&says);
            assert_eq!(problem.code, codes::BACKUP_DAMAGED);
            assert!(problem.detail.contains(&says), "{problem}");
        }
        let mut few = Writer::new(Vec::new(), &header(2)).unwrap();
        few.function(&function("a", &[b"first"])).unwrap();
        few.begin_artifact(Digest::of(b"first"), 5).unwrap();
        few.bytes(b"first").unwrap();
        let problem = read(&few.finish().unwrap()).err().unwrap();
        assert!(problem.detail.contains("1 function"), "{problem}");
    }

    #[test]
    fn an_artifact_that_is_not_what_its_digest_says_is_not_written() {
        let writer = || Writer::new(Vec::new(), &header(0)).unwrap();
        let mut other = writer();
        other.begin_artifact(Digest::of(b"first"), 5).unwrap();
        other.bytes(b"firsT").unwrap();
        assert!(other.finish().unwrap_err().to_string().contains("bytes"));
        let mut short = writer();
        short.begin_artifact(Digest::of(b"first"), 5).unwrap();
        short.bytes(b"fir").unwrap();
        assert!(short.begin_artifact(Digest::of(b"x"), 1).is_err());
        let mut long = writer();
        long.begin_artifact(Digest::of(b"first"), 5).unwrap();
        assert!(long.bytes(b"first!").is_err());
    }
}
