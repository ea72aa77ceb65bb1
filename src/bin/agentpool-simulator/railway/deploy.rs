//! The life of a deployment as a pure function of time (railway.md 6).
//!
//! A deployment is a list of steps with their moments. Its state is the last step that is not in
//! the future. Whatever happens to it (stop, restart, cancel, a successor) drops the steps that
//! have not come yet and appends others.

use crate::clock::{Ms, NEVER};
use crate::railway::knobs::Timings;
use serde::{Deserialize, Serialize};

/// `DeploymentStatus` of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    Building,
    Crashed,
    Deploying,
    Failed,
    Initializing,
    NeedsApproval,
    Queued,
    Removed,
    Removing,
    Skipped,
    Sleeping,
    Success,
    Waiting,
}

impl Status {
    /// The name in the schema.
    pub fn name(self) -> &'static str {
        match self {
            Status::Building => "BUILDING",
            Status::Crashed => "CRASHED",
            Status::Deploying => "DEPLOYING",
            Status::Failed => "FAILED",
            Status::Initializing => "INITIALIZING",
            Status::NeedsApproval => "NEEDS_APPROVAL",
            Status::Queued => "QUEUED",
            Status::Removed => "REMOVED",
            Status::Removing => "REMOVING",
            Status::Skipped => "SKIPPED",
            Status::Sleeping => "SLEEPING",
            Status::Success => "SUCCESS",
            Status::Waiting => "WAITING",
        }
    }

    /// Still on its way.
    pub fn in_progress(self) -> bool {
        use Status::{Building, Deploying, Initializing, NeedsApproval, Queued, Waiting};
        matches!(
            self,
            Building | Deploying | Initializing | NeedsApproval | Queued | Waiting
        )
    }

    /// A container of it exists.
    pub fn is_live(self) -> bool {
        matches!(self, Status::Success | Status::Sleeping | Status::Crashed)
    }
}

/// One state of a deployment, from a moment on.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// From when.
    pub at: Ms,
    /// The status.
    pub status: Status,
    /// The one container's status; none if there is no container.
    pub container: Option<&'static str>,
    /// `deploymentStopped`; true already while a deployment is in progress.
    pub stopped: bool,
    /// Moves `statusUpdatedAt`.
    pub moves_clock: bool,
    /// The successor that caused it, while that can still be taken back.
    pub cause: Option<String>,
}

impl Step {
    fn new(at: Ms, status: Status, container: Option<&'static str>) -> Self {
        let stopped = !(status == Status::Success && container == Some("RUNNING"));
        Self {
            at,
            status,
            container,
            stopped,
            moves_clock: true,
            cause: None,
        }
    }

    fn within(at: Ms, status: Status, container: Option<&'static str>) -> Self {
        Self {
            moves_clock: false,
            ..Self::new(at, status, container)
        }
    }
}

/// What is special about a deployment, set when it is made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shape {
    /// Built from a repository.
    pub repo: bool,
    /// The image cannot be resolved.
    pub unresolvable: bool,
    /// A health check path is set.
    pub healthcheck: bool,
    /// Stays in this status until cancelled.
    pub stuck: Option<Status>,
    /// Fails at `build`, `pull`, `start` or `healthcheck`.
    pub fail_at: Option<String>,
    /// Ends as this status right after INITIALIZING (`NEEDS_APPROVAL`, `SKIPPED`).
    pub halt: Option<Status>,
    /// CRASHED this long after SUCCESS.
    pub crash_after: Option<Ms>,
    /// A status outside the schema, shown instead of the true one.
    pub unknown_status: Option<String>,
}

/// The steps of one deployment.
#[derive(Clone, Debug)]
pub struct Timeline(Vec<Step>);

impl Timeline {
    /// The steps of a deployment made at `created`, if nothing happens to it.
    pub fn plan(created: Ms, shape: &Shape, timings: &Timings) -> Self {
        let mut line = Self(vec![Step {
            moves_clock: false,
            ..Step::new(created, Status::Initializing, None)
        }]);
        if shape.stuck == Some(Status::Initializing) {
            return line;
        }
        let mut at = created + timings.ms("initializing");
        if let Some(status) = shape.halt {
            line.push(Step::new(at, status, None));
            return line;
        }
        at = line.wait_in_queue(at, shape, timings);
        if at < NEVER {
            line.run(at, shape, timings);
        }
        line
    }

    /// Goes on from approval.
    pub fn approve(&mut self, now: Ms, shape: &Shape, timings: &Timings) {
        self.drop_future(now);
        self.run(
            now,
            &Shape {
                halt: None,
                ..shape.clone()
            },
            timings,
        );
    }

    fn wait_in_queue(&mut self, at: Ms, shape: &Shape, timings: &Timings) -> Ms {
        if let Some(status @ (Status::Queued | Status::Waiting)) = shape.stuck {
            self.push(Step::new(at, status, None));
            return NEVER;
        }
        let queued = timings.ms("queued");
        if queued > 0 {
            self.push(Step::new(at, Status::Queued, None));
        }
        at + queued
    }

