//! Every limit that more than one crate must know, with its unit in the name.
//!
//! Values are those of AWS Lambda's public quotas unless the line says otherwise.

/// Smallest memory size of a function.
pub const MEMORY_MIB_MIN: u32 = 128;
/// Largest memory size of a function.
pub const MEMORY_MIB_MAX: u32 = 10_240;
/// Memory size when none is given.
pub const MEMORY_MIB_DEFAULT: u32 = 128;
/// Shortest time limit of a function.
pub const TIMEOUT_S_MIN: u32 = 1;
/// Longest time limit of a function.
pub const TIMEOUT_S_MAX: u32 = 900;
/// Time limit when none is given.
pub const TIMEOUT_S_DEFAULT: u32 = 3;
/// Smallest `/tmp`.
pub const EPHEMERAL_STORAGE_MIB_MIN: u32 = 512;
/// Largest `/tmp`.
pub const EPHEMERAL_STORAGE_MIB_MAX: u32 = 10_240;
/// Largest request and largest response of a synchronous invocation.
pub const PAYLOAD_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Largest zip file accepted in a request.
pub const ZIP_BYTES_MAX: usize = 50 * 1024 * 1024;
/// Largest sum of the sizes of a zip file's members once extracted.
pub const CODE_BYTES_MAX: u64 = 250 * 1024 * 1024;
/// Most members of a zip file (ours: bounds the work that a zip of empty files causes).
pub const CODE_FILES_MAX: usize = 100_000;
/// Largest sum of the lengths of all names and values of a function's environment variables.
pub const ENVIRONMENT_BYTES_MAX: usize = 4 * 1024;
/// Bytes of log returned with `LogType=Tail`.
pub const LOG_TAIL_BYTES: usize = 4 * 1024;
/// Time that a function's initialisation may take before it is repeated inside the first invocation.
pub const INIT_TIMEOUT_S: u32 = 10;
/// File descriptors of one environment.
pub const FILE_DESCRIPTORS_MAX: usize = 1024;
/// Processes and threads of one environment.
pub const THREADS_MAX: usize = 1024;
/// File descriptors of a monitor: those of its guest's open files, and of directories that it has looked into (ours).
pub const MONITOR_DESCRIPTORS_MAX: u64 = 4096;
/// Memory of a monitor besides its guest's memory and `/tmp`: page tables, buffers, stacks (ours).
pub const MONITOR_OVERHEAD_MIB: u32 = 64;
/// Concurrent environments of one account when nothing else is configured.
pub const CONCURRENCY_DEFAULT: u32 = 1_000;

const _: () = assert!(MEMORY_MIB_MIN <= MEMORY_MIB_DEFAULT && MEMORY_MIB_DEFAULT <= MEMORY_MIB_MAX);
const _: () = assert!(TIMEOUT_S_MIN <= TIMEOUT_S_DEFAULT && TIMEOUT_S_DEFAULT <= TIMEOUT_S_MAX);
const _: () = assert!((ZIP_BYTES_MAX as u64) < CODE_BYTES_MAX);
