//! Linux as user programs see it: system calls, memory areas, files, sockets, threads and time, over the `platform`
//! contract. Safe Rust; nothing here knows what executes guest code.
//!
//! # Shape
//!
//! All state of one guest is a [`kernel::Kernel`] behind one lock ([`guest::Guest`]). A thread of the monitor per virtual
//! CPU runs [`vcpu`]'s loop: choose a runnable guest thread, run it with the lock released, take the lock, serve the
//! exit. System calls are listed in [`table`]; each family is a file under [`sys`].
//!
//! # No handler sleeps
//!
//! A handler returns a result or [`outcome::Stop::Block`] with a [`outcome::Wait`]: the objects it waits for and a
//! deadline. The thread is then parked, and **the handler is run again from the start** when one of the objects
//! changes, the deadline passes or a signal arrives. So a blocked thread is plain data: its registers and its wait.
//!
//! Neighbours: `monitor` creates the guest, implements [`service::LoopbackService`] and moves the guest's output.

#![forbid(unsafe_code)]

pub mod call;
pub mod clock;
pub mod console;
pub mod credentials;
pub mod elf;
pub mod errno;
pub mod exec;
pub mod file;
pub mod frames;
pub mod fs;
pub mod guest;
pub mod kernel;
pub mod lifecycle;
pub mod limits;
pub mod mm;
pub mod net;
pub mod notifier;
pub mod outcome;
pub mod process;
pub mod profile;
mod quota;
pub mod random;
pub mod sched;
pub mod service;
pub mod signal;
mod signal_frame;
pub mod state;
pub mod sys;
pub mod table;
pub mod thread;
pub mod timers;
pub mod tty;
pub mod vcpu;
pub mod vdso;
pub mod version;
pub mod waits;
