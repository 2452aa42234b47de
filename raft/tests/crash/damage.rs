//! Damaged files: seen, never served, and told apart from an unfinished write.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use swarmer_raft::disk::{Disk, SimDisk};
use swarmer_raft::wal::{Recovered, Wal, WalConfig, WalError};

use super::history::{ANSWERS, Model};
use super::power::config;

const DIR: &str = "/log/wal";

pub(crate) fn open(disk: &SimDisk) -> Result<(Wal, Recovered), WalError> {
    open_with(disk, config())
}

pub(crate) fn open_with(disk: &SimDisk, config: WalConfig) -> Result<(Wal, Recovered), WalError> {
    Wal::open(Arc::new(disk.clone()), config)
}

/// Makes a call and waits for its answer.
pub(crate) fn wait<F>(call: F) -> Result<(), WalError>
where
    F: FnOnce(Box<dyn FnOnce(Result<(), WalError>) + Send>),
{
    let (tell, told) = mpsc::sync_channel(ANSWERS);
    call(Box::new(move |result| drop(tell.send(result))));
    told.recv_timeout(std::time::Duration::from_secs(20)).expect("every call is answered")
}

/// Bytes without a zero.
pub(crate) fn data(index: u64, len: usize) -> Bytes {
    vec![(index % 250) as u8 + 1; len].into()
}

/// Appends entries of 100 bytes, each with its own sync.
fn fill(wal: &Wal, range: std::ops::Range<u64>) {
    for index in range {
        wait(|done| wal.append(index, vec![data(index, 100)], done)).unwrap();
    }
}

/// A log of one segment whose process was killed; all of it acknowledged.
fn killed_log(entries: u64) -> SimDisk {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk).unwrap();
    fill(&wal, 0..entries);
    disk.restart()
}

fn segment(id: u64) -> PathBuf {
    Path::new(DIR).join(format!("{id:016x}.wal"))
}

fn bytes_of(disk: &SimDisk, id: u64) -> Vec<u8> {
    disk.open(&segment(id)).unwrap().read_all().unwrap()
}

/// Where the records of a segment end; the last one ends with no zero.
fn end_of(bytes: &[u8]) -> usize {
    (bytes.iter().rposition(|b| *b != 0).unwrap() + 1).next_multiple_of(8)
}

fn entries(wal: &Wal) -> Vec<(u64, Bytes)> {
    wal.read(0..u64::MAX, usize::MAX).unwrap()
}

fn assert_damaged(disk: &SimDisk, what: &str) {
    match open(disk) {
        Err(error @ WalError::Damaged { .. }) => {
            let text = error.to_string();
            assert!(text.contains(DIR) && text.contains("join again"), "{text}");
        }
        Err(error) => panic!("{what}: another error: {error}"),
        Ok((_, recovered)) => panic!("{what}: opened with {recovered:?}"),
    }
}

#[test]
fn the_torn_end_of_an_unfinished_write_is_cut_and_the_log_goes_on() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk).unwrap();
    fill(&wal, 0..5);
    disk.die_after(0);
    wait(|done| wal.append(5, vec![data(5, 2000)], done)).unwrap_err();
    let disk = disk.restart();
    let before = end_of(&bytes_of(&disk, 1));
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last, Some(4));
    assert!(end_of(&bytes_of(&disk, 1)) < before, "the torn bytes are gone");
    wait(|done| wal.append(5, vec![data(9, 50)], done)).unwrap();
    let disk = disk.power_cut(1);
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last, Some(5));
    assert_eq!(entries(&wal)[5].1, data(9, 50));
}

#[test]
fn no_flipped_bit_is_ever_served_or_cut() {
    let end = end_of(&bytes_of(&killed_log(8), 1));
    let (mut seen, mut harmless) = (0, 0);
    for offset in 0..end {
        let disk = killed_log(8);
        disk.corrupt(&segment(1), offset as u64, 1 << (offset % 8)).unwrap();
        match open(&disk) {
            Err(WalError::Damaged { .. }) => seen += 1,
            Err(error) => panic!("byte {offset}: {error}"),
            // Padding between records means nothing.
            Ok((wal, recovered)) => {
                let model: Vec<_> = (0..8).map(|i| (i, data(i, 100))).collect();
                assert_eq!(recovered.last, Some(7), "byte {offset} was cut");
                assert_eq!(entries(&wal), model, "byte {offset} was served");
                harmless += 1;
            }
        }
    }
    println!("{seen} seen, {harmless} without meaning");
    assert!(harmless <= 9 * 8, "{harmless}");
}

#[test]
fn a_flipped_length_is_damage_in_the_middle_and_in_the_last_record() {
    for entry in [3_u64, 7] {
        for bit in 0..24 {
            let disk = killed_log(8);
            let bytes = bytes_of(&disk, 1);
            let at = bytes.windows(100).position(|w| w == data(entry, 100)).unwrap();
            // Header 32, index 8; the length is at byte 8 of the header.
            let length = at - 40 + 8;
            assert_eq!(
                u32::from_le_bytes(bytes[length..length + 4].try_into().unwrap()) & 0xff_ffff,
                108
            );
            disk.corrupt(&segment(1), (length + bit / 8) as u64, 1 << (bit % 8)).unwrap();
            assert_damaged(&disk, &format!("entry {entry}, bit {bit}"));
        }
    }
}

