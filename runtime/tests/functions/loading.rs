//! From a file to a function: what is refused and why, the cache, the compiler's process.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use swarmer_model::{Coded, Digest};
use swarmer_runtime::{
    Artifact, CompileLimits, FunctionConfig, ImageCounts, ImageSource, ImageSum, LoadError,
    NewImage, NoEgress, check_header, codes, fixtures,
};

use crate::common::{Bench, get, text};

const TIME: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_is_refused_with_its_reason() {
    let bench = Bench::with(Arc::new(NoEgress), |config| config.compile.component_bytes = 100_000);
    let refused =
        async |bytes: &[u8]| bench.handle.prepare(&bench.artifact(bytes)).await.unwrap_err();

    let error = refused(b"#!/bin/sh").await;
    assert_eq!(error.code(), codes::NOT_WASM);
    let error = refused(&fixtures::core_module()).await;
    assert_eq!(error.code(), codes::CORE_MODULE);
    assert!(error.to_string().contains("wasm-tools component new"), "{error}");
    let error = refused(&fixtures::no_handler()).await;
    assert_eq!(error.code(), codes::NO_HANDLER);
    let error = refused(&fixtures::unknown_imports()).await;
    let LoadError::MissingImports { mut imports } = error else { panic!("{error}") };
    imports.sort();
    assert_eq!(imports, ["acme:db/cache@1.2.0", "acme:db/sql@1.0.0"], "all of them, by name");
    let hello = fixtures::hello_p2();
    let error = refused(&hello[..hello.len() - 10]).await;
    assert_eq!(error.code(), codes::INVALID_COMPONENT);
    let error = refused(&vec![0; 100_001]).await;
    assert_eq!(error.code(), codes::TOO_LARGE);
    let mut artifact = bench.artifact(&hello);
    artifact.digest = Digest::of(b"other");
    let error = bench.handle.prepare(&artifact).await.unwrap_err();
    assert_eq!(error.code(), codes::WRONG_DIGEST);
    let gone = Artifact { digest: Digest::of(b"x"), path: PathBuf::from("/nowhere/x") };
    let error = bench.handle.prepare(&gone).await.unwrap_err();
    assert_eq!(error.code(), codes::COMPILE);
    assert!(check_header(&hello).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_compilation_for_many_and_a_damaged_image_is_made_anew() {
    let bench = Bench::new();
    let artifact = bench.artifact(&fixtures::hello_p2());
    assert!(!bench.handle.is_cached(&artifact.digest));
    let all = (0..8).map(|_| bench.handle.prepare(&artifact));
    let all = futures::future::try_join_all(all).await.unwrap();
    assert_eq!(all.iter().filter(|info| info.compiled).count(), 1);
    assert!(bench.handle.is_cached(&artifact.digest));
    let info = bench.handle.prepare(&artifact).await.unwrap();
    assert!(!info.compiled, "from its image");
    if !cfg!(debug_assertions) {
        assert!(info.took < Duration::from_millis(5), "{:?}", info.took);
    }

    let images = bench.dir.path().join("images");
    let image = fs::read_dir(&images)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "image"))
        .unwrap();
    let mut bytes = fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&image, bytes).unwrap();
    let info = bench.handle.prepare(&artifact).await.unwrap();
    assert!(info.compiled, "a flipped bit is found");
    assert_eq!(bench.handle.prune_images(|_| false), 1);
    assert!(!bench.handle.is_cached(&artifact.digest));
}

/// Gives what a runtime beside has, changed as the test wants.
struct Beside {
    runtime: swarmer_runtime::Handle,
    change: fn(&mut Vec<u8>, &mut ImageSum),
}

