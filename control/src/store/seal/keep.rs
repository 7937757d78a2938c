//! Follows the file of keys, and has the store written anew when how it is written has changed.

use std::time::Duration;

use super::Sealer;
use crate::store::raft::Member;

/// Between two looks at the file. A look is one system call.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a rewrite that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Works until it is dropped.
pub async fn keep(member: &Member, sealer: &Sealer) {
    let mut seen = sealer.stamp();
    loop {
        let wanted = sealer.fingerprint();
        if member.mark() != wanted {
            match member.rewrite(&wanted).await {
                Ok(()) => tracing::info!("everything that is stored was encrypted as configured"),
                Err(error) => {
                    tracing::error!(%error, "cannot encrypt what is stored anew; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        while sealer.stamp() == seen {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        seen = sealer.stamp();
        if let Err(error) = sealer.reload() {
            tracing::error!(error, "the keys from before stay in force");
        }
    }
}