    fn run(&mut self, mut at: Ms, shape: &Shape, timings: &Timings) {
        if shape.repo || shape.stuck == Some(Status::Building) {
            self.push(Step::new(at, Status::Building, None));
            if shape.stuck == Some(Status::Building) {
                return;
            }
            at += timings.ms("building");
            if shape.fail_at.as_deref() == Some("build") {
                self.push(Step::new(at, Status::Failed, None));
                return;
            }
        }
        self.push(Step::new(at, Status::Deploying, Some("INITIALIZING")));
        let failure = shape.fail_at.as_deref();
        if shape.unresolvable || failure.is_some_and(|f| f == "pull" || f == "build") {
            let fails = (self.0[0].at + timings.ms("image_unresolvable")).max(at);
            self.push(Step::new(fails, Status::Failed, None));
            return;
        }
        self.push(Step::within(
            at + timings.ms("container_created"),
            Status::Deploying,
            Some("CREATED"),
        ));
        if failure == Some("start") {
            let fails = at + timings.ms("container_running");
            self.push(Step::new(fails, Status::Failed, Some("CRASHED")));
            return;
        }
        self.push(Step::within(
            at + timings.ms("container_running"),
            Status::Deploying,
            Some("RUNNING"),
        ));
        if shape.stuck == Some(Status::Deploying) {
            return;
        }
        let check = if shape.healthcheck {
            timings.ms("healthcheck")
        } else {
            0
        };
        let done = at + timings.ms("deploying") + check;
        if failure == Some("healthcheck") {
            self.push(Step::new(done, Status::Failed, Some("REMOVED")));
            return;
        }
        self.push(Step::new(done, Status::Success, Some("RUNNING")));
        if let Some(after) = shape.crash_after {
            self.push(Step::new(done + after, Status::Crashed, Some("CRASHED")));
        }
    }

    fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    fn drop_future(&mut self, now: Ms) {
        let first = self.0.first().cloned();
        self.0.retain(|step| step.at <= now);
        if self.0.is_empty() {
            self.0.extend(first);
        }
    }

    /// The state at `now`.
    pub fn at(&self, now: Ms) -> &Step {
        let mut state = &self.0[0];
        for step in self.past(now).skip(1) {
            // Once torn down, nothing that was planned before comes true.
            let allowed = match state.status {
                Status::Removed => false,
                Status::Removing => step.status == Status::Removed,
                _ => true,
            };
            if allowed {
                state = step;
            }
        }
        state
    }

    /// The steps that are not in the future.
    pub fn past(&self, now: Ms) -> impl Iterator<Item = &Step> {
        self.0.iter().filter(move |step| step.at <= now)
    }

    /// `statusUpdatedAt`: null until INITIALIZING ends.
    pub fn status_updated_at(&self, now: Ms) -> Option<Ms> {
        self.past(now)
            .filter(|step| step.moves_clock)
            .map(|step| step.at)
            .last()
    }

    /// When it first is SUCCESS, also if that is still ahead.
    pub fn success_at(&self) -> Option<Ms> {
        self.0
            .iter()
            .find(|step| step.status == Status::Success)
            .map(|step| step.at)
    }

    /// The start of the present run of SUCCESS, if it is running.
    pub fn running_since(&self, now: Ms) -> Option<Ms> {
        let mut since = None;
        for step in self.past(now) {
            let runs = step.status == Status::Success && !step.stopped;
            since = if runs { since.or(Some(step.at)) } else { None };
        }
        since
    }

    /// Puts it into a state now and drops what was planned.
    pub fn force(
        &mut self,
        now: Ms,
        status: Status,
        container: Option<&'static str>,
        stopped: Option<bool>,
    ) {
        self.drop_future(now);
        self.0
            .retain(|step| !matches!(step.status, Status::Removing | Status::Removed));
        let mut step = Step::new(now, status, container);
        step.stopped = stopped.unwrap_or(step.stopped);
        self.push(step);
    }

    /// Cancelled, removed or superseded: REMOVING now, REMOVED after `lasts`.
    pub fn remove(&mut self, now: Ms, lasts: Ms) {
        if self.at(now).status == Status::Removed {
            return;
        }
        self.drop_future(now);
        self.push(Step::new(now, Status::Removing, Some("REMOVING")));
        self.push(Step::new(now + lasts, Status::Removed, None));
    }

    /// A successor that reaches SUCCESS at `success` will take its place.
    pub fn supersede(&mut self, now: Ms, success: Ms, cause: &str, timings: &Timings) {
        self.take_back(now, cause);
        let cause = Some(cause.to_owned());
        let removing = success + timings.ms("removing");
        self.push(Step {
            cause: cause.clone(),
            ..Step::new(removing, Status::Removing, Some("REMOVING"))
        });
        let removed = success + timings.ms("removed");
        self.push(Step {
            cause,
            ..Step::new(removed, Status::Removed, None)
        });
        self.0.sort_by_key(|step| step.at);
    }

