//! Bodies: reading one whole, and sending one that may break off in the middle.

use axum::body::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::UnboundedReceiver;

/// The whole body; none if it is larger than `most`.
pub async fn read(mut body: Incoming, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > most {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// A body that announces its full length and may send only half of it.
pub struct HalfBody {
    data: Option<Bytes>,
    announced: u64,
    breaks: bool,
}

impl HalfBody {
    /// `half`: break off in the middle.
    pub fn new(bytes: Vec<u8>, half: bool) -> Self {
        let announced = bytes.len() as u64;
        let mut data = Bytes::from(bytes);
        if half {
            data.truncate(data.len() / 2);
        }
        Self {
            data: Some(data),
            announced,
            breaks: half,
        }
    }
}

impl HttpBody for HalfBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.data.take() {
            Some(data) if !data.is_empty() => Poll::Ready(Some(Ok(Frame::data(data)))),
            _ if self.breaks => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.breaks && self.data.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}

/// The body of any answer: whole, or piece by piece.
pub enum Body {
    /// Known from the start.
    Half(HalfBody),
    /// Each piece is a chunk of its own.
    Stream(UnboundedReceiver<Bytes>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Half(half) => Pin::new(half).poll_frame(cx),
            Self::Stream(pieces) => pieces
                .poll_recv(cx)
                .map(|piece| piece.map(|p| Ok(Frame::data(p)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Half(half) => half.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Half(half) => half.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
