//! A disk that fails or fills up, calls that are refused, and the everyday behaviour of a log.

use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use swarmer_model::Coded;
use swarmer_raft::disk::{Disk, DiskFile, DiskOp, RealDisk, SimDisk};
use swarmer_raft::wal::{Wal, WalConfig, WalError};

use super::damage::{data, open, open_with, wait};
use super::history::ANSWERS;
use super::power::config;

#[test]
fn a_failed_sync_is_final_and_nothing_is_tried_again() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk).unwrap();
    let mut fatal = wal.fatal();
    wait(|done| wal.append(0, vec![data(0, 100)], done)).unwrap();
    let syncs = disk.count(DiskOp::Sync);
    disk.fail(DiskOp::Sync, 0, libc::EIO);
    let error = wait(|done| wal.append(1, vec![data(1, 100)], done)).unwrap_err();
    assert_eq!(error.code().name, "SW-RAFT-STORAGE");
    assert!(error.to_string().contains("cannot sync /log/wal/"), "{error}");
    assert!(fatal.has_changed().unwrap());
    assert!(matches!(&*fatal.borrow_and_update(), Some(WalError::Io { .. })));
    for _ in 0..3 {
        wait(|done| wal.save_vote(data(1, 8), done)).unwrap_err();
        wait(|done| wal.append(2, vec![data(2, 8)], done)).unwrap_err();
        wait(|done| wal.truncate_after(None, done)).unwrap_err();
        wait(|done| wal.purge(0, data(0, 8), done)).unwrap_err();
        wal.read(0..1, 100).unwrap_err();
    }
    wal.close().unwrap_err();
    assert_eq!(disk.count(DiskOp::Sync), syncs + 1, "a failed sync was tried again");
    // The next process reads the entry whose sync failed. What it acts on must then be durable,
    // although the kernel believes that there is nothing to write.
    let mut disk = disk.restart();
    for seed in 0..20 {
        let (_wal, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.last, Some(1), "before cut {seed}");
        disk = disk.power_cut(seed);
    }
}

#[test]
fn a_failed_write_is_final() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk).unwrap();
    disk.fail(DiskOp::Write, 0, libc::EIO);
    wait(|done| wal.save_vote(data(1, 8), done)).unwrap_err();
    wait(|done| wal.save_vote(data(2, 8), done)).unwrap_err();
    let (_wal, recovered) = open(&disk.restart()).unwrap();
    assert_eq!(recovered.vote, None);
}

#[test]
fn whoever_is_answered_with_a_failure_finds_it_told() {
    for op in [DiskOp::Write, DiskOp::Sync] {
        let disk = SimDisk::new();
        let (wal, _) = open(&disk).unwrap();
        let (fatal, (sender, answers)) = (wal.fatal(), mpsc::sync_channel(1));
        disk.fail(op, 0, libc::EIO);
        wal.save_vote(data(1, 8), move |answer| {
            let _ = sender.send((answer.is_err(), fatal.borrow().is_some()));
        });
        assert_eq!(answers.recv().unwrap(), (true, true), "{op:?}");
    }
}

#[test]
fn a_full_disk_is_met_before_the_segment_is_full_and_loses_nothing() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk).unwrap();
    disk.set_capacity(Some(2 * config().segment_bytes + 100));
    let mut index = 0;
    let error = loop {
        match wait(|done| wal.append(index, vec![data(index, 100)], done)) {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
        assert!(index < 1_000, "the disk never filled up");
    };
    assert_eq!(error.code().name, "SW-RAFT-DISK-FULL");
    assert!(error.to_string().contains("free space"), "{error}");
    assert_eq!(wal.fatal().borrow().as_ref().map(|e| e.code().name), Some("SW-RAFT-DISK-FULL"));
    assert!(wal.stats().bytes_written < 2 * config().segment_bytes - 2_000, "there was room left");
    wait(|done| wal.save_vote(data(1, 8), done)).unwrap_err();
    disk.set_capacity(None);
    let disk = disk.restart();
    let (wal, recovered) = open(&disk).unwrap();
    assert!(recovered.last >= Some(index - 1), "acknowledged entries are there");
    let next = recovered.last.unwrap() + 1;
    wait(|done| wal.append(next, vec![data(next, 100)], done)).unwrap();
}