    /// The successor will not come: drops what it had caused and has not come yet.
    pub fn take_back(&mut self, now: Ms, cause: &str) {
        self.0
            .retain(|step| step.at <= now || step.cause.as_deref() != Some(cause));
    }

    /// Its service is deleted at `at`.
    pub fn end(&mut self, at: Ms) {
        self.0.retain(|step| step.at < at);
        self.push(Step::new(at, Status::Removed, None));
    }

    /// Stopped at `at`; status and its clock stay.
    pub fn stop(&mut self, now: Ms, at: Ms) {
        let planned = self.drain_future(now);
        self.push(Step {
            stopped: true,
            ..Step::within(at, Status::Success, Some("EXITED"))
        });
        self.0
            .extend(planned.into_iter().filter(|step| step.cause.is_some()));
        self.0.sort_by_key(|step| step.at);
    }

    /// Running again at `at`; the status' clock moves.
    pub fn restart(&mut self, now: Ms, at: Ms) {
        let planned = self.drain_future(now);
        self.push(Step::new(at, Status::Success, Some("RUNNING")));
        self.0
            .extend(planned.into_iter().filter(|step| step.cause.is_some()));
        self.0.sort_by_key(|step| step.at);
    }

    /// SLEEPING or back to SUCCESS; the container counts as running all the while.
    pub fn shift(&mut self, at: Ms, status: Status) {
        self.0.push(Step::new(at, status, Some("RUNNING")));
        self.0.sort_by_key(|step| step.at);
    }

    fn drain_future(&mut self, now: Ms) -> Vec<Step> {
        let future = self
            .0
            .iter()
            .filter(|step| step.at > now)
            .cloned()
            .collect();
        self.drop_future(now);
        future
    }
}

#[cfg(test)]
mod tests {
    use super::{Shape, Status, Timeline};
    use crate::railway::knobs::Timings;

    fn states(shape: &Shape, moments: &[i64]) -> Vec<(Status, bool, Option<&'static str>)> {
        let line = Timeline::plan(1000, shape, &Timings::default());
        moments
            .iter()
            .map(|at| {
                let step = line.at(1000 + at);
                (step.status, step.stopped, step.container)
            })
            .collect()
    }

    #[test]
    fn an_image_goes_from_initializing_to_success() {
        use Status::{Deploying, Initializing, Success};
        assert_eq!(
            states(&Shape::default(), &[0, 600, 2100, 3600, 7599, 7600]),
            [
                (Initializing, true, None),
                (Deploying, true, Some("INITIALIZING")),
                (Deploying, true, Some("CREATED")),
                (Deploying, true, Some("RUNNING")),
                (Deploying, true, Some("RUNNING")),
                (Success, false, Some("RUNNING")),
            ]
        );
    }

    #[test]
    fn an_unresolvable_image_fails_after_two_seconds() {
        let shape = Shape {
            unresolvable: true,
            ..Shape::default()
        };
        assert_eq!(states(&shape, &[1999])[0].0, Status::Deploying);
        assert_eq!(
            states(&shape, &[2000, 900_000]),
            [(Status::Failed, true, None); 2]
        );
    }

    #[test]
    fn a_stuck_deployment_stays_until_it_is_removed() {
        for status in [
            Status::Initializing,
            Status::Queued,
            Status::Building,
            Status::Deploying,
        ] {
            let shape = Shape {
                stuck: Some(status),
                ..Shape::default()
            };
            let timings = Timings::default();
            let mut line = Timeline::plan(0, &shape, &timings);
            assert_eq!(line.at(9_000_000).status, status);
            line.remove(9_000_000, 1200);
            assert_eq!(line.at(9_000_000).status, Status::Removing);
            assert_eq!(line.at(9_001_200).status, Status::Removed);
        }
    }

    #[test]
    fn the_status_clock_is_null_at_first_and_a_stop_does_not_move_it() {
        let timings = Timings::default();
        let mut line = Timeline::plan(0, &Shape::default(), &timings);
        assert_eq!(line.status_updated_at(599), None);
        assert_eq!(line.status_updated_at(600), Some(600));
        line.stop(10_000, 11_500);
        assert!(!line.at(11_499).stopped);
        assert!(line.at(11_500).stopped);
        assert_eq!(line.status_updated_at(20_000), Some(7600));
        line.restart(20_000, 20_000);
        assert_eq!(line.status_updated_at(20_000), Some(20_000));
        assert_eq!(line.running_since(20_000), Some(20_000));
    }

    #[test]
    fn a_successor_can_be_taken_back() {
        let timings = Timings::default();
        let mut line = Timeline::plan(0, &Shape::default(), &timings);
        line.supersede(20_000, 30_000, "next", &timings);
        assert_eq!(line.at(30_600).status, Status::Removing);
        line.take_back(20_000, "next");
        assert_eq!(line.at(99_000).status, Status::Success);
    }
}
