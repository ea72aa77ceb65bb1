//! Events: transitions told to people. A failing event is logged and never fails what it tells of.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::api::condition::Reason;

/// Publishes events under one reporter.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events as the named controller, of the named process.
    pub fn new(client: Client, controller: &str, instance: &str) -> Self {
        let reporter = Reporter {
            controller: controller.to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Publishes a transition. `note` says what happened and what happens next, without secrets.
    pub async fn publish<K>(
        &self,
        object: &K,
        warning: bool,
        reason: Reason,
        action: &str,
        note: &str,
    ) where
        K: Resource<DynamicType = ()>,
    {
        let reference: ObjectReference = object.object_ref(&());
        let event = Event {
            type_: if warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.as_str().to_owned(),
            note: Some(note.chars().take(900).collect()),
            action: action.to_owned(),
            secondary: None,
        };
        let sent =
            tokio::time::timeout(super::CALL_LIMIT, self.recorder.publish(&event, &reference))
                .await;
        if let Ok(Err(error)) = sent {
            tracing::debug!(reason = reason.as_str(), %error, "event not published");
        }
    }
}
