//! `wasi:config/store` under the name of its draft of September 2024, which toolchains still use.

use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use super::Guest;

/// The draft's error; we never give one.
#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

const NAME: &str = "wasi:config/store@0.2.0-draft-2024-09-27";

type Found = Result<Option<String>, ConfigError>;
type All = Result<Vec<(String, String)>, ConfigError>;

pub(super) fn add_draft_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut store = linker.instance(NAME)?;
    store.func_wrap("get", |store, (key,): (String,)| -> wasmtime::Result<(Found,)> {
        let env = &store.data().hooks.inner.config.env;
        Ok((Ok(env.get(&key).cloned()),))
    })?;
    store.func_wrap("get-all", |store, (): ()| -> wasmtime::Result<(All,)> {
        let env = &store.data().hooks.inner.config.env;
        Ok((Ok(env.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),))
    })?;
    Ok(())
}
