//! What the terminal shows: versions, logs, and errors as one sentence.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::VersionArgs;

/// Logs go to stderr: warnings by default, more with `-v`, anything with `RUST_LOG`.
pub fn init_logging(verbose: u8) {
    let fallback = match verbose {
        0 => "warn,naru=info,naru_control=warn,naru_node=warn",
        1 => {
            "info,naru=debug,naru_control=debug,naru_node=debug,naru_wasi_shim=debug,naru_oci_fallback=debug"
        }
        _ => "debug,naru=trace,naru_control=trace,naru_node=trace,naru_wasi_shim=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// An error and its causes in one line, each said once, without a final stop.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let refusal = refusal(cause);
        let is_refusal = refusal.is_some();
        let cause = refusal.unwrap_or_else(|| cause.to_string());
        let cause = cause.trim().trim_end_matches('.');
        if text.contains(cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(cause);
        if is_refusal {
            break; // What follows says the same again.
        }
    }
    text
}

/// The cluster's own words, where it is the cluster that refused.
fn refusal(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    match cause.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if !status.message.is_empty() => Some(status.message.clone()),
        _ => None,
    }
}

pub fn version(args: &VersionArgs) -> anyhow::Result<()> {
    let naru = env!("CARGO_PKG_VERSION");
    let kubernetes = naru_model::version::git_version();
    if args.json {
        println!("{}", serde_json::json!({ "naru": naru, "kubernetes": kubernetes }));
    } else {
        println!("naru {naru} (Kubernetes {kubernetes})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_is_one_sentence_that_repeats_nothing() {
        let error = Err::<(), _>(anyhow::anyhow!("no such file."))
            .context("cannot read web.wasm: no such file")
            .context("cannot import web")
            .expect_err("it is an error");
        assert_eq!(sentence(&error), "cannot import web: cannot read web.wasm: no such file");
    }

    #[test]
    fn what_the_cluster_refuses_is_said_in_its_words() {
        let status = kube::core::Status::failure(r#"images "web:v1" not found"#, "NotFound");
        let error = Err::<(), _>(kube::Error::Api(Box::new(status)))
            .context("cannot remove image web:v1")
            .expect_err("it is an error");
        assert_eq!(sentence(&error), r#"cannot remove image web:v1: images "web:v1" not found"#);
    }
}
