//! The Secrets whose values reach a pool's agents: a digest of them tells that they were rotated.

use std::time::Duration;

use secrecy::ExposeSecret;

use crate::clock::Monotonic;
use crate::controllers::Ctx;
use crate::domain::template::Template;
use crate::domain::variables;
use crate::k8s::secret;

/// How often they are read at most.
const EVERY: Duration = Duration::from_secs(5);

/// What was read last: when, of which template, and the digests.
pub(super) type Known = Option<(Monotonic, String, Option<String>)>;

/// The digests of the values now, as the pool's status records them; `None` where there are none, or they cannot be
/// read: what is not known drifts from nothing.
pub(super) async fn digests(
    namespace: &str,
    key: &(String, String),
    template: &Template,
    ctx: &Ctx,
) -> Option<String> {
    let references = variables::reaching(template);
    if references.is_empty() {
        return None;
    }
    let (now, hash) = (ctx.clock.monotonic(), template.hash());
    let known = ctx.with_pool_memory(key, |m| m.secrets.clone());
    if let Some((at, of, digests)) = known
        && of == hash
        && now.saturating_sub(at) < EVERY
    {
        return digests;
    }
    let digests = read(namespace, template, ctx).await;
    ctx.with_pool_memory(key, |m| m.secrets = Some((now, hash, digests.clone())));
    digests
}

/// The same, read now.
pub(in crate::controllers) async fn read(
    namespace: &str,
    template: &Template,
    ctx: &Ctx,
) -> Option<String> {
    let references = variables::reaching(template);
    let mut values = Vec::with_capacity(references.len());
    for reference in references {
        let value = secret::value(&ctx.client, namespace, reference).await;
        values.push((reference.name.as_str(), reference.key.as_str(), value.ok()?));
    }
    let root = ctx.root_keys.get().filter(|_| !values.is_empty())?;
    let exposed = values
        .iter()
        .map(|(name, key, value)| [*name, *key, value.expose_secret()]);
    Some(root.digests(&exposed.collect::<Vec<_>>()))
}
