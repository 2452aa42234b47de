//! The components that every subject runs.

use anyhow::{Context as _, Result, ensure};
use swarmer_runtime::fixtures;

/// What both of them answer.
pub(crate) const ANSWER: &[u8] = b"hello from swarmer\n";

/// A custom section's head: its id, its size in five bytes, and its name.
const HEAD: usize = 1 + 5 + NAME.len();
const NAME: &[u8] = b"\x03pad";

/// Which version of `wasi:http` it is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    P2,
    P3,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::P2, Self::P3];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P2 => "p2",
            Self::P3 => "p3",
        }
    }

    /// The hello of this kind.
    pub(crate) fn hello(self) -> Vec<u8> {
        match self {
            Self::P2 => fixtures::hello_p2(),
            Self::P3 => fixtures::hello_p3(),
        }
    }
}

/// The component, made exactly this long by a custom section that holds the number: as good as
/// another component to everyone who keeps things by their hash.
pub(crate) fn padded(mut component: Vec<u8>, bytes: usize, number: u64) -> Result<Vec<u8>> {
    let room = bytes.checked_sub(component.len() + HEAD).filter(|room| *room >= size_of::<u64>());
    let room = room.with_context(|| format!("{} bytes do not fit in {bytes}", component.len()))?;
    let mut size = u32::try_from(NAME.len() + room)?;
    component.push(0);
    for last in [false, false, false, false, true] {
        let more = if last { 0 } else { 0x80 };
        component.push((size & 0x7f) as u8 | more);
        size >>= 7;
    }
    component.extend_from_slice(NAME);
    component.extend(number.to_le_bytes().iter().cycle().take(room));
    ensure!(component.len() == bytes, "the padding is wrong by itself");
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_padded_component_is_as_long_as_asked_and_differs() {
        let hello = Kind::P2.hello();
        let one = padded(hello.clone(), 64 << 10, 1).unwrap();
        let two = padded(hello.clone(), 64 << 10, 2).unwrap();
        assert_eq!((one.len(), two.len()), (64 << 10, 64 << 10));
        assert!(one != two && one.starts_with(&hello));
        assert!(padded(hello.clone(), hello.len() + HEAD, 1).is_err());
    }
}
