//! The way in from outside: HTTP/1.1 and h2 on one port.

mod server;

pub(crate) use server::Ingress;
