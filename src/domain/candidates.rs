//! Which replica a candidate is for, so that replicas that claim at the same time do not all fight over the oldest
//! agent. Pure.
//!
//! Rendezvous hashing: of the replicas that claim, an instance is for the one that weighs most with it. Nobody has to
//! agree on anything: replicas that know of each other divide the candidates alike, and one more or less moves only its
//! own share. It is a preference: whoever has nothing of its own in view takes what is there.

/// The replicas that claim at this moment, as one of them sees it.
#[derive(Clone, Debug)]
pub struct Preference {
    me: u64,
    others: Vec<u64>,
}

impl Preference {
    /// As `me` sees it; `all` may name it too.
    pub fn new<'a>(me: &str, all: impl IntoIterator<Item = &'a str>) -> Self {
        let me = hash(me);
        let others = all.into_iter().map(hash).filter(|r| *r != me).collect();
        Self { me, others }
    }

    /// Whether the instance is for this replica.
    pub fn is_mine(&self, id: &str) -> bool {
        let instance = hash(id);
        // The replica's own hash decides between equals.
        let weight = |replica: u64| (mixed(replica ^ instance), replica);
        self.others.iter().all(|r| weight(self.me) > weight(*r))
    }

    /// What to choose among, of candidates by id: this replica's own, or all where there is none of its own.
    pub fn share<T>(&self, candidates: Vec<T>, id: impl Fn(&T) -> &str) -> Vec<T> {
        if !candidates.iter().any(|c| self.is_mine(id(c))) {
            return candidates;
        }
        let mut own = candidates;
        own.retain(|c| self.is_mine(id(c)));
        own
    }
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finalizer of splitmix64: ids that differ in one letter must not weigh alike.
fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(count: usize) -> Vec<String> {
        (0..count)
            .map(|i| format!("agentpool-{i}-0badcafe"))
            .collect()
    }

    fn as_each_sees_it(names: &[String]) -> Vec<Preference> {
        let all = || names.iter().map(String::as_str);
        names.iter().map(|me| Preference::new(me, all())).collect()
    }

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("agent{i:07}")).collect()
    }

    #[test]
    fn alone_everything_is_its_own() {
        let alone = Preference::new("a", ["a"]);
        assert!(ids(1_000).iter().all(|id| alone.is_mine(id)));
    }

    #[test]
    fn every_candidate_is_for_exactly_one_replica_and_the_shares_are_even() {
        for count in 1..=5 {
            let all = as_each_sees_it(&replicas(count));
            let mut shares = vec![0; count];
            for id in ids(10_000) {
                let of: Vec<usize> = (0..count).filter(|r| all[*r].is_mine(&id)).collect();
                assert_eq!(of.len(), 1, "{id} is for {of:?}");
                shares[of[0]] += 1;
            }
            let even = 10_000 / count;
            let fair = even * 9 / 10..=even * 11 / 10;
            assert!(shares.iter().all(|s| fair.contains(s)), "{shares:?}");
        }
    }

    /// The trap "replicas choose the same head": of the oldest sixteen every replica has some of its own.
    #[test]
    fn the_head_of_the_queue_is_divided() {
        for count in [2, 3] {
            let all = as_each_sees_it(&replicas(count));
            let mut without = 0;
            for head in ids(16_000).chunks(16) {
                let shares = all.iter().map(|p| p.share(head.to_vec(), |id| id));
                let shares: Vec<Vec<String>> = shares.collect();
                if shares.iter().any(|s| s.len() == head.len()) {
                    without += 1;
                    continue;
                }
                let mut together = shares.concat();
                together.sort();
                assert_eq!(together, head);
            }
            assert!(
                without <= 10,
                "{without} of 1,000 heads are all one replica's"
            );
        }
    }

    #[test]
    fn one_replica_less_moves_its_own_share_only() {
        let names = replicas(4);
        let (four, three) = (as_each_sees_it(&names), as_each_sees_it(&names[..3]));
        for id in ids(1_000) {
            for replica in 0..3 {
                let (before, after) = (four[replica].is_mine(&id), three[replica].is_mine(&id));
                assert!(after || !before, "{id} moved between those that stayed");
                assert!(
                    !after || before || four[3].is_mine(&id),
                    "{id} came from nowhere"
                );
            }
        }
    }

    /// Whoever has none of its own takes another's: nobody is refused while there is one.
    #[test]
    fn everybody_reaches_every_candidate() {
        let all = as_each_sees_it(&replicas(3));
        for id in ids(100) {
            for replica in &all {
                assert_eq!(replica.share(vec![id.as_str()], |id| id), [id.as_str()]);
            }
        }
        let nothing: Vec<&str> = all[0].share(vec![], |id| id);
        assert!(nothing.is_empty());
    }
}
