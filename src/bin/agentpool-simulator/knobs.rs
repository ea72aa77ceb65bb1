//! Named numbers that a peer goes by: the part that is the same for every peer.

/// The knob of that name with its default; Err: it is none, with those that are.
pub fn named<T: Copy>(
    defaults: &[(&'static str, T)],
    name: &str,
) -> Result<(&'static str, T), String> {
    let found = defaults.iter().find(|(known, _)| *known == name);
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = defaults.iter().map(|(n, _)| *n).collect();
        format!("unknown knob {name:?}; known: {}", names.join(", "))
    })
}