#[test]
fn calls_that_make_no_sense_are_refused_and_the_log_goes_on() {
    let disk = SimDisk::new();
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.first, recovered.last), (0, None));
    // A log that never held anything starts where its first entry says.
    wait(|done| wal.append(5, vec![data(5, 10), data(6, 10)], done)).unwrap();
    for wrong in [4, 6, 8] {
        let error = wait(|done| wal.append(wrong, vec![data(0, 10)], done)).unwrap_err();
        assert!(matches!(error, WalError::Gap { expected: 7, got } if got == wrong), "{error}");
    }
    let error = wait(|done| wal.append(7, vec![data(7, 3_000)], done)).unwrap_err();
    assert_eq!(error.code().name, "SW-RAFT-RECORD-TOO-LARGE");
    let error = wait(|done| wal.save_vote(data(7, 3_000), done)).unwrap_err();
    assert!(matches!(error, WalError::RecordTooLarge { bytes: 3_000, max: 1_024 }), "{error}");
    wait(|done| wal.append(7, vec![data(7, 2_048)], done)).unwrap();
    assert_eq!((wal.first_index(), wal.last_index()), (5, Some(7)));
    assert!(wal.fatal().borrow().is_none());
    for bad in [
        WalConfig { segment_bytes: 10_000, ..config() },
        WalConfig { segment_bytes: 512, ..config() },
        WalConfig { max_record_bytes: 8 * 1024, ..config() },
    ] {
        let error = Wal::open(Arc::new(SimDisk::new()), bad).map(|_| ()).unwrap_err();
        assert!(matches!(error, WalError::Config { .. }), "{error}");
    }
}

#[test]
fn purge_and_truncate_read_back_and_segments_go() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk).unwrap();
    let indices = |wal: &Wal| -> Vec<u64> {
        wal.read(0..u64::MAX, usize::MAX).unwrap().into_iter().map(|(i, _)| i).collect()
    };
    for index in 0..300 {
        wait(|done| wal.append(index, vec![data(index, 100)], done)).unwrap();
    }
    assert!(wal.stats().segments > 5);
    wait(|done| wal.purge(249, Bytes::from_static(b"id"), done)).unwrap();
    wait(|done| wal.truncate_after(Some(279), done)).unwrap();
    assert_eq!(indices(&wal), (250..280).collect::<Vec<_>>());
    assert_eq!(wal.purged(), Some((249, Bytes::from_static(b"id"))));
    wait(|done| wal.append(280, vec![data(1, 7)], done)).unwrap();
    assert_eq!(wal.read(280..281, 1).unwrap(), vec![(280, data(1, 7))]);
    assert_eq!(wal.read(250..280, 250).unwrap().len(), 2, "bounded by bytes");
    assert!(wal.read(0..250, 1_000).unwrap().is_empty());
    assert!(wal.read(281..500, 1_000).unwrap().is_empty());
    wal.close().unwrap();
    let files = disk.list(Path::new("/log/wal")).unwrap();
    assert!(files.len() <= 4, "{files:?}");
    let (wal, recovered) = open(&disk.restart()).unwrap();
    assert_eq!((recovered.first, recovered.last), (250, Some(280)));
    assert_eq!(indices(&wal), (250..281).collect::<Vec<_>>());
    // A snapshot beyond the end.
    wait(|done| wal.purge(999, Bytes::from_static(b"snap"), done)).unwrap();
    assert_eq!((wal.first_index(), wal.last_index()), (1_000, None));
    wait(|done| wal.append(1_000, vec![data(1, 7)], done)).unwrap();
    assert_eq!(indices(&wal), vec![1_000]);
    wait(|done| wal.truncate_after(None, done)).unwrap();
    assert_eq!((wal.first_index(), wal.last_index()), (1_000, None));
}

#[test]
fn a_group_is_one_sync_in_the_order_of_the_calls_and_readable_before() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk).unwrap();
    let syncs = disk.count(DiskOp::Sync);
    let order = Arc::new(Mutex::new(Vec::new()));
    let (tell, told) = mpsc::sync_channel(ANSWERS);
    let hold = wal.hold();
    for call in 0..20_u64 {
        let (order, tell) = (Arc::clone(&order), tell.clone());
        let done = move |result: Result<(), WalError>| {
            order.lock().push((call, result.is_ok()));
            let _ = tell.send(());
        };
        match call {
            7 => wal.save_vote(data(1, 8), done),
            // A refused call keeps its place.
            9 => wal.append(1_000, vec![data(1, 8)], done),
            _ => wal.append(wal.last_index().map_or(0, |l| l + 1), vec![data(call, 10)], done),
        }
    }
    wal.save_committed(data(3, 8));
    assert_eq!(wal.read(0..100, 10_000).unwrap().len(), 18, "readable before it is durable");
    assert!(order.lock().is_empty());
    drop((hold, tell));
    for _ in 0..20 {
        told.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    let expected: Vec<_> = (0..20).map(|call| (call, call != 9)).collect();
    assert_eq!(*order.lock(), expected);
    assert_eq!(disk.count(DiskOp::Sync), syncs + 1);
    let (_wal, recovered) = open(&disk.power_cut(3)).unwrap();
    assert_eq!(recovered.committed, Some(data(3, 8)));
    assert_eq!(recovered.vote, Some(data(1, 8)));
    assert_eq!(recovered.last, Some(17));
}

