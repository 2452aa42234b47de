//! The function that the workloads call: it sends back the path that it was called with.

use anyhow::{Result, anyhow};

const WAT: &str = include_str!("guest.wat");
const WIT: &str = include_str!("guest.wit");

/// The component.
///
/// # Errors
/// The texts beside this file do not fit together.
pub fn echo() -> Result<Vec<u8>> {
    let plain = |error: Box<dyn std::error::Error>| anyhow!("{error}");
    build().map_err(plain)
}

fn build() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut module = wat::parse_str(WAT)?;
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("guest.wit", WIT)?;
    let world = resolve.select_world(&[package], Some("echo"))?;
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding)?;
    let encoder = wit_component::ComponentEncoder::default();
    Ok(encoder.module(&module)?.validate(true).encode()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_guest_is_a_component() {
        let bytes = super::echo().unwrap();
        assert!(bytes.starts_with(b"\0asm\x0d\0"));
    }
}
