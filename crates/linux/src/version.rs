//! Which Linux a guest sees: `uname(2)` and `/proc` agree on it.

/// `release` of `uname(2)`: a long-term kernel whose system calls language runtimes know.
pub const KERNEL_RELEASE: &str = "6.1.0-calypte";
/// `version` of `uname(2)`.
pub const KERNEL_VERSION: &str = "#1 SMP PREEMPT_DYNAMIC";
