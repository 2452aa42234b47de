//! What the runtime promises, on guests made by the test itself.
#![expect(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

mod common;
mod egress;
mod hello;
mod limits;
mod loading;
mod stream;
mod wasi03;
