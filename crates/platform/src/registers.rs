//! The state of a guest thread while no virtual CPU runs it.

use serde::{Deserialize, Serialize};

/// General registers, instruction pointer, flags and the two segment bases of 64-bit user code.
///
/// Names and meaning: AMD64 Architecture Programmer's Manual, volume 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the architecture's own names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// Floating-point and vector registers in the layout of the `XSAVE` area (Intel SDM volume 1, chapter 13): at least
/// the 512 bytes of the `FXSAVE` area and the 64 bytes of the header. The length is the platform's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FpuState(#[serde(with = "serde_bytes")] pub Box<[u8]>);
