//! To whose account a request goes: what it is for, and where it is counted.
//!
//! A call to a provider makes several requests, some of them deep inside and repeated. Like a span, the account goes
//! along with the call's own task instead of through every signature; a client reads it where it sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use crate::domain::budget::Purpose;

/// Counts requests; clones share the number.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<AtomicU32>);

impl Requests {
    /// How many were sent.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, more: u32) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

struct Account {
    purpose: Purpose,
    requests: Requests,
}

tokio::task_local! {
    static ACCOUNT: Account;
}

/// Makes a call for that purpose; its requests are counted there too.
pub async fn on<T>(purpose: Purpose, requests: &Requests, call: impl Future<Output = T>) -> T {
    let requests = requests.clone();
    ACCOUNT.scope(Account { purpose, requests }, call).await
}

/// Makes a call for that purpose that is no instance's.
pub async fn shared<T>(purpose: Purpose, call: impl Future<Output = T>) -> T {
    on(purpose, &Requests::default(), call).await
}

/// What the present call is for. Without an account it is a look at what everything is judged by.
pub fn purpose() -> Purpose {
    ACCOUNT.try_with(|a| a.purpose).unwrap_or(Purpose::Watch)
}

/// A request of the present call goes out.
pub fn sent() {
    // Err: a call without an account.
    let _ = ACCOUNT.try_with(|a| a.requests.add(1));
}

/// Makes a call and says how many requests it sent, whatever came of it. They go to the present account all the same.
pub(super) async fn counted<T>(call: impl Future<Output = T>) -> (T, u32) {
    let own = Requests::default();
    let result = on(purpose(), &own, call).await;
    let _ = ACCOUNT.try_with(|a| a.requests.add(own.count()));
    (result, own.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_counted_for_its_call_and_its_instance() {
        let instance = Requests::default();
        let call = async {
            assert_eq!(purpose(), Purpose::Release);
            sent();
            sent();
        };
        let ((), made) = on(Purpose::Release, &instance, counted(call)).await;
        assert_eq!((made, instance.count()), (2, 2));
        on(Purpose::Claim, &instance, async { sent() }).await;
        assert_eq!(instance.count(), 3);
        sent();
        assert_eq!((purpose(), instance.count()), (Purpose::Watch, 3));
    }
}
