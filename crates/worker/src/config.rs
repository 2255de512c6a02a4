//! What a worker may use and how long it waits.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use calypte_types::limits;
use calypte_wire::monitor::Platform;

use crate::egress::EgressConfig;
use crate::groups::CpuLimit;

/// Memory that a node hands out when the size of the machine cannot be read.
const MEMORY_MIB_FALLBACK: u64 = 1024;
/// Share of the machine's memory that environments may have, in percent.
const MEMORY_PERCENT: u64 = 80;
/// Share of the machine's memory that templates may have, in percent.
const TEMPLATES_PERCENT: u64 = 10;

/// Settings of one worker. [`WorkerConfig::new`] has sensible values for everything but the paths.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Program of the zygote: normally the running binary itself.
    pub zygote_program: PathBuf,
    /// Its arguments: normally `zygote`.
    pub zygote_arguments: Vec<OsString>,
    /// What executes the functions' code.
    pub platform: Platform,
    /// How egress is started; environments have no way out without it.
    pub egress: Option<EgressConfig>,
    /// The data folder; logs go to `logs/` in it.
    pub data_directory: PathBuf,
    /// Invocations of one account that may run at the same time.
    pub account_concurrency_max: u32,
    /// Environments on the node, idle ones included.
    pub environments_max: usize,
    /// Memory that all environments may have together, in MiB.
    pub memory_mib_max: u64,
    /// Memory that an environment needs besides its function's and `/tmp`, in MiB.
    pub memory_mib_overhead: u64,
    /// Part of an environment's `/tmp` that counts as its memory, in percent. With less than 100 a node whose functions
    /// all fill theirs may run out of memory.
    pub tmp_percent: u32,
    /// What a share of the processors means.
    pub cpu_limit: CpuLimit,
    /// Invocations of one account that may wait.
    pub queue_account_max: usize,
    /// Invocations of all accounts that may wait.
    pub queue_node_max: usize,
    /// How long an invocation may wait for capacity.
    pub queue_wait_max: Duration,
    /// How long a call waits for an environment that has just answered to become free, before a new one is started.
    pub finishing_wait_max: Duration,
    /// Size of all templates together, in MiB; they are in memory.
    pub templates_mib_max: u64,
    /// How long an environment is kept without work.
    pub idle_timeout: Duration,
    /// How long an initialisation may take before its time counts as the invocation's.
    pub init_timeout: Duration,
    /// Output that an environment may print in the long run, in bytes per second; what is over is dropped and counted.
    pub output_bytes_per_s: u64,
    /// Output that an environment may print at once, in bytes.
    pub output_bytes_burst: u64,
}

impl WorkerConfig {
    /// A configuration for this machine: 80 % of its memory for environments.
    pub fn new(data_directory: PathBuf, zygote_program: PathBuf) -> Self {
        Self {
            zygote_program,
            zygote_arguments: vec!["zygote".into()],
            platform: Platform::Kvm,
            egress: None,
            data_directory,
            account_concurrency_max: limits::CONCURRENCY_DEFAULT,
            environments_max: 2_000,
            memory_mib_max: machine_memory_mib().map_or(MEMORY_MIB_FALLBACK, |mib| mib * MEMORY_PERCENT / 100),
            memory_mib_overhead: 8,
            tmp_percent: 100,
            cpu_limit: CpuLimit::default(),
            queue_account_max: 1_000,
            queue_node_max: 10_000,
            queue_wait_max: Duration::from_secs(10),
            finishing_wait_max: Duration::from_millis(20),
            templates_mib_max: machine_memory_mib().unwrap_or(MEMORY_MIB_FALLBACK) * TEMPLATES_PERCENT / 100,
            idle_timeout: Duration::from_secs(300),
            init_timeout: Duration::from_secs(u64::from(limits::INIT_TIMEOUT_S)),
            output_bytes_per_s: 2 * 1024 * 1024,
            output_bytes_burst: 4 * 1024 * 1024,
        }
    }
}

/// `MemTotal` of `/proc/meminfo`, in MiB.
fn machine_memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_hands_out_part_of_the_machine() {
        let machine_mib = machine_memory_mib().expect("Linux tells the size of its memory");
        let config = WorkerConfig::new("/data".into(), "/calypte".into());
        assert!(config.memory_mib_max > 0 && config.memory_mib_max < machine_mib);
    }
}
