//! The pool's public address: open before the operator is, which has to be told of it when it starts.

use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::support::world::{POOL, World};
use serde_json::Value;

/// An address that leads to wherever it is told to; nowhere at first.
pub struct Door {
    /// Its base address.
    pub url: String,
    behind: Arc<Mutex<Option<String>>>,
}

impl Door {
    /// Opens one, for as long as the test's runtime lives.
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let behind: Arc<Mutex<Option<String>>> = Arc::default();
        let leads_to = behind.clone();
        tokio::spawn(async move {
            while let Ok((mut outside, _)) = listener.accept().await {
                let Some(address) = leads_to.lock().unwrap().clone() else {
                    continue;
                };
                tokio::spawn(async move {
                    let mut inside = TcpStream::connect(address).await?;
                    copy_bidirectional(&mut outside, &mut inside).await
                });
            }
        });
        Self { url, behind }
    }

    /// From now on it leads to the API of the world's operator.
    pub fn leads_to(&self, world: &mut World) {
        let api = world
            .operator()
            .api
            .trim_start_matches("http://")
            .to_owned();
        *self.behind.lock().unwrap() = Some(api);
    }

    /// Starts the world's operator, told of this address.
    pub fn start_operator(&self, world: &mut World) {
        // Times that a process counts begin anew with each term: none is to be lost on a slow machine.
        let extra = [
            ("AGENTPOOL_PUBLIC_URL", &*self.url),
            ("AGENTPOOL_LEASE_SECONDS", "60"),
        ];
        world.start_operator(&extra);
        self.leads_to(world);
    }
}

/// A world whose agents can call back, with a pool of that spec, filled.
pub async fn open_world(name: &str, spec: Value) -> (World, Door) {
    let (mut world, door) = (World::bare(name).await, Door::open().await);
    door.start_operator(&mut world);
    let pool = world.create_pool(POOL, spec).await;
    world
        .wait_idle(usize::try_from(pool.spec.min_idle).unwrap())
        .await;
    (world, door)
}
