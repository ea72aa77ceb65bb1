//! Thin, typed helpers over the kube client.
