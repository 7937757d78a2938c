//! `naru runtime`: the CRI runtime alone.

use anyhow::Context as _;
use naru_node::runtime::{RuntimeSettings, serve};

use crate::{args::RuntimeArgs, cluster, signals};

pub async fn run(args: RuntimeArgs) -> anyhow::Result<()> {
    let data_dir = match args.data_dir {
        Some(dir) => dir,
        None => cluster::default_data_dir()?.join("runtime"),
    };
    let socket = args.socket.unwrap_or_else(|| data_dir.join("runtime.sock"));
    let mut settings = RuntimeSettings::new(socket, data_dir);
    settings.exit_with_parent = args.exit_with_parent;
    settings.max_instances = args.max_instances;
    settings.harden_guests = args.guests.harden_guests;
    let shutdown = signals::shutdown_token()?;
    serve(settings, shutdown.cancelled_owned()).await.context("the runtime cannot run")
}
