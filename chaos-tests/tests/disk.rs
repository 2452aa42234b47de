//! A power cut loses what was not synced and nothing else, and nothing is left of a harness that was
//! killed.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use chaos_tests::cluster::{Disk, Mounts};
use swarmer_testkit::{Capability, require};

fn write(at: &Path, text: &str) -> File {
    let mut file = File::create(at).expect("the disk has power");
    file.write_all(text.as_bytes()).expect("the disk has room");
    file
}

#[test]
fn a_full_disk_takes_nothing_until_it_is_freed() {
    if !require(Capability::Xfs) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(&Arc::new(Mounts::new().unwrap()), &folder.path().join("n1")).unwrap();
    let file = disk.seen().join("file");
    disk.fill().unwrap();
    assert!(disk.is_full());
    let refused = std::fs::write(&file, vec![1; 64 << 10]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    disk.free().unwrap();
    disk.free().unwrap();
    std::fs::write(&file, vec![1; 64 << 10]).unwrap();
    assert!(!disk.is_full());
}

/// Whether a loop device has a file below `folder` open.
fn is_attached(folder: &str) -> bool {
    let devices = std::fs::read_dir("/sys/block").expect("sysfs").flatten();
    devices
        .map(|device| device.path().join("loop/backing_file"))
        .any(|file| std::fs::read_to_string(file).is_ok_and(|backing| backing.starts_with(folder)))
}

#[test]
fn a_power_cut_loses_what_was_not_synced_and_nothing_else() {
    if !require(Capability::Xfs) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(&Arc::new(Mounts::new().unwrap()), &folder.path().join("n1")).unwrap();
    let data = disk.seen();
    write(&data.join("synced"), "stays").sync_all().unwrap();
    File::open(&data).unwrap().sync_all().unwrap();
    // Longer in memory than on the medium.
    let mut longer = write(&data.join("longer"), "stays");
    longer.sync_all().unwrap();
    longer.write_all(b" and goes").unwrap();
    drop(longer);
    // Neither its bytes nor its name are on the medium. Last: a sync takes along the names before it.
    drop(write(&data.join("unsynced"), "goes"));

    disk.lose_power().unwrap();
    assert!(std::fs::read(data.join("synced")).is_err(), "nothing is read without power");
    assert!(File::create(data.join("new")).is_err(), "nothing is written without power");
    disk.restore().unwrap();
    let read = |name: &str| std::fs::read_to_string(data.join(name)).ok();
    assert_eq!(read("synced").as_deref(), Some("stays"));
    assert_eq!(read("unsynced"), None);
    assert_eq!(read("longer").as_deref(), Some("stays"));
    assert!(!std::fs::exists(folder.path().join("n1/data")).unwrap(), "others see no mount");

    let path = folder.path().to_string_lossy().into_owned();
    assert!(is_attached(&path));
    drop(disk);
    gone(&path);
}

fn gone(folder: &str) {
    let began = Instant::now();
    while is_attached(folder) {
        assert!(began.elapsed() < Duration::from_secs(10), "a loop device is left of {folder}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Holds a disk until it is killed.
#[test]
#[ignore = "child of a_killed_harness_leaves_no_mount_and_no_loop_device"]
fn child() {
    let folder = std::env::var_os("CHAOS_FOLDER").unwrap();
    let at = Path::new(&folder).join("n1");
    let disk = Disk::new(&Arc::new(Mounts::new().unwrap()), &at).unwrap();
    println!("ready {}", disk.seen().display());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_harness_leaves_no_mount_and_no_loop_device() {
    if !require(Capability::Xfs) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut harness = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("CHAOS_FOLDER", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(harness.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("ready "))).unwrap().unwrap();
    let path = folder.path().to_string_lossy().into_owned();
    assert!(is_attached(&path));
    harness.kill().unwrap();
    harness.wait().unwrap();
    gone(&path);
}
