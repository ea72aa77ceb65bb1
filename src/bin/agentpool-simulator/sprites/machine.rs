//! The machine of a sprite: a directory and real processes that carry the sprite's mark.
//!
//! There is no VM. A sprite's disk is `<root>/<id>/disk`, `HOME` is `disk/home/sprite`, and the
//! mark `SIM_SPRITE=<root>/<id>` in the environment tells its processes from all others, whatever group
//! they are in. What must not be in a checkpoint lies in `<root>/<id>/run`.

use crate::sprites::shims;
use crate::world::Sim;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// Ends what is left when the simulator is gone, however it went: its standard input closes then.
const WATCHDOG: &str = r#"read -r _
for again in 1 2 3; do
  for f in $(grep -lasF "SIM_ROOT=$1" /proc/[0-9]*/environ); do
    f=${f#/proc/}; kill -9 "${f%/environ}" 2>/dev/null
  done
done
rm -rf "$1""#;

/// Where all machines lie. Made when the first one is needed.
#[derive(Default)]
pub struct Machines {
    root: Mutex<Option<Root>>,
    turns: Mutex<HashMap<String, Turn>>,
}

/// Held while a machine is frozen, thawed, emptied or booted: one after the other.
pub type Turn = Arc<Mutex<()>>;

struct Root {
    path: PathBuf,
    /// Holds the watchdog's standard input open.
    _watchdog: Child,
}

impl Machines {
    /// The turn of one machine.
    pub fn turn(&self, id: &str) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(id.to_owned()).or_default().clone()
    }

    fn root(&self) -> io::Result<PathBuf> {
        let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = &*root {
            return Ok(root.path.clone());
        }
        let path =
            (0..).map(|n| std::env::temp_dir().join(format!("sprites-{}-{n}", std::process::id())));
        let path = path.take(1000).find(|path| fs::create_dir(path).is_ok());
        let path = path.ok_or_else(|| io::Error::other("no directory for sprites can be made"))?;
        shims::write(&path.join("bin"))?;
        // In a group of its own: what a terminal interrupts is not it.
        let watchdog = Command::new("sh")
            .process_group(0)
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let made = root.insert(Root {
            path,
            _watchdog: watchdog,
        });
        Ok(made.path.clone())
    }
}

/// One sprite's machine.
#[derive(Clone)]
pub struct Machine {
    root: PathBuf,
    id: String,
}

impl Machine {
    /// The machine of a sprite. Touches nothing.
    pub fn of(sim: &Sim, id: &str) -> io::Result<Self> {
        Ok(Self {
            root: sim.machines.root()?,
            id: id.to_owned(),
        })
    }

    /// Makes what a disk has at least.
    pub fn prepare(&self) -> io::Result<()> {
        let logs = self.disk().join(".sprite/logs/services");
        let dirs = [self.home(), logs, self.disk().join("tmp"), self.run()];
        dirs.iter().try_for_each(fs::create_dir_all)
    }

    fn base(&self) -> PathBuf {
        self.root.join(&self.id)
    }

    /// The writable disk: what a checkpoint holds.
    pub fn disk(&self) -> PathBuf {
        self.base().join("disk")
    }

    /// `$HOME`.
    pub fn home(&self) -> PathBuf {
        self.disk().join("home/sprite")
    }

    /// What no checkpoint holds.
    pub fn run(&self) -> PathBuf {
        self.base().join("run")
    }

    /// The socket of the API inside.
    pub fn socket(&self) -> PathBuf {
        self.run().join("api.sock")
    }

    fn snapshot(&self, checkpoint: &str) -> PathBuf {
        self.base().join("checkpoints").join(checkpoint)
    }

    /// Where a path of the sprite lies: below its disk, unless it names a place there already.
    pub fn place(&self, path: &str) -> PathBuf {
        let given = Path::new(path);
        if given.starts_with(self.disk()) {
            return given.to_owned();
        }
        self.disk().join(path.trim_start_matches('/'))
    }

