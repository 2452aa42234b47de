//! Makes the example that `swarmer dev` deploys, from WebAssembly text and WIT.

use std::{env, error::Error, fs, path::Path};

#[expect(unreachable_pub, reason = "the same file is public where the fixtures are")]
#[path = "../runtime/fixtures/build_component.rs"]
mod component;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let fixtures = Path::new("../runtime/fixtures");
    println!("cargo::rerun-if-changed=../runtime/fixtures");
    let wat = fs::read_to_string(fixtures.join("hello_p2.wat"))?;
    let wit = fs::read_to_string(fixtures.join("p2.wit"))?;
    let hello = component::build_component(&wat, &wit, "service")?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("hello.wasm"), hello)?;
    Ok(())
}
