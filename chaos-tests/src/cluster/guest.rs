//! The functions that the workloads call: each sends back the path that it was called with.

use anyhow::{Result, anyhow};

const ECHO: &str = include_str!("guest.wat");
const JOB: &str = include_str!("job.wat");
const WIT: &str = include_str!("guest.wit");

/// The component that answers at once.
///
/// # Errors
/// The texts beside this file do not fit together.
pub fn echo() -> Result<Vec<u8>> {
    component(ECHO, "echo")
}

/// The component that writes the path into its log first, and takes its time.
///
/// # Errors
/// The texts beside this file do not fit together.
pub fn job() -> Result<Vec<u8>> {
    component(JOB, "job")
}

fn component(text: &str, world: &str) -> Result<Vec<u8>> {
    let plain = |error: Box<dyn std::error::Error>| anyhow!("{error}");
    build(text, world).map_err(plain)
}

fn build(text: &str, world: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut module = wat::parse_str(text)?;
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("guest.wit", WIT)?;
    let world = resolve.select_world(&[package], Some(world))?;
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding)?;
    let encoder = wit_component::ComponentEncoder::default();
    Ok(encoder.module(&module)?.validate(true).encode()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_guests_are_components() {
        for bytes in [super::echo().unwrap(), super::job().unwrap()] {
            assert!(bytes.starts_with(b"\0asm\x0d\0"));
        }
    }
}
