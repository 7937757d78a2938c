//! From a wasm file to a module: what is refused and how, the cache, concurrent loads.

use std::{fs, sync::Arc};

use naru_wasi_shim::{Engine, EngineSettings, LoadError, ModuleKind, Reuse};

use crate::common::{Node, within};

async fn check(wasm: &[u8], expected: &str) {
    let error = Node::new().load(wasm).await.err().expect("it is refused").to_string();
    assert!(error.starts_with(expected), "{error}");
}

async fn check_text(text: &str, expected: &str) {
    check(&wat::parse_str(text).unwrap(), expected).await;
}

#[tokio::test]
async fn files_that_cannot_run_are_refused_with_the_reason() {
    check(b"#!/bin/sh\necho hello", "not a WebAssembly file: it is a script").await;
    check_text("(module)", "the module exports neither _start, wasi:cli/run nor a wasi:http handler").await;
    check_text("(component)", "the component exports neither _start, wasi:cli/run nor a wasi:http handler")
        .await;
    check_text(
        r#"(module (import "env" "launch" (func)) (func (export "_start")))"#,
        "the module imports env::launch, which this runtime does not provide",
    )
    .await;
    check_text(
        r#"(component
            (import "wasi:keyvalue/store@0.2.0" (instance (export "open" (func))))
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#,
        "the component imports wasi:keyvalue/store@0.2.0, which this runtime does not provide",
    )
    .await;
    check_text(
        r#"(component
            (import "wasi:cli/environment@0.2.0" (instance (export "fly" (func))))
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#,
        "the component imports wasi:cli/environment@0.2.0#fly, which this runtime does not provide",
    )
    .await;
}

#[tokio::test]
async fn a_file_cut_off_anywhere_is_refused_and_never_panics() {
    let whole = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call 0 (i32.const 3))))"#,
    )
    .unwrap();
    let node = Node::new();
    for length in 0..whole.len() {
        let error = node.load(&whole[..length]).await.err();
        assert!(error.is_some(), "{length} bytes of {}", whole.len());
    }
    assert_eq!(node.load(&whole).await.unwrap().kind(), ModuleKind::Preview1Command);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let error = Node::new()
        .engine
        .load("/nowhere/hello.wasm".as_ref(), "sha256:00", Reuse::Never)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(&error, LoadError::Io { .. }) && error.to_string().contains("/nowhere/hello.wasm"),
        "{error}"
    );
}

const EXITS_3: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") (call 0 (i32.const 3))))"#;

#[tokio::test]
async fn concurrent_loads_of_one_digest_give_the_same_module() {
    let node = Node::new();
    let path = node.dir.path().join("a.wasm");
    fs::write(&path, wat::parse_str(EXITS_3).unwrap()).unwrap();
    let loads = (0..16).map(|_| node.engine.load(&path, "sha256:a", Reuse::Never));
    let modules: Vec<_> = futures::future::join_all(loads).await.into_iter().map(Result::unwrap).collect();
    assert!(modules.iter().all(|module| Arc::ptr_eq(module, &modules[0])));
}

#[tokio::test]
async fn a_damaged_cache_is_compiled_again() {
    let node = Node::new();
    let (wasm, cache) = (node.dir.path().join("a.wasm"), node.dir.path().join("cache"));
    fs::write(&wasm, wat::parse_str(EXITS_3).unwrap()).unwrap();
    drop(node.engine.load(&wasm, "sha256:a", Reuse::Never).await.unwrap());
    let entry = |ending: &str| {
        let mut files = fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path());
        files.find(|path| path.extension().is_some_and(|extension| extension == ending)).unwrap()
    };
    let intact = fs::read(entry("cwasm")).unwrap();
    let mut flipped = intact.clone();
    flipped[intact.len() / 2] ^= 0xff;
    for damaged in [&flipped[..], &intact[..intact.len() / 2], b"", b"\x7fELF nonsense"] {
        // In place of the file, not in it: the old one may still be mapped by the engine before.
        let code = entry("cwasm");
        fs::remove_file(&code).unwrap();
        fs::write(&code, damaged).unwrap();
        // Another process of the same runtime, as after a restart.
        let engine =
            Engine::new(EngineSettings { cache_dir: cache.clone(), max_instances: Some(4), harden: false })
                .unwrap();
        let module = engine.load(&wasm, "sha256:a", Reuse::Never).await.unwrap();
        let restarted = Node { engine, dir: tempfile::tempdir().unwrap() };
        let (container, _) = restarted.start(module, |_| {}).await;
        assert_eq!(within(container.wait()).await.code, 3);
    }
}
