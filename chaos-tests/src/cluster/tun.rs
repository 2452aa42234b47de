//! The other end of a node's network: a TUN device, read and written as a file.

use std::fs::File;

use anyhow::{Context as _, Result};
use rustix::{
    fs::{Mode, OFlags},
    ioctl::{Opcode, Updater, ioctl},
};

/// Makes the device: `_IOW('T', 202, int)`.
const TUNSETIFF: Opcode = 0x4004_54ca;
/// IP packets, with nothing before them.
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
/// `struct ifreq`: 16 bytes of name, then a union, whose first two bytes are the flags here.
const IFREQ: usize = 40;

/// Makes the device `name` in the network namespace of the thread that calls it. It goes when the
/// file is closed; also by kill -9.
///
/// # Errors
/// Not root, or there are no such devices.
pub(super) fn open(name: &str) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).context("/dev/net/tun")?;
    let mut request = [0_u8; IFREQ];
    let bytes = name.as_bytes();
    request.get_mut(..bytes.len()).context("a long name")?.copy_from_slice(bytes);
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    attach(&file, &mut request).context("no TUN device can be made here")?;
    Ok(file.into())
}

#[expect(unsafe_code, reason = "no crate that we build has this one request as a safe function")]
fn attach(file: &impl std::os::fd::AsFd, request: &mut [u8; IFREQ]) -> rustix::io::Result<()> {
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which has 40 bytes on 64-bit Linux; the
    // array is as large, is ours alone during the call, and any bytes in it are a valid value.
    unsafe { ioctl(file, Updater::<TUNSETIFF, [u8; IFREQ]>::new(request)) }
}
