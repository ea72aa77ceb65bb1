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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    /// Join requests that come while others are being told are told the next time.
    #[test]
    fn no_join_request_is_lost() {
        let root = std::env::temp_dir().join(format!("shims-{}", std::process::id()));
        let (bin, run) = (root.join("bin"), root.join("run"));
        super::write(&bin).expect("written");
        fs::create_dir_all(root.join("cli/bin")).expect("made");
        fs::create_dir_all(&run).expect("made");
        let tool = root.join("cli/bin/run.js");
        fs::write(&tool, "").expect("written");
        fs::write(run.join("join-requests"), "2").expect("written");
        // The reader is slow: another request comes when it has just read.
        let slow = "#!/bin/bash\n/bin/cat \"$@\"\n[ -e \"$SIM_RUN/came\" ] || { touch \"$SIM_RUN/came\"; printf 1 >\"$SIM_RUN/join-requests\"; }\n";
        fs::copy(bin.join("node"), bin.join("cat")).expect("executable");
        fs::write(bin.join("cat"), slow).expect("written");
        let told = || {
            let path = format!("{}:/usr/bin:/bin", bin.display());
            let mut node = Command::new(bin.join("node"));
            node.arg(&tool)
                .arg("conversations")
                .env("PATH", path)
                .env("SIM_RUN", &run);
            let output = node.output().expect("it runs").stdout;
            let told: serde_json::Value = serde_json::from_slice(&output).expect("JSON");
            told["processed"].as_i64()
        };
        let told = [told(), told(), told()];
        fs::remove_dir_all(&root).expect("removed");
        assert_eq!(told, [Some(2), Some(1), Some(0)]);
    }
}
