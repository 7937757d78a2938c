//! Bodies: reading what clients send within a limit, and the two forms of what they are sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ApiError;

/// The largest request body that is read.
pub const MAX_BODY_BYTES: usize = 3 << 20;

/// The body of a response.
pub enum Body {
    Full(Option<Bytes>),
    /// Sent in pieces as the client takes them.
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
    /// What another server answers; it may break off.
    Passed(Incoming),
}

impl Body {
    pub fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::Stream(Box::pin(stream))
    }

    /// Keeps `guard` for as long as the body is being sent in pieces.
    pub fn holding(self, guard: impl Send + 'static) -> Self {
        match self {
            Self::Stream(stream) => Self::stream(Holding { stream, _guard: guard }),
            other => other,
        }
    }
}

struct Holding<G> {
    stream: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    _guard: G,
}

// The stream is pinned in its box.
impl<G> Unpin for Holding<G> {}

impl<G> Stream for Holding<G> {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.get_mut().stream.as_mut().poll_next(context)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(Some(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => at_once(bytes),
            Self::Stream(stream) => {
                stream.as_mut().poll_next(context).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Passed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(_) => false,
            Self::Passed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => size_of(bytes.as_ref()),
            Self::Stream(_) => SizeHint::default(),
            Self::Passed(body) => body.size_hint(),
        }
    }
}

/// All of a body in one frame, unless it was taken.
fn at_once(bytes: &mut Option<Bytes>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
}

fn size_of(bytes: Option<&Bytes>) -> SizeHint {
    SizeHint::with_exact(bytes.map_or(0, Bytes::len) as u64)
}

/// How much of a body that is too large is read only to be forgotten, and for how long: a client that is still
/// sending when the connection closes under it never sees the refusal.
const MAX_DRAINED_BYTES: usize = 32 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest pause between two pieces of a body, and the longest time that all of it may take.
const GAP_DEADLINE: Duration = Duration::from_secs(15);
const BODY_DEADLINE: Duration = Duration::from_mins(1);

/// So much of a body waits for its request's turn without taking room.
const FREE_BYTES: usize = 64 << 10;
/// All that bodies may take that are longer, in KiB.
const ROOM_KIB: usize = 128 << 10;

/// What is on its way of a request's body. Where the answer needs none of it, it is read and forgotten, within bounds: a
/// client whose stream is reset while it sends may take that for the answer.
pub struct Coming(Option<Incoming>);

impl Coming {
    fn take(mut self) -> Option<Incoming> {
        self.0.take()
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }
}

impl From<Incoming> for Coming {
    fn from(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Nobody waits for it, and it ends by itself.
            runtime.spawn(async move {
                let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain(&mut body, MAX_BODY_BYTES)).await;
            });
        }
    }
}

/// A request's body: still on its way, or all of it.
pub enum Payload {
    Coming(Coming),
    /// The bytes, if they were not taken yet, and their share of the room.
    Here(Option<Bytes>, Option<OwnedSemaphorePermit>),
}

/// The room for long bodies whose requests wait for their turn. Without a bound, a crowd of them would take all memory;
/// with one for each request, those that come slowly would keep others from their turn.
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB)))
    }
}

impl Payload {
    /// Reads the body, refusing what is larger than the limit or does not come in time; no more of it than that is
    /// kept.
    pub async fn read(self) -> Result<Bytes, ApiError> {
        match self {
            Self::Coming(body) => match body.take() {
                Some(body) => Ok(read(body, None).await?.0),
                None => Ok(Bytes::new()),
            },
            Self::Here(bytes, _) => Ok(bytes.unwrap_or_default()),
        }
    }

    /// Waits until all of the body is here.
    ///
    /// # Errors
    /// As for [`Self::read`], and 429 where there is no room for it.
    pub async fn gather(&mut self, room: &Room) -> Result<(), ApiError> {
        if self.is_here() {
            return Ok(());
        }
        if let Self::Coming(body) = std::mem::replace(self, Self::Here(None, None))
            && let Some(body) = body.take()
        {
            let (bytes, share) = read(body, Some(room)).await?;
            *self = Self::Here(Some(bytes), share);
        }
        Ok(())
    }

    /// Whether there is nothing to wait for.
    pub fn is_here(&self) -> bool {
        match self {
            Self::Coming(body) => body.is_end_stream(),
            Self::Here(..) => true,
        }
    }
}

