//! The agent's stream of updates, and what it is answered.

use std::{sync::atomic::Ordering, time::Duration};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{
    Network,
    table::{Change, Settings},
};
use crate::dataplane::{UpdateRequest, UpdateResponse, update_request::Update};

/// After the first Synced, changes that no Synced follows are applied after so long.
const QUIET: Duration = Duration::from_millis(20);
/// Ports that were taken are tried again: soon at first, because a socket may just be closing, then less often.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

type Answers = mpsc::Sender<Result<UpdateResponse, Status>>;

impl Network {
    /// Follows a stream of updates to its end. The newest stream counts: what an older one still says is ignored.
    pub async fn follow(
        &self,
        stream: impl Stream<Item = Result<UpdateRequest, Status>> + Unpin,
        answers: Answers,
    ) {
        let number = self.shared.feed.fetch_add(1, Ordering::SeqCst) + 1;
        let mut feed = Feed { network: self, number, settings: None, changes: Vec::new(), is_synced: false };
        if let Err(status) = feed.run(stream, &answers).await {
            let reason = status.message();
            match status.code() {
                Code::InvalidArgument | Code::Aborted => {
                    tracing::warn!(reason, "a stream of updates was refused");
                }
                // The agent is gone, on purpose or not. What it said last holds until another one comes.
                _ => tracing::info!(reason, "the stream of updates ended"),
            }
            let _ = answers.send(Err(status)).await;
        }
    }
}

struct Feed<'a> {
    network: &'a Network,
    number: u64,
    settings: Option<Settings>,
    changes: Vec<Change>,
    is_synced: bool,
}

impl Feed<'_> {
    async fn run(
        &mut self,
        mut stream: impl Stream<Item = Result<UpdateRequest, Status>> + Unpin,
        answers: &Answers,
    ) -> Result<(), Status> {
        let mut is_first = true;
        let mut retry = None;
        loop {
            let patience = if self.is_synced && !self.changes.is_empty() { Some(QUIET) } else { retry };
            let next = match patience {
                Some(patience) => tokio::time::timeout(patience, stream.next()).await,
                None => Ok(stream.next().await),
            };
            let Ok(next) = next else {
                let is_failing = !self.commit()?.is_empty();
                retry = is_failing.then(|| retry.map_or(FIRST_RETRY, |last| (last * 2).min(LAST_RETRY)));
                continue;
            };
            let Some(request) = next else { return Ok(()) };
            let Some(update) = request?.update else { continue };
            if std::mem::take(&mut is_first) && !matches!(update, Update::Reset(_)) {
                return Err(Status::invalid_argument("the first update must be a Reset"));
            }
            match update {
                Update::Reset(reset) => {
                    self.settings = Some(Settings::from_reset(&reset));
                    self.changes.clear();
                    self.is_synced = false;
                }
                Update::Synced(synced) => {
                    self.is_synced = true;
                    let errors = self.commit()?;
                    retry = (!errors.is_empty()).then_some(FIRST_RETRY);
                    if answers.send(Ok(UpdateResponse { synced: synced.id, errors })).await.is_err() {
                        return Ok(());
                    }
                }
                Update::UpsertService(service) => self.changes.push(Change::Service(service)),
                Update::DeleteService(key) => self.changes.push(Change::NoService(key)),
                Update::UpsertSlice(slice) => self.changes.push(Change::Slice(slice)),
                Update::DeleteSlice(key) => self.changes.push(Change::NoSlice(key)),
            }
        }
    }

    fn commit(&mut self) -> Result<Vec<String>, Status> {
        if self.network.shared.feed.load(Ordering::SeqCst) != self.number {
            return Err(Status::aborted("a newer agent feeds this data plane"));
        }
        Ok(self.network.commit(self.settings.take(), std::mem::take(&mut self.changes)))
    }
}
