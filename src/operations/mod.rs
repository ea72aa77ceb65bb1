//! What HTTP and commands ask for besides claims: drain, kill, replenish and the requests to the controller.
//!
//! May use `api`, `domain` and `k8s`.
