//! Finds the cluster that a command talks to, as kubectl does, and talks to it over HTTPS.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// `~/.naru`.
pub fn default_data_dir() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("HOME").context("HOME is not set; say --data-dir DIR")?;
    Ok(PathBuf::from(home).join(".naru"))
}

/// A client for the cluster of `--kubeconfig`, of `KUBECONFIG`, of `~/.kube/config`, or of `~/.naru/kubeconfig`.
pub async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Client> {
    let config = load(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .context("the kubeconfig cannot be used")?;
    kube::Client::try_from(config).context("cannot make a client from the kubeconfig")
}

fn load(kubeconfig: Option<&Path>) -> anyhow::Result<Kubeconfig> {
    if let Some(file) = kubeconfig {
        return Kubeconfig::read_from(file)
            .with_context(|| format!("cannot read the kubeconfig {}", file.display()));
    }
    if std::env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty()) {
        return Kubeconfig::read().context("cannot read the kubeconfig that KUBECONFIG names");
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    for candidate in [home.join(".kube/config"), home.join(".naru/kubeconfig")] {
        if candidate.exists() {
            return Kubeconfig::read_from(&candidate)
                .with_context(|| format!("cannot read the kubeconfig {}", candidate.display()));
        }
    }
    bail!(
        "no cluster found: start one with `naru up`, or name its kubeconfig with --kubeconfig or KUBECONFIG"
    )
}