    /// A working directory: the sprite's where it has one, else the host's.
    pub fn directory(&self, path: &str) -> PathBuf {
        let own = self.place(path);
        if own.is_dir() || !Path::new(path).is_dir() {
            own
        } else {
            PathBuf::from(path)
        }
    }

    /// A command in its own group, with the sprite's environment and nothing of the host's.
    pub fn command(&self, sim: &Sim, program: &str) -> Command {
        let bin = self.root.join("bin");
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            bin.display()
        );
        let exe = std::env::current_exe().unwrap_or_default();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.home())
            .env("USER", "sprite")
            .env("SHELL", "/bin/bash")
            .env("PATH", path)
            .env("LANG", "C.UTF-8")
            .env("TMPDIR", self.disk().join("tmp"))
            .env("SIM_ROOT", &self.root)
            .env("SIM_SPRITE", self.base())
            .env("SIM_RUN", self.run())
            .env("SIM_EXE", exe)
            .env(
                "SIM_SPEED_PERMILLE",
                format!("{}", (sim.clock.speed() * 1000.0).max(1.0) as u64),
            )
            .current_dir(self.home())
            .process_group(0);
        command
    }

    /// The processes that are alive, zombies left out.
    pub fn processes(&self) -> Vec<u32> {
        let Ok(all) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let pids = all
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.owns(*pid)).collect()
    }

    /// Whether a live process is the sprite's: a zombie has no environment.
    pub fn owns(&self, pid: u32) -> bool {
        let mark = format!("SIM_SPRITE={}", self.base().display());
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|v| v == mark.as_bytes())
    }

    /// Sends a signal to all its processes.
    pub fn signal_all(&self, signal: &str) {
        let pids = self.processes();
        send(signal, &pids.iter().map(u32::to_string).collect::<Vec<_>>());
    }

    /// Ends all its processes, those that are being forked included.
    pub fn kill_all(&self) {
        for _ in 0..20 {
            if self.processes().is_empty() {
                return;
            }
            self.signal_all("KILL");
        }
    }

    /// `/tmp` does not outlive a cold boot.
    pub fn clear_tmp(&self) {
        let _ = fs::remove_dir_all(self.disk().join("tmp"));
        let _ = fs::create_dir_all(self.disk().join("tmp"));
    }

    /// Copies the disk as it is.
    pub fn checkpoint(&self, id: &str) -> io::Result<()> {
        copy_tree(&self.disk(), &self.snapshot(id))
    }

    /// Puts a checkpoint in the place of the disk.
    pub fn restore(&self, id: &str) -> io::Result<()> {
        let (fresh, old) = (self.base().join("disk.new"), self.base().join("disk.old"));
        let _ = fs::remove_dir_all(&fresh);
        copy_tree(&self.snapshot(id), &fresh)?;
        fs::rename(self.disk(), &old)?;
        fs::rename(fresh, self.disk())?;
        fs::remove_dir_all(old)
    }

    /// Forgets a checkpoint.
    pub fn forget(&self, checkpoint: &str) {
        let _ = fs::remove_dir_all(self.snapshot(checkpoint));
    }

    /// Ends its processes and removes all that it has.
    pub fn erase(&self) {
        self.kill_all();
        let _ = fs::remove_dir_all(self.base());
    }
}

/// Signals processes, or groups where the number is negative.
pub fn send(signal: &str, targets: &[String]) {
    if targets.is_empty() {
        return;
    }
    let script = "s=$1; shift; kill -s \"$s\" -- \"$@\" 2>/dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", script, "kill", signal]).args(targets);
    let _ = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
}

/// Copies files, directories and links with their modes; what vanishes meanwhile is left out, and
/// sockets are.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut links = BTreeSet::new();
    for entry in fs::read_dir(from)?.flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            links.extend(fs::read_link(&source).map(|to| (to, target)));
        } else if kind.is_file()
            && let Err(error) = fs::copy(&source, &target)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    for (to, target) in links {
        symlink(to, target)?;
    }
    fs::set_permissions(
        to,
        fs::Permissions::from_mode(fs::metadata(from)?.permissions().mode()),
    )
}