#[test]
fn damage_in_an_older_segment_and_a_missing_segment_are_fatal() {
    let full = || {
        let disk = SimDisk::new();
        let (wal, _) = open(&disk).unwrap();
        fill(&wal, 0..200);
        assert!(wal.stats().segments >= 4);
        disk.restart()
    };
    let bytes = bytes_of(&full(), 2);
    let end = end_of(&bytes);
    // Not in padding, which means nothing: in an entry's data, and in its header.
    let middle = bytes.windows(100).skip(3000).position(|w| w.iter().all(|b| *b == w[0] && *b > 1));
    let middle = middle.unwrap() + 3000;
    for offset in [0, 20, 520, middle, middle - 20, end - 9] {
        let disk = full();
        disk.corrupt(&segment(2), offset as u64, 4).unwrap();
        assert_damaged(&disk, &format!("byte {offset} of segment 2"));
    }
    for missing in [1, 2] {
        let disk = full();
        disk.remove(&segment(missing)).unwrap();
        assert_damaged(&disk, &format!("segment {missing} missing"));
    }
    // Whole sectors of zeros in an older segment are no unfinished write either.
    let disk = full();
    disk.open(&segment(1)).unwrap().write_at(&[0; 1024], 1024).unwrap();
    assert_damaged(&disk, "zeros in segment 1");
    // Nor in the last one, where a later record tells that they had been synced.
    let disk = killed_log(12);
    disk.open(&segment(1)).unwrap().write_at(&[0; 512], 1024).unwrap();
    assert_damaged(&disk, "zeros amid the last segment");
    // A header of zeros is no unused segment when records in it were acknowledged.
    let disk = killed_log(8);
    disk.open(&segment(1)).unwrap().write_at(&[0; 512], 0).unwrap();
    assert_damaged(&disk, "no header");
}

#[test]
fn stale_bytes_never_pass_for_records() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk).unwrap();
    fill(&wal, 0..70);
    drop(wal);
    let disk = disk.restart();
    let (wal, _) = open(&disk).unwrap();
    let model = entries(&wal);
    wal.close().unwrap();
    let older = bytes_of(&disk, 1);
    let newest = bytes_of(&disk, 2);
    assert!(disk.list(Path::new(DIR)).unwrap().len() <= 3);
    let last =
        if disk.open(&segment(3)).is_ok_and(|f| f.read_all().unwrap()[0] != 0) { 3 } else { 2 };
    let newest = if last == 3 { bytes_of(&disk, 3) } else { newest };
    // The end is after the mark that the clean close wrote.
    let mut end = 512;
    while newest[end..].iter().any(|b| *b != 0) {
        let len = u32::from_le_bytes(newest[end + 8..end + 12].try_into().unwrap()) & 0xff_ffff;
        end += (32 + len as usize).next_multiple_of(8);
    }
    // As a recycled segment would have it: sound records of an earlier use after the end.
    let room = newest.len() - end;
    let stale = &older[512..512 + room.min(older.len() - 512)];
    disk.open(&segment(last)).unwrap().write_at(stale, end as u64).unwrap();
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last, Some(69));
    assert_eq!(entries(&wal), model);
    // And they are gone before new records come close to them.
    fill(&wal, 70..72);
    let (_wal, recovered) = open(&disk.restart()).unwrap();
    assert_eq!(recovered.last, Some(71));
    // Records of the same use in a wrong place are damage.
    let disk = killed_log(8);
    let bytes = bytes_of(&disk, 1);
    let again = bytes[512..1024].to_vec();
    disk.open(&segment(1)).unwrap().write_at(&again, end_of(&bytes) as u64).unwrap();
    assert_damaged(&disk, "a record twice");
}

#[test]
fn damage_found_while_reading_is_not_served_and_stops_the_log() {
    let disk = SimDisk::new();
    let (wal, _) = open_with(&disk, WalConfig { cache_bytes: 0, ..config() }).unwrap();
    fill(&wal, 0..8);
    let at = bytes_of(&disk, 1).windows(100).position(|w| w == data(3, 100)).unwrap();
    disk.corrupt(&segment(1), at as u64, 1).unwrap();
    assert_eq!(wal.read(0..3, usize::MAX).unwrap().len(), 3);
    let error = wal.read(0..8, usize::MAX).unwrap_err();
    assert!(matches!(error, WalError::Damaged { .. }), "{error}");
    assert!(wal.fatal().borrow().is_some());
    assert!(wait(|done| wal.save_vote(data(1, 8), done)).is_err());
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let disk = killed_log(3);
    let file = disk.open(&segment(1)).unwrap();
    let mut header = file.read_all().unwrap()[..512].to_vec();
    header[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    file.write_at(&header, 0).unwrap();
    assert!(matches!(open(&disk), Err(WalError::Version { found: 2, supported: 1, .. })));
}

#[test]
fn files_that_are_not_segments_are_left_alone() {
    let disk = killed_log(3);
    let other = Path::new(DIR).join("notes.txt");
    disk.create(&other).unwrap().append(b"mine").unwrap();
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last, Some(2));
    assert!(Model::read(&wal, &recovered).is_err(), "these entries are not the harness's");
    assert_eq!(disk.open(&other).unwrap().read_all().unwrap(), b"mine");
}