#[test]
fn closing_writes_what_is_queued_and_refuses_what_comes_later() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk).unwrap();
    let other = wal.clone();
    let (tell, told) = mpsc::sync_channel(ANSWERS);
    for index in 0..50 {
        let tell = tell.clone();
        wal.append(index, vec![data(index, 50)], move |result| drop(tell.send(result)));
    }
    wal.save_committed(data(9, 8));
    wal.close().unwrap();
    assert!(told.try_iter().filter(Result::is_ok).count() == 50);
    assert!(matches!(wait(|done| other.save_vote(data(1, 8), done)), Err(WalError::Closed)));
    let (_wal, recovered) = open(&disk.power_cut(5)).unwrap();
    assert_eq!((recovered.last, recovered.committed), (Some(49), Some(data(9, 8))));
}

#[test]
fn the_cache_is_bounded_and_the_rest_comes_from_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let config = WalConfig { cache_bytes: 4_000, ..WalConfig::new(dir.path().join("a/b")) };
    let (wal, _) = Wal::open(Arc::new(RealDisk), config.clone()).unwrap();
    for batch in 0..40 {
        let entries = (0..50).map(|i| data(batch * 50 + i, 256)).collect();
        wait(|done| wal.append(batch * 50, entries, done)).unwrap();
    }
    assert!(wal.stats().cached_bytes <= 4_000);
    let check = |wal: &Wal| {
        let read = wal.read(0..2_000, usize::MAX).unwrap();
        assert_eq!(read.len(), 2_000);
        assert!(read.iter().all(|(i, d)| *d == data(*i, 256)));
    };
    check(&wal);
    wal.close().unwrap();
    let (wal, recovered) = Wal::open(Arc::new(RealDisk), config).unwrap();
    assert_eq!(recovered.last, Some(1_999));
    check(&wal);
}

/// A disk whose syncs wait for a permit, as a hanging device does.
#[derive(Debug, Clone)]
struct Hanging {
    disk: SimDisk,
    gate: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct HangingFile(Arc<dyn DiskFile>, Arc<Mutex<()>>);

impl Disk for Hanging {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HangingFile(self.disk.open(path)?, Arc::clone(&self.gate))))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HangingFile(self.disk.create(path)?, Arc::clone(&self.gate))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

impl DiskFile for HangingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(buf, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn preallocate(&self, from: u64, to: u64) -> io::Result<()> {
        self.0.preallocate(from, to)
    }
    fn sync_data(&self) -> io::Result<()> {
        let _permit = self.1.lock();
        self.0.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[test]
fn a_hanging_disk_fills_the_queue_and_is_given_up_at_the_deadline() {
    let disk = Hanging { disk: SimDisk::new(), gate: Arc::default() };
    let config =
        WalConfig { queue_bytes: 4_000, stall_timeout: Duration::from_millis(50), ..config() };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), config).unwrap();
    let hanging = disk.gate.lock();
    let mut calls = Vec::new();
    for index in 0..100 {
        let (tell, told) = mpsc::sync_channel(ANSWERS);
        wal.append(index, vec![data(index, 500)], move |result| drop(tell.send(result)));
        calls.push(told);
        assert!(wal.stats().queued_bytes <= 4_000 + 600, "the queue is bounded");
        if wal.fatal().borrow().is_some() {
            break;
        }
    }
    assert!(calls.len() < 12, "{} calls were taken", calls.len());
    assert_eq!(wal.fatal().borrow().as_ref().map(|e| e.code().name), Some("SW-RAFT-LOG-STALLED"));
    drop(hanging);
    let answers: Vec<bool> = calls
        .iter()
        .map(|told| told.recv_timeout(Duration::from_secs(20)).expect("answered").is_ok())
        .collect();
    assert!(!answers.last().unwrap(), "the call that found no room was refused");
}

#[tokio::test]
async fn ready_waits_without_blocking() {
    let disk = Hanging { disk: SimDisk::new(), gate: Arc::default() };
    let config = WalConfig { queue_bytes: 1_000, ..config() };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), config).unwrap();
    tokio::time::timeout(Duration::from_secs(20), wal.ready()).await.unwrap();
    {
        let gate = Arc::clone(&disk.gate);
        let (locked, is_locked) = mpsc::sync_channel(ANSWERS);
        let (let_go, may_go) = mpsc::sync_channel::<()>(1);
        let thread = std::thread::spawn(move || {
            let _gate = gate.lock();
            locked.send(()).unwrap();
            let _ = may_go.recv();
        });
        is_locked.recv().unwrap();
        wal.append(0, vec![data(0, 2_000)], |_| {});
        assert!(tokio::time::timeout(Duration::from_millis(20), wal.ready()).await.is_err());
        drop(let_go);
        tokio::time::timeout(Duration::from_secs(20), wal.ready()).await.unwrap();
        thread.join().unwrap();
    }
    let _ = open_with(&disk.disk.restart(), super::power::config()).unwrap();
}