#[async_trait::async_trait]
impl ImageSource for Beside {
    async fn bring(&self, digest: Digest, compatibility: &str, image: &mut NewImage) {
        let Some(mut shared) = self.runtime.share_image(digest, compatibility).await else {
            return;
        };
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut shared.file, &mut bytes).unwrap();
        (self.change)(&mut bytes, &mut shared.sum);
        if image.begin(shared.sum).await.is_ok() && image.write(&bytes).await.is_ok() {
            let _ = image.finish().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_another_node_is_used_only_if_it_is_whole_and_as_announced() {
    type Change = fn(&mut Vec<u8>, &mut ImageSum);
    let cases: [(&str, Change, u64); 6] = [
        ("as it is", |_, _| {}, 0),
        ("a flipped bit", |bytes, _| bytes[1000] ^= 1, 1),
        ("cut short", |bytes, _| bytes.truncate(1000), 1),
        ("too long", |bytes, _| bytes.push(0), 1),
        ("too large", |_, sum| sum.bytes = u64::MAX, 1),
        (
            "sound, but not an image",
            |bytes, sum| {
                *bytes = vec![7; 100];
                let crc32c = crc32c::crc32c(bytes);
                *sum = ImageSum { bytes: 100, crc32c, sha256: Digest::of(bytes) };
            },
            1,
        ),
    ];
    let first = Bench::new();
    let component = fixtures::hello_p2();
    first.handle.prepare(&first.artifact(&component)).await.unwrap();
    assert_eq!(first.handle.image_counts(), ImageCounts { compiled: 1, fetched: 0 });
    let digest = Digest::of(&component);
    assert!(first.handle.share_image(digest, "another engine").await.is_none());
    for (what, change, compiled) in cases {
        let beside = Beside { runtime: first.handle.clone(), change };
        let second = Bench::beside(Arc::new(beside));
        let function = second.load(&component, FunctionConfig::default()).await;
        let answer = function.call(get("/"), second.context(TIME)).await.unwrap();
        assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n", "{what}");
        let counts = ImageCounts { compiled, fetched: 1 - compiled };
        assert_eq!(second.handle.image_counts(), counts, "{what}");
    }
}

/// The test binary itself is the compiler: the hidden sub-command is one of its tests.
const CHILD: &str = "SWARMER_TEST_COMPILE_CHILD";

#[test]
#[expect(clippy::disallowed_methods, reason = "the test harness would print behind the answer")]
fn compile_child() {
    if std::env::var_os(CHILD).is_some() {
        let done = swarmer_runtime::compile_child_main() == std::process::ExitCode::SUCCESS;
        std::process::exit(i32::from(!done));
    }
}

fn child_command() -> Vec<std::ffi::OsString> {
    let this = std::env::current_exe().unwrap();
    let flag = format!("{CHILD}=1");
    [
        "env".into(),
        flag.into(),
        this.into(),
        "--exact".into(),
        "loading::compile_child".into(),
        "--nocapture".into(),
    ]
    .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_compiler_runs_in_its_own_process() {
    let bench = Bench::with(Arc::new(NoEgress), |config| {
        config.compile_command = Some(child_command());
    });
    let function = bench.load(&fixtures::hello_p2(), FunctionConfig::default()).await;
    let answer = function.call(get("/"), bench.context(TIME)).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n");
    let hello = fixtures::hello_p2();
    let cut = bench.artifact(&hello[..hello.len() - 10]);
    let error = bench.handle.prepare(&cut).await.unwrap_err();
    assert_eq!(error.code(), codes::INVALID_COMPONENT, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compiler_without_end_is_stopped() {
    for (what, limits, command) in [
        (
            "wall",
            CompileLimits { wall: Duration::from_millis(100), ..CompileLimits::default() },
            vec!["sleep".into(), "60".into()],
        ),
        (
            "memory",
            CompileLimits { memory_bytes: 1 << 20, ..CompileLimits::default() },
            child_command(),
        ),
    ] {
        let bench = Bench::with(Arc::new(NoEgress), |config| {
            config.compile_command = Some(command);
            config.compile = limits;
        });
        let artifact = bench.artifact(&fixtures::hello_p2());
        let error = bench.handle.prepare(&artifact).await.unwrap_err();
        assert!(
            matches!(error, LoadError::CompileLimit(_) | LoadError::Compile(_)),
            "{what}: {error}"
        );
        let left = fs::read_dir(bench.dir.path().join("images")).unwrap().count();
        assert_eq!(left, 0, "{what}: nothing half done stays");
    }
}
