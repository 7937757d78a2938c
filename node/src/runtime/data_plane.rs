//! The second service on the CRI socket: updates for the network, and images from the cluster's own store.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use naru_oci_fallback::{Image, Incoming, PullError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{error::PodError, pods::Pods};
use crate::dataplane::{
    ImportImageRequest, ImportImageResponse, InfoRequest, InfoResponse, StreamRequest, StreamResponse,
    UpdateRequest, UpdateResponse, data_plane_server::DataPlane,
};

/// The limit of the cluster's image store.
const MAX_IMAGE: u64 = 512 << 20;

pub(super) struct DataPlaneService {
    pub pods: Arc<Pods>,
    pub closing: CancellationToken,
}

#[tonic::async_trait]
impl DataPlane for DataPlaneService {
    type UpdateStream = Pin<Box<dyn Stream<Item = Result<UpdateResponse, Status>> + Send>>;

    async fn update(
        &self,
        request: Request<Streaming<UpdateRequest>>,
    ) -> Result<Response<Self::UpdateStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let (network, closing) = (self.pods.network.clone(), self.closing.clone());
        let updates = request.into_inner();
        tokio::spawn(async move {
            // What is known stays known when the agent goes.
            closing.run_until_cancelled_owned(network.follow(updates, sender)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Result<Response<ImportImageResponse>, Status> {
        let image = self.receive(request.into_inner()).await?;
        Ok(Response::new(ImportImageResponse { image_ref: image.digest }))
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<StreamResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let responses = ReceiverStream::new(self.pods.stream(request.into_inner()).await?);
        Ok(Response::new(Box::pin(responses.take_until(self.closing.clone().cancelled_owned()))))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            network_mode: "loopback".to_owned(),
            linux_containers: false,
            linux_containers_reason: "this version of Naru runs wasm containers only".to_owned(),
        }))
    }
}

impl DataPlaneService {
    async fn receive(&self, mut chunks: Streaming<ImportImageRequest>) -> Result<Image, Status> {
        let mut first =
            chunks.next().await.ok_or_else(|| Status::invalid_argument("the stream is empty"))??;
        if first.name.is_empty() {
            return Err(Status::invalid_argument("the first message must name the image"));
        }
        let mut incoming = self.pods.images.receive().map_err(PodError::Image)?;
        write(&mut incoming, &std::mem::take(&mut first.chunk))?;
        while let Some(message) = chunks.next().await {
            write(&mut incoming, &message?.chunk)?;
        }
        let finish = move || {
            let digest = Some(first.digest.as_str()).filter(|digest| !digest.is_empty());
            incoming.finish(&first.name, digest)
        };
        let image =
            tokio::task::spawn_blocking(finish).await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(image.map_err(PodError::Image)?)
    }
}

fn write(incoming: &mut Incoming, chunk: &[u8]) -> Result<(), Status> {
    if incoming.size() + chunk.len() as u64 > MAX_IMAGE {
        return Err(Status::invalid_argument(format!("the image is larger than {MAX_IMAGE} bytes")));
    }
    incoming.write(chunk).map_err(|error| PodError::Image(PullError::Io(error)).into())
}
