//! Every system call: number, name, handler. Dispatch, the log of unknown calls and the documentation derive from it.

use crate::call::Call;
use crate::outcome::SysResult;

/// One system call.
#[derive(Clone, Copy)]
pub struct SystemCall {
    /// Number in `rax` (`arch/x86/entry/syscalls/syscall_64.tbl`).
    pub number: u16,
    /// Name as in section 2 of the manual.
    pub name: &'static str,
    /// Serves it.
    pub handler: fn(&mut Call<'_>) -> SysResult,
}
