//! What the runtime promises, on guests made by the test itself.

mod common;
mod egress;
mod hello;
mod limits;
mod loading;
mod stream;
mod wasi03;
