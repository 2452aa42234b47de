//! What a component exports and imports, against what we call and offer.

use wasmtime::{
    Engine,
    component::{Component, InstancePre, Linker},
};
use wasmtime_wasi_http::{p2, p3};

use crate::{error::LoadError, guest::Guest};

/// The handler that a component exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandlerKind {
    /// `wasi:http/incoming-handler@0.2.x`: a fresh instance for each request.
    Wasi02,
    /// `wasi:http/handler@0.3.x`: instances serve requests one after another.
    Wasi03,
}

const HANDLER_02: &str = "wasi:http/incoming-handler@0.2.";
const HANDLER_03: &str = "wasi:http/handler@0.3.";
/// The versions that the linker has; an import of any compatible one is satisfied by them.
const LINKED: [(&str, &str); 2] = [("0.2.", "0.2.12"), ("0.3.", "0.3.0")];

/// A component, checked and linked.
pub(crate) enum Prepared {
    Wasi02(p2::bindings::ProxyPre<Guest>),
    Wasi03(p3::bindings::ServicePre<Guest>),
}

impl Prepared {
    pub(crate) fn kind(&self) -> HandlerKind {
        match self {
            Self::Wasi02(_) => HandlerKind::Wasi02,
            Self::Wasi03(_) => HandlerKind::Wasi03,
        }
    }
}

/// Tells WebAssembly components from everything else by their first eight bytes.
pub fn check_header(bytes: &[u8]) -> Result<(), LoadError> {
    match bytes {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Err(LoadError::CoreModule),
        _ => {
            let start: String =
                bytes.iter().take(16).map(|b| b.escape_ascii().to_string()).collect();
            let start =
                if start.is_empty() { "nothing".to_owned() } else { format!("\"{start}\"") };
            Err(LoadError::NotWasm { start })
        }
    }
}

/// Links a component, or says all that is missing.
pub(crate) fn prepare(
    linker: &Linker<Guest>,
    component: &Component,
) -> Result<Prepared, LoadError> {
    let engine = linker.engine();
    let ty = component.component_type();
    let exports: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    let has = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    let kind = if has(HANDLER_03) {
        HandlerKind::Wasi03
    } else if has(HANDLER_02) {
        HandlerKind::Wasi02
    } else {
        return Err(LoadError::NoHandler { exports });
    };
    let pre = linker
        .instantiate_pre(component)
        .map_err(|error| missing(linker, engine, component, &error))?;
    prepared(kind, pre).map_err(|error| LoadError::Invalid(format!("{error:#}")))
}

fn prepared(kind: HandlerKind, pre: InstancePre<Guest>) -> wasmtime::Result<Prepared> {
    Ok(match kind {
        HandlerKind::Wasi02 => Prepared::Wasi02(p2::bindings::ProxyPre::new(pre)?),
        HandlerKind::Wasi03 => Prepared::Wasi03(p3::bindings::ServicePre::new(pre)?),
    })
}

fn missing(
    linker: &Linker<Guest>,
    engine: &Engine,
    component: &Component,
    error: &wasmtime::Error,
) -> LoadError {
    let mut scratch = linker.clone();
    let mut lacks = |name: &str| lacks(&mut scratch, name);
    let ty = component.component_type();
    let mut imports: Vec<String> = ty
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .filter(|name| lacks(name) && linked_name(name).is_none_or(|name| lacks(&name)))
        .collect();
    if imports.is_empty() {
        // All interfaces are there, but one has another shape than ours.
        imports.push(format!("{error:#}"));
    }
    LoadError::MissingImports { imports }
}

/// Whether this exact name is free: something can be added to a copy of the linker under a name
/// only if the linker does not have it yet.
fn lacks(scratch: &mut Linker<Guest>, name: &str) -> bool {
    scratch.root().func_wrap(name, |_, (): ()| Ok(())).is_ok()
}

/// The name under which the linker has a compatible version, if it has one.
fn linked_name(import: &str) -> Option<String> {
    let (interface, version) = import.split_once('@')?;
    if version.contains('-') {
        return None;
    }
    let (_, linked) = LINKED.iter().find(|(prefix, _)| version.starts_with(prefix))?;
    Some(format!("{interface}@{linked}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        assert!(check_header(b"\0asm\x0d\0\x01\0rest").is_ok());
        assert!(matches!(check_header(b"\0asm\x01\0\0\0"), Err(LoadError::CoreModule)));
        let error = check_header(b"#!/bin/sh\nexit 0").unwrap_err();
        assert_eq!(
            error.to_string(),
            "this is not WebAssembly: it starts with \"#!/bin/sh\\nexit 0\""
        );
        assert!(matches!(check_header(b""), Err(LoadError::NotWasm { .. })));
        assert!(matches!(check_header(b"\0asm"), Err(LoadError::NotWasm { .. })));
    }

    #[test]
    fn compatible_versions_are_known() {
        let engine = Engine::new(&crate::engine::code_config()).unwrap();
        let linker = crate::guest::linker(&engine).unwrap();
        let mut scratch = linker.clone();
        for have in ["wasi:http/types@0.2.12", "wasi:http/types@0.3.0", "wasi:cli/stdout@0.2.12"] {
            assert!(!lacks(&mut scratch, have), "{have} must be linked");
        }
        assert_eq!(linked_name("wasi:io/poll@0.2.3").as_deref(), Some("wasi:io/poll@0.2.12"));
        assert_eq!(linked_name("wasi:config/store@0.2.0-rc.1"), None);
        assert_eq!(linked_name("acme:db/sql@1.0.0"), None);
        assert!(!lacks(&mut scratch, "wasi:config/store@0.2.0-rc.1"));
        assert!(!lacks(&mut scratch, "wasi:config/store@0.2.0-draft-2024-09-27"));
        assert!(lacks(&mut scratch, "acme:db/sql@1.0.0"));
    }
}
