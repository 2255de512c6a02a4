//! The settings of a terminal: `termios(3)`, as the kernel's ABI has them (`asm-generic/termbits.h`).

use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct termios2`. Its beginning is `struct termios`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Serialize, Deserialize)]
#[repr(C)]
pub struct Termios {
    /// What becomes of input.
    pub input: u32,
    /// What becomes of output.
    pub output: u32,
    /// The line's properties, without effect.
    pub control: u32,
    /// How input is given to programs, echo, signals.
    pub local: u32,
    /// The line discipline: always `N_TTY`.
    pub discipline: u8,
    /// Special characters, by `V` number.
    pub characters: [u8; 19],
    /// Input speed in bits a second, without effect.
    pub input_speed: u32,
    /// Output speed in bits a second, without effect.
    pub output_speed: u32,
}

/// Bytes of `struct termios`.
pub const TERMIOS_BYTES: usize = 36;
/// Bytes of `struct termios2`.
pub const TERMIOS2_BYTES: usize = size_of::<Termios>();

const SPEED_DEFAULT: u32 = 38400;
/// Speeds by their number in the control flags (`CBAUD`); those from `CBAUDEX` on follow.
const SPEEDS: [u32; 16] = [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, SPEED_DEFAULT];
const SPEEDS_EXTRA: [u32; 15] = [
    57600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000, 2_500_000,
    3_000_000, 3_500_000, 4_000_000,
];

impl Default for Termios {
    /// As Linux's new terminals are (`tty_std_termios`).
    fn default() -> Self {
        let mut characters = [0; 19];
        for (index, value) in [
            (libc::VINTR, 3),
            (libc::VQUIT, 0x1c),
            (libc::VERASE, 0x7f),
            (libc::VKILL, 0x15),
            (libc::VEOF, 4),
            (libc::VMIN, 1),
            (libc::VSTART, 0x11),
            (libc::VSTOP, 0x13),
            (libc::VSUSP, 0x1a),
            (libc::VREPRINT, 0x12),
            (libc::VDISCARD, 0x0f),
            (libc::VWERASE, 0x17),
            (libc::VLNEXT, 0x16),
        ] {
            characters[index] = value;
        }
        Self {
            input: libc::ICRNL | libc::IXON,
            output: libc::OPOST | libc::ONLCR,
            control: libc::B38400 | libc::CS8 | libc::CREAD,
            local: libc::ISIG
                | libc::ICANON
                | libc::ECHO
                | libc::ECHOE
                | libc::ECHOK
                | libc::ECHOCTL
                | libc::ECHOKE
                | libc::IEXTEN,
            discipline: 0,
            characters,
            input_speed: SPEED_DEFAULT,
            output_speed: SPEED_DEFAULT,
        }
    }
}

impl Termios {
    /// Whether input is given in lines.
    pub fn is_canonical(&self) -> bool {
        self.has_local(libc::ICANON)
    }

    /// Whether a flag of the input is set.
    pub fn has_input(&self, flag: u32) -> bool {
        self.input & flag != 0
    }

    /// Whether a flag of the output is set.
    pub fn has_output(&self, flag: u32) -> bool {
        self.output & flag != 0
    }

    /// Whether a local flag is set.
    pub fn has_local(&self, flag: u32) -> bool {
        self.local & flag != 0
    }

    /// Whether a byte is one of the special characters. Zero switches one off.
    pub fn is_character(&self, byte: u8, index: usize) -> bool {
        byte != 0 && self.characters[index] == byte
    }

    /// Bytes that a read in raw mode waits for.
    pub fn minimum(&self) -> usize {
        self.characters[libc::VMIN].into()
    }

    /// How long a read in raw mode waits, tenths of a second; 0 for ever.
    pub fn time_tenths(&self) -> u64 {
        self.characters[libc::VTIME].into()
    }

    /// What a pseudo-terminal makes of settings: eight bits without parity, and speeds as the control flags say unless
    /// they leave them open (`BOTHER`).
    pub fn adjusted(mut self) -> Self {
        self.control = self.control & !(libc::CSIZE | libc::PARENB) | libc::CS8 | libc::CREAD;
        self.discipline = 0;
        let number = (self.control & libc::CBAUD & !libc::CBAUDEX) as usize;
        let speed = match self.control & libc::CBAUDEX {
            0 => SPEEDS.get(number),
            _ => number.checked_sub(1).and_then(|number| SPEEDS_EXTRA.get(number)),
        };
        if let Some(speed) = speed {
            self.input_speed = *speed;
            self.output_speed = *speed;
        }
        self
    }
}
