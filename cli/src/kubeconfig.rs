//! `naru kubeconfig`: prints the kubeconfig of a cluster on this machine.

use anyhow::Context as _;

use crate::{args::KubeconfigArgs, cluster};

pub fn run(args: &KubeconfigArgs) -> anyhow::Result<()> {
    let dir = args.data_dir.clone().map_or_else(cluster::default_data_dir, Ok)?;
    let file = dir.join("kubeconfig");
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "there is no cluster in {}: start one with `naru up --data-dir {}`",
            dir.display(),
            dir.display()
        )
    })?;
    print!("{text}");
    Ok(())
}
