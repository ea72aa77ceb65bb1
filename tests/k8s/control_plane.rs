//! The control plane itself: what every other test here relies on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};

use crate::support::cluster::Cluster;

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("key".into(), "value".into())])),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn stores_reads_and_deletes() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("control-plane").await;
    let maps = Api::<ConfigMap>::namespaced(cluster.client().await, &namespace);

    let params = PostParams::default();
    maps.create(&params, &config_map("a")).await.unwrap();
    let out = cluster.kubectl([
        "get",
        "configmap",
        "a",
        "-o=jsonpath={.data.key}",
        "-n",
        &namespace,
    ]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "value");

    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn own_api_server_stops_and_starts() {
    let cluster = Cluster::own("restart");
    let maps = Api::<ConfigMap>::namespaced(cluster.client().await, "default");
    maps.create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();

    cluster.stop_api_server();
    assert!(maps.get("a").await.is_err());
    cluster.start_api_server();
    assert!(maps.get("a").await.is_ok());
}
