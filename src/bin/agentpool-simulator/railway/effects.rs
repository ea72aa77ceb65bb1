//! What the armed faults that fire mean for one request.

use crate::clock::Ms;
use crate::railway::deploy::{Shape, Status};
use crate::railway::faults::{Fault, Target};

/// What the faults that fired do to a request.
#[derive(Debug, Default)]
pub struct Effects {
    /// A fault of the transport or of the answer.
    pub front: Option<(Fault, String)>,
    /// More latency.
    pub slow: Ms,
    /// List lag of what this request makes or deletes.
    pub lag: Ms,
    /// How long a new service is not found.
    pub fresh: Ms,
    /// Of deployments that this request makes.
    pub shape: Shape,
    /// Stops are carried out and not shown.
    pub stop_unreported: bool,
    /// The token is bad from now on.
    pub revoke: bool,
    /// An unasked deployment follows after so long.
    pub unprompted: Option<Ms>,
    /// How many services a listing shows.
    pub short_list: Option<usize>,
    /// What is removed from outside, after how long, and the new name.
    pub removed: Option<(Target, Ms, Option<String>)>,
}

fn ms(seconds: f64) -> Ms {
    (seconds * 1000.0) as Ms
}

impl Effects {
    /// Whether the operation runs at all.
    pub fn runs(&self) -> bool {
        match &self.front {
            None => true,
            Some((
                Fault::Http5xx { applied, .. }
                | Fault::Timeout { applied, .. }
                | Fault::Reset { applied }
                | Fault::GqlError { applied, .. }
                | Fault::NoData { applied },
                _,
            )) => *applied,
            Some(_) => false,
        }
    }

    /// One more fault has fired, for a root field.
    pub fn add(&mut self, fault: &Fault, field: &str) {
        match fault {
            Fault::Slow { seconds } => self.slow += ms(*seconds),
            Fault::Lag { seconds } => self.lag = self.lag.max(ms(*seconds)),
            Fault::FreshNotFound { seconds } => self.fresh = ms(*seconds),
            Fault::Stuck { status } => self.shape.stuck = Some(*status),
            Fault::FailAt { at } => self.shape.fail_at = Some(at.name().to_owned()),
            Fault::CrashAfter { seconds } => self.shape.crash_after = Some(ms(*seconds)),
            Fault::NeedsApproval {} => self.shape.halt = Some(Status::NeedsApproval),
            Fault::Skipped {} => self.shape.halt = Some(Status::Skipped),
            Fault::UnknownStatus { status } => self.shape.unknown_status = Some(status.clone()),
            Fault::UnpromptedDeploy { seconds } => self.unprompted = Some(ms(*seconds)),
            Fault::StopUnreported {} => self.stop_unreported = true,
            Fault::TokenRevoked {} => self.revoke = true,
            Fault::ShortList { keep } => self.short_list = Some(*keep),
            Fault::RemovedExternally {
                what,
                seconds,
                rename,
            } => {
                self.removed = Some((*what, ms(*seconds), rename.clone()));
            }
            front => {
                self.front
                    .get_or_insert_with(|| (front.clone(), field.to_owned()));
            }
        }
    }
}
