//! CRI's ImageService over the image store.

use std::sync::Arc;

use base64::Engine as _;
use k8s_cri::v1::{self as cri, image_service_server::ImageService};
use naru_oci_fallback::{PullAuth, PullError};
use tonic::{Request, Response, Status};

use super::{container::now, error::PodError, messages, pods::Pods};

type Answer<T> = Result<Response<T>, Status>;

pub(super) struct CriImages {
    pub pods: Arc<Pods>,
    pub folder: std::path::PathBuf,
}

#[tonic::async_trait]
impl ImageService for CriImages {
    async fn list_images(&self, request: Request<cri::ListImagesRequest>) -> Answer<cri::ListImagesResponse> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image).map(|image| image.image);
        let images = match wanted.filter(|name| !name.is_empty()) {
            Some(name) => self.pods.images.get(&name).into_iter().collect(),
            None => self.pods.images.list(),
        };
        answer(cri::ListImagesResponse { images: images.iter().map(messages::image).collect() })
    }

    /// An image that is not here is no error but an empty answer.
    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let image = self.pods.images.get(&name(request.into_inner().image)?);
        answer(cri::ImageStatusResponse {
            image: image.as_ref().map(messages::image),
            ..cri::ImageStatusResponse::default()
        })
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Answer<cri::PullImageResponse> {
        let request = request.into_inner();
        let name = name(request.image)?;
        let auth = auth(request.auth.unwrap_or_default())?;
        // In a task of its own: what was fetched stays when the caller gives up.
        let images = self.pods.images.clone();
        let pulled = tokio::spawn(async move { images.pull(&name, auth).await }).await;
        let image = pulled.map_err(|error| Status::internal(error.to_string()))?.map_err(PodError::Image)?;
        answer(cri::PullImageResponse { image_ref: image.digest })
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        match self.pods.images.remove(&name(request.into_inner().image)?) {
            Ok(()) | Err(PullError::NotFound(_)) => answer(cri::RemoveImageResponse {}),
            Err(error) => Err(PodError::Image(error).into()),
        }
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Answer<cri::ImageFsInfoResponse> {
        let images = self.pods.images.list();
        let usage = cri::FilesystemUsage {
            timestamp: now(),
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: self.folder.display().to_string() }),
            used_bytes: Some(cri::UInt64Value { value: images.iter().map(|image| image.size).sum() }),
            // The content and its entry.
            inodes_used: Some(cri::UInt64Value { value: 2 * images.len() as u64 }),
        };
        answer(cri::ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        })
    }
}

fn name(image: Option<cri::ImageSpec>) -> Result<String, Status> {
    let name = image.map(|image| image.image).filter(|name| !name.is_empty());
    name.ok_or_else(|| Status::invalid_argument("the request names no image"))
}

fn auth(auth: cri::AuthConfig) -> Result<PullAuth, Status> {
    if !auth.registry_token.is_empty() {
        return Ok(PullAuth::Bearer(auth.registry_token));
    }
    if !auth.username.is_empty() {
        return Ok(PullAuth::Basic { username: auth.username, password: auth.password });
    }
    if auth.auth.is_empty() {
        return Ok(PullAuth::Anonymous);
    }
    let invalid = || Status::invalid_argument("the credentials are not base64 of user:password");
    let text = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).map_err(|_| invalid())?;
    let text = String::from_utf8(text).map_err(|_| invalid())?;
    let (username, password) = text.split_once(':').ok_or_else(invalid)?;
    Ok(PullAuth::Basic {
        username: username.to_owned(),
        password: password.trim_end_matches('\0').to_owned(),
    })
}

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}
