//! Errors of the API server: what we were doing with which object, and the cases that code tells apart.

use std::future::Future;
use std::time::Duration;

/// An error of a call to the API server.
#[derive(Debug, thiserror::Error)]
pub enum K8sError {
    /// The call was answered with an error, or not answered.
    #[error("{doing}: {source}")]
    Api {
        /// What we were doing, with the object.
        doing: String,
        /// What went wrong. Boxed: kube's errors are large.
        source: Box<kube::Error>,
    },
    /// No answer in time: nobody knows whether it happened.
    #[error("{doing}: no answer from the API server within {} s", limit.as_secs())]
    Timeout {
        /// What we were doing, with the object.
        doing: String,
        /// The limit.
        limit: Duration,
    },
}

impl K8sError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }

    /// 409: somebody else wrote first, or it exists already.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// 404.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(404)
    }

    /// 422: a test of a patch failed, or the object is not valid.
    pub fn is_invalid(&self) -> bool {
        self.code() == Some(422)
    }

    /// 401 or 403.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.code(), Some(401 | 403))
    }

    /// Whether repeating the call may help: 429, 5xx, no answer.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Api { .. } => self.code().is_none_or(|c| c == 429 || c >= 500),
        }
    }
}

/// Runs a call within `limit`.
pub async fn within<T>(
    limit: Duration,
    doing: impl FnOnce() -> String,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, K8sError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(K8sError::Api {
            doing: doing(),
            source: Box::new(source),
        }),
        Err(_) => Err(K8sError::Timeout {
            doing: doing(),
            limit,
        }),
    }
}
