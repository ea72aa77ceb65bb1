//! What the transports of the providers share: how they connect, the token as it is sent, what is kept for each token,
//! and how a fault is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::outbound::{self, Connections, Fault, Http};

/// Why a transport could not be made; the provider's name is in it.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address is none.
    #[error("the address of the {0} interface is no http(s) URL as it is needed")]
    Url(&'static str),
    /// The token is empty, or has characters that no header can carry.
    #[error(
        "the {0} token is empty or has characters that cannot be sent: is the Secret's value the bare token?"
    )]
    Token(&'static str),
    /// TLS, proxies, …
    #[error("build the HTTP client")]
    Client(#[from] outbound::SetupError),
}

/// Connections to an interface: kept for half a minute, as many as are used.
pub(super) fn connections(limit: Duration, body_max: usize) -> Result<Http, SetupError> {
    Ok(Http::new(Connections {
        connect: Duration::from_secs(10).min(limit),
        idle: (usize::MAX, Duration::from_secs(30)),
        http1_only: false,
        direct: false,
        body_max,
    })?)
}

/// A token with the header's value that carries it.
#[derive(Clone)]
pub(super) struct Token {
    value: HeaderValue,
    secret: SecretString,
}

impl Token {
    /// `scheme` stands before it, such as `Bearer `.
    pub(super) fn new(
        provider: &'static str,
        scheme: &str,
        secret: SecretString,
    ) -> Result<Self, SetupError> {
        let text = secret.expose_secret().trim();
        let value = HeaderValue::from_str(&format!("{scheme}{text}"));
        let (Ok(mut value), false) = (value, text.is_empty()) else {
            return Err(SetupError::Token(provider));
        };
        value.set_sensitive(true);
        Ok(Self { value, secret })
    }

    /// The header's value.
    pub(super) fn value(&self) -> &HeaderValue {
        &self.value
    }

    /// The bare token, to be taken out of texts.
    pub(super) fn bare(&self) -> &str {
        self.secret.expose_secret().trim()
    }
}

/// What a transport keeps for each token: sessions of one token share it. The tokens themselves are not kept.
#[derive(Default)]
pub(super) struct PerToken<T>(Mutex<HashMap<[u8; 32], Arc<T>>>);

impl<T: Default> PerToken<T> {
    /// That of a token, new where it was not known.
    pub(super) fn of(&self, token: &Token) -> Arc<T> {
        let key: [u8; 32] = Sha256::digest(token.bare().as_bytes()).into();
        lock(&self.0).entry(key).or_default().clone()
    }
}

/// The lock, whatever became of who held it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why there is no answer, in words.
pub(super) fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::NotBuilt => "the request could not be built",
        Fault::TimedOut | Fault::NotConnected { timed_out: true } => "no answer in time",
        Fault::NotConnected { timed_out: false } => "no connection",
        Fault::Broken => "the connection broke before the answer was complete",
        Fault::TooLarge => "the answer is too large",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_bare_and_can_be_sent() {
        let made = |text: &str| Token::new("X", "Bearer ", text.to_owned().into());
        let token = made(" tok\n").ok().unwrap();
        assert_eq!(
            (token.value().to_str().unwrap(), token.bare()),
            ("Bearer tok", "tok")
        );
        assert!(token.value().is_sensitive());
        for bad in ["", " \n", "a\nb", "\u{7f}"] {
            let error = made(bad).err().unwrap().to_string();
            assert!(
                error.starts_with("the X token is empty"),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn what_is_kept_is_one_for_each_token() {
        let kept = PerToken::<Mutex<u32>>::default();
        let of = |text: &str| kept.of(&Token::new("X", "", text.to_owned().into()).ok().unwrap());
        *lock(&of("one")) = 7;
        assert_eq!((*lock(&of(" one ")), *lock(&of("two"))), (7, 0));
    }
}
