//! The programs that are played inside a sprite, so that a set-up script runs without a network
//! in a fraction of a second (sprites.md 6.3). First on its PATH.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const ALL: &[(&str, &str)] = &[
    ("sudo", include_str!("shims/sudo.sh")),
    ("apt-get", include_str!("shims/quiet.sh")),
    ("apt", include_str!("shims/quiet.sh")),
    ("corepack", include_str!("shims/quiet.sh")),
    ("npm", include_str!("shims/npm.sh")),
    ("pnpm", include_str!("shims/pnpm.sh")),
    ("bun", include_str!("shims/bun.sh")),
    ("git", include_str!("shims/git.sh")),
    ("node", include_str!("shims/node.sh")),
    ("curl", include_str!("shims/curl.sh")),
    ("sprite-env", include_str!("shims/sprite-env.sh")),
    ("sleep", include_str!("shims/sleep.sh")),
    ("ps", include_str!("shims/ps.sh")),
    ("ss", include_str!("shims/ss.sh")),
];

/// Writes them into a directory.
pub fn write(into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    for (name, text) in ALL {
        let path = into.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