impl http_body::Body for Payload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Coming(Coming(Some(body))) => Pin::new(body).poll_frame(context),
            Self::Coming(Coming(None)) => Poll::Ready(None),
            Self::Here(bytes, _) => at_once(bytes),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Coming(body) => body.is_end_stream(),
            Self::Here(bytes, _) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Coming(body) => body.0.as_ref().map_or(size_of(None), Incoming::size_hint),
            Self::Here(bytes, _) => size_of(bytes.as_ref()),
        }
    }
}

/// What a body takes of the room, as it comes.
struct Share<'a> {
    room: &'a Room,
    taken: Option<OwnedSemaphorePermit>,
}

impl Share<'_> {
    /// Takes what a body of `len` bytes needs.
    async fn cover(&mut self, len: usize) -> Result<(), ApiError> {
        let needed = len.saturating_sub(FREE_BYTES).div_ceil(1024);
        let missing = needed.saturating_sub(self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if missing == 0 {
            return Ok(());
        }
        let more = self.room.0.clone().acquire_many_owned(missing as u32);
        let Ok(Ok(more)) = tokio::time::timeout(GAP_DEADLINE, more).await else {
            return Err(ApiError::TooManyRequests {
                message: "too many large requests are under way, please try again later".into(),
                retry_after: Duration::from_secs(1),
            });
        };
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}

/// Reads a body, and takes room for it where that is given.
async fn read(
    mut body: Incoming,
    room: Option<&Room>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let mut share = room.map(|room| Share { room, taken: None });
    let read = tokio::time::timeout(BODY_DEADLINE, read_within_limit(&mut body, share.as_mut())).await;
    match read.unwrap_or_else(|_| Err(too_slow(BODY_DEADLINE))) {
        Err(error @ ApiError::TooLarge { .. }) => {
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain(&mut body, MAX_DRAINED_BYTES)).await;
            Err(error)
        }
        result => Ok((result?, share.and_then(|share| share.taken))),
    }
}

fn too_slow(deadline: Duration) -> ApiError {
    ApiError::BadRequest(format!(
        "cannot read the body: it did not come within {} seconds",
        deadline.as_secs()
    ))
}

/// The next piece of a body. `None` at its end.
async fn next_frame(
    body: &mut (impl http_body::Body<Data = Bytes, Error = hyper::Error> + Unpin),
) -> Result<Option<Frame<Bytes>>, ApiError> {
    let unreadable = |error| ApiError::BadRequest(format!("cannot read the body: {error}"));
    match tokio::time::timeout(GAP_DEADLINE, body.frame()).await {
        Ok(frame) => frame.transpose().map_err(unreadable),
        Err(_) => Err(too_slow(GAP_DEADLINE)),
    }
}

/// A body of any length, piece by piece; it ends with an error when nothing comes for too long.
pub fn pieces(body: Payload) -> impl Stream<Item = Result<Bytes, ApiError>> + Unpin {
    Box::pin(futures::stream::try_unfold(body, |mut body| async move {
        while let Some(frame) = next_frame(&mut body).await? {
            if let Ok(data) = frame.into_data() {
                return Ok(Some((data, body)));
            }
        }
        Ok(None)
    }))
}

async fn drain(body: &mut Incoming, max_bytes: usize) {
    let mut drained = 0;
    while drained < max_bytes
        && let Some(Ok(frame)) = body.frame().await
    {
        drained += frame.data_ref().map_or(0, Bytes::len);
    }
}

async fn read_within_limit(
    body: &mut Incoming,
    mut share: Option<&mut Share<'_>>,
) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::TooLarge { limit: MAX_BODY_BYTES };
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = next_frame(body).await? {
        let Ok(data) = frame.into_data() else { continue };
        // Most bodies are one piece, which is then not copied.
        match &first {
            None => first = Some(data),
            Some(head) => {
                if rest.is_empty() {
                    rest.extend_from_slice(head);
                }
                rest.extend_from_slice(&data);
            }
        }
        let len = rest.len().max(first.as_ref().map_or(0, Bytes::len));
        if len > MAX_BODY_BYTES {
            return Err(too_large());
        }
        if let Some(share) = &mut share {
            share.cover(len).await?;
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}
