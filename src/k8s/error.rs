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

/// An error with its causes, each once: kube's own texts repeat theirs, and show the whole answer besides its message.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(e) = next {
        let boxed = || e.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref);
        let answer = match e.downcast_ref::<kube::Error>().or_else(boxed) {
            Some(kube::Error::Api(status)) => Some(status.message.clone()),
            _ => None,
        };
        // The level above has the whole answer at its end.
        let (more, last) = match answer {
            Some(message) => (message, true),
            None => (shorten(&e.to_string(), e.source()), false),
        };
        if !more.is_empty() && !text.contains(&more) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&more);
        }
        next = e.source().filter(|_| !last);
    }
    text
}

/// A text without the text of its cause at its end.
fn shorten(text: &str, cause: Option<&dyn std::error::Error>) -> String {
    let cause = cause.map(ToString::to_string).unwrap_or_default();
    let cut = text.strip_suffix(&cause).filter(|_| !cause.is_empty());
    cut.map_or(text, |t| t.trim_end().trim_end_matches(':'))
        .to_owned()
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

#[cfg(test)]
mod chain_tests {
    use super::*;

    #[test]
    fn an_answer_is_told_by_its_message_only() {
        let status =
            kube::core::Status::failure("namespaces \"a\" not found", "NotFound").with_code(404);
        let error = K8sError::Api {
            doing: "create Secret a/b".to_owned(),
            source: Box::new(kube::Error::Api(status.boxed())),
        };
        assert_eq!(
            chain(&error),
            "create Secret a/b: namespaces \"a\" not found"
        );
    }
}
