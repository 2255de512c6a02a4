//! The platform on `ptrace(2)`, for hosts without `/dev/kvm`: user code in processes of the host.
//!
//! Guest frames are pages of an anonymous file (`memory`). An address space is a record of mappings (`space`, `record`).
//! For each address space that it runs, a virtual CPU (`vcpu`) keeps a *stub* process, which has these mappings of the
//! file and nothing else of ours but three small things at its highest addresses (`layout`, `control`). User code runs in the
//! stub under `PTRACE_SYSEMU`: a system call stops the stub and does not happen, and the thread of the virtual CPU, which
//! traces the stub, hears of it. Exceptions stop it as signals. Mappings are made by a loop of our own code in the stub that
//! makes many calls at once. Several virtual CPUs that run one address space have a stub each; they share the frames.
//!
//! What holds the boundary, in this order:
//!
//! - `PTRACE_SYSEMU`: no system call of user code happens.
//! - A seccomp filter (`filter`) serves only calls from our own loop, and only those that it needs: `munmap`, `mmap` of the
//!   frames, and `clone` of a further stub.
//! - A stub (`seed`) has no file open but the frames, no capability, no way to get any, little it may use of the host's
//!   resources, and as root's the user "nobody". It is in the namespaces of the monitor. It cannot be dumped, and it dies
//!   with the virtual CPU's thread.
//!
//! # What this does not isolate
//!
//! A stub is a process of the host and not a virtual machine. User code runs on the host's kernel with the host's page
//! tables: it meets the kernel's code for page faults, exceptions, signals and the scheduler directly, and side channels of
//! processors reach as far as between processes of one machine. A fault in that part of the host's kernel is a way out,
//! where with KVM it is not. Therefore a server refuses more than one account on this platform unless it is told otherwise.
//!
//! Segment bases in the upper half of addresses, 32-bit code and the vsyscall page are not offered: they lead to the
//! exceptions that a processor would raise. The highest pages of the address space can be read by user code, and a part
//! of them written, without consequence for anybody else.

mod calls;
mod control;
mod filter;
mod host;
mod kick;
mod layout;
mod machine;
mod memory;
mod probe;
mod processor;
mod record;
mod seed;
mod shared;
mod space;
mod tracee;
mod vcpu;

pub use machine::{Config, create_machine};
pub use probe::{ProbeError, probe};
