//! swarmer
fn main() {}
