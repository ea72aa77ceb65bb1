//! What processes used so far: CPU time and memory, from /proc. Wall-clock figures are noise where the machine is
//! shared; these are not.

use kube::config::Kubeconfig;

/// The kernel's ticks are hundredths of a second on every Linux we run on.
const TICK_MS: f64 = 10.0;

/// CPU time of a process so far, user and system, in milliseconds; 0 where it is gone.
pub fn cpu(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may have spaces.
    let Some((_, rest)) = text.rsplit_once(") ") else {
        return 0.0;
    };
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap_or_default();
    (ticks(11) + ticks(12)) * TICK_MS
}

/// Memory of a process in KiB: resident now, its peak, and the part of it now that is not pages of the binary.
pub fn memory(pid: u32) -> [u64; 3] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |key: &str| {
        let line = text.lines().find(|l| l.starts_with(key));
        let kib = line.and_then(|l| l.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse().ok()).unwrap_or_default()
    };
    ["VmRSS:", "VmHWM:", "RssAnon:"].map(of)
}

/// The processes of the control plane, where it runs on this machine.
#[derive(Clone, Copy, Default)]
pub struct ControlPlane {
    api_server: Option<u32>,
    etcd: Option<u32>,
}

impl ControlPlane {
    /// Found by the ports in their arguments.
    pub fn of(kubeconfig: &str) -> Self {
        let config = Kubeconfig::read_from(kubeconfig).unwrap();
        let cluster = config.clusters.first().and_then(|c| c.cluster.as_ref());
        let server = cluster.and_then(|c| c.server.clone()).unwrap_or_default();
        let port = server.rsplit(':').next().unwrap_or_default();
        let found = process_with(&format!("--secure-port={port}"));
        let etcd = found.as_ref().and_then(|(_, arguments)| {
            let servers = arguments.iter().find(|a| a.starts_with("--etcd-servers="));
            let address = servers?.split_once('=')?.1.to_owned();
            process_with(&format!("--listen-client-urls={address}"))
        });
        let api_server = found.map(|p| p.0);
        let etcd = etcd.map(|p| p.0);
        Self { api_server, etcd }
    }

    /// CPU time so far of API server and etcd, in milliseconds.
    pub fn cpu(self) -> (f64, f64) {
        let of = |pid: Option<u32>| pid.map(cpu).unwrap_or_default();
        (of(self.api_server), of(self.etcd))
    }
}

fn process_with(argument: &str) -> Option<(u32, Vec<String>)> {
    let all = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    all.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let arguments: Vec<String> = line.split('\0').map(str::to_owned).collect();
        arguments
            .iter()
            .any(|a| a == argument)
            .then_some((pid, arguments))
    })
    .next()
}
