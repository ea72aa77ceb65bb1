//! The `agentpool` binary.
fn main() {
    for crd in agentpool::api::crds() {
        println!("---\n{}", serde_yaml::to_string(&crd).unwrap_or_default());
    }
}
