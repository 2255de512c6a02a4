//! The line discipline `N_TTY` (`termios(3)`): what is between the bytes of the master and those of the slave. Pure: bytes
//! in, bytes and signals out.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::signal::Signal;
use crate::tty::termios::Termios;

/// Most bytes that wait for the slave, a line being edited included.
pub const INPUT_BYTES_MAX: usize = 4095;
/// Most bytes that the slave can have written and the master not read.
pub const OUTPUT_BYTES_MAX: usize = 4096;
/// Most bytes that wait for the master, echo included; what is echoed beyond that is lost.
const ECHO_BYTES_MAX: usize = 2 * OUTPUT_BYTES_MAX;
/// Most bytes that one byte of output becomes: a tab.
const TAB_COLUMNS: usize = 8;
const BELL: u8 = 7;
const BACKSPACE: u8 = 8;
const DELETE: u8 = 0x7f;

/// The discipline of one terminal.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Discipline {
    termios: Termios,
    /// Bytes that can be read.
    ready: VecDeque<u8>,
    /// In canonical mode the lengths of the lines in them; an end of file is none of their bytes.
    ends: VecDeque<u32>,
    /// The line being edited.
    line: Vec<u8>,
    /// Bytes for the master.
    output: VecDeque<u8>,
    /// Where the cursor is, and where it was when the line began.
    column: u32,
    line_column: u32,
    /// The next byte means itself (`VLNEXT`).
    is_next_literal: bool,
    /// Output is held (`VSTOP`).
    is_stopped: bool,
}

/// What a key does that takes something back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Erase {
    Character,
    Word,
    Line,
}

impl Discipline {
    /// The settings.
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Changes the settings. What waits can be read at once in the new way.
    pub fn set_termios(&mut self, termios: Termios) {
        let was_canonical = self.termios.is_canonical();
        self.termios = termios.adjusted();
        if was_canonical != self.termios.is_canonical() {
            self.ready.extend(self.line.drain(..));
            self.ends.clear();
            if self.termios.is_canonical() && !self.ready.is_empty() {
                self.ends.push_back(self.ready.len() as u32);
            }
            self.is_next_literal = false;
        }
        if !self.termios.has_input(libc::IXON) {
            self.is_stopped = false;
        }
    }

    /// Holds output or lets it go on.
    pub fn set_stopped(&mut self, is_stopped: bool) {
        self.is_stopped = is_stopped;
    }

    /// Forgets what the slave has not read.
    pub fn flush_input(&mut self) {
        self.ready.clear();
        self.ends.clear();
        self.line.clear();
    }

    /// Forgets what the master has not read.
    pub fn flush_output(&mut self) {
        self.output.clear();
    }

    /// Bytes that the slave can read.
    pub fn input_length(&self) -> usize {
        self.ready.len()
    }

    /// Whether a read of the slave gives something that `wanted` bytes are enough for.
    pub fn is_readable(&self, wanted: usize) -> bool {
        if self.termios.is_canonical() { !self.ends.is_empty() } else { self.ready.len() >= wanted.max(1) }
    }

    /// Bytes that the master can read.
    pub fn output_length(&self) -> usize {
        self.output.len()
    }

    /// Whether the slave can write.
    pub fn has_output_room(&self) -> bool {
        !self.is_stopped && self.output.len() + TAB_COLUMNS <= OUTPUT_BYTES_MAX
    }

    /// Whether the master can write: always as long as the slave has no line to read, or a line could never be ended.
    pub fn has_input_room(&self) -> bool {
        let is_first_line = self.termios.is_canonical() && self.ends.is_empty();
        is_first_line || self.ready.len() + self.line.len() < INPUT_BYTES_MAX && self.ends.len() < INPUT_BYTES_MAX
    }

    /// The slave reads: a part of a line, or in raw mode what there is. `EAGAIN` if there is nothing.
    pub fn read(&mut self, length: usize) -> Result<Vec<u8>, Errno> {
        if length == 0 {
            return Ok(Vec::new());
        }
        if !self.termios.is_canonical() {
            if self.ready.is_empty() {
                return Err(Errno::EAGAIN);
            }
            return Ok(self.ready.drain(..length.min(self.ready.len())).collect());
        }
        let end = self.ends.front_mut().ok_or(Errno::EAGAIN)?;
        let taken = length.min(*end as usize);
        *end -= taken as u32;
        if *end == 0 {
            self.ends.pop_front();
        }
        Ok(self.ready.drain(..taken.min(self.ready.len())).collect())
    }

    /// The master reads. `EAGAIN` if there is nothing.
    pub fn read_output(&mut self, length: usize) -> Result<Vec<u8>, Errno> {
        if self.output.is_empty() && length > 0 {
            return Err(Errno::EAGAIN);
        }
        Ok(self.output.drain(..length.min(self.output.len())).collect())
    }

    /// The slave writes as much as there is room for. `EAGAIN` if that is nothing.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut taken = 0;
        for byte in bytes {
            if !self.has_output_room() {
                break;
            }
            self.put(*byte);
            taken += 1;
        }
        if taken == 0 && !bytes.is_empty() { Err(Errno::EAGAIN) } else { Ok(taken) }
    }

    /// The master writes as much as there is room for: how many bytes, and the signals that they are. `EAGAIN` if that is
    /// nothing.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(usize, Vec<Signal>), Errno> {
        let mut signals = Vec::new();
        let mut taken = 0;
        for byte in bytes {
            if !self.has_input_room() {
                break;
            }
            signals.extend(self.receive_byte(*byte));
            taken += 1;
        }
        if taken == 0 && !bytes.is_empty() { Err(Errno::EAGAIN) } else { Ok((taken, signals)) }
    }

    fn receive_byte(&mut self, byte: u8) -> Option<Signal> {
        let termios = self.termios;
        let byte = if termios.has_input(libc::ISTRIP) { byte & 0x7f } else { byte };
        if std::mem::take(&mut self.is_next_literal) {
            self.take_plain(byte);
            return None;
        }
        if termios.has_input(libc::IXON) && self.controls_flow(byte) {
            return None;
        }
        if termios.has_local(libc::ISIG)
            && let Some(signal) = self.signal(byte)
        {
            if !termios.has_local(libc::NOFLSH) {
                self.flush_input();
            }
            if termios.has_local(libc::ECHO) {
                self.echo(byte);
            }
            return Some(signal);
        }
        let byte = match byte {
            b'\r' if termios.has_input(libc::IGNCR) => return None,
            b'\r' if termios.has_input(libc::ICRNL) => b'\n',
            b'\n' if termios.has_input(libc::INLCR) => b'\r',
            byte => byte,
        };
        if !(termios.is_canonical() && self.edits(byte)) {
            self.take_plain(byte);
        }
        None
    }

    fn signal(&self, byte: u8) -> Option<Signal> {
        let keys = [(libc::VINTR, libc::SIGINT), (libc::VQUIT, libc::SIGQUIT), (libc::VSUSP, libc::SIGTSTP)];
        let (_, number) = keys.into_iter().find(|(index, _)| self.termios.is_character(byte, *index))?;
        Signal::new(number)
    }

    fn controls_flow(&mut self, byte: u8) -> bool {
        let is_start = self.termios.is_character(byte, libc::VSTART);
        let is_stop = self.termios.is_character(byte, libc::VSTOP);
        if is_start || is_stop {
            self.is_stopped = is_stop && !(is_start && self.is_stopped);
            return true;
        }
        if self.termios.has_input(libc::IXANY) {
            self.is_stopped = false;
        }
        false
    }

    /// Serves the keys that edit and end lines: whether the byte was one.
    fn edits(&mut self, byte: u8) -> bool {
        let termios = self.termios;
        let is = |index| termios.is_character(byte, index);
        let is_extended = termios.has_local(libc::IEXTEN);
        let is_echoed = termios.has_local(libc::ECHO);
        if is(libc::VERASE) {
            self.erase(Erase::Character);
        } else if is(libc::VKILL) {
            self.erase(Erase::Line);
        } else if is(libc::VWERASE) && is_extended {
            self.erase(Erase::Word);
        } else if is(libc::VLNEXT) && is_extended {
            self.is_next_literal = true;
            if is_echoed && termios.has_local(libc::ECHOCTL) {
                self.echo_bytes(&[b'^', BACKSPACE]);
            }
        } else if is(libc::VREPRINT) && is_echoed && is_extended {
            self.echo(byte);
            self.echo_bytes(b"\n");
            for byte in self.line.clone() {
                self.echo(byte);
            }
        } else if byte == b'\n' {
            if is_echoed || termios.has_local(libc::ECHONL) {
                self.echo_bytes(b"\n");
            }
            self.end_line(Some(byte));
        } else if is(libc::VEOF) {
            self.end_line(None);
        } else if is(libc::VEOL) || is(libc::VEOL2) && is_extended {
            if is_echoed {
                self.echo(byte);
            }
            self.end_line(Some(byte));
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, byte: Option<u8>) {
        self.line.extend(byte);
        self.ends.push_back(self.line.len() as u32);
        self.ready.extend(self.line.drain(..));
    }

    /// A byte that means itself.
    fn take_plain(&mut self, byte: u8) {
        if self.ready.len() + self.line.len() >= INPUT_BYTES_MAX {
            if self.termios.has_input(libc::IMAXBEL) {
                self.echo_bytes(&[BELL]);
            }
            return;
        }
        if self.line.is_empty() {
            self.line_column = self.column;
        }
        if self.termios.has_local(libc::ECHO) {
            if byte == b'\n' { self.echo_bytes(b"\n") } else { self.echo(byte) }
        }
        let count = if byte == 0xff && self.termios.has_input(libc::PARMRK) { 2 } else { 1 };
        let taken = std::iter::repeat_n(byte, count);
        if self.termios.is_canonical() { self.line.extend(taken) } else { self.ready.extend(taken) }
    }

    fn erase(&mut self, what: Erase) {
        let termios = self.termios;
        if self.line.is_empty() {
            return;
        }
        if what == Erase::Line {
            if !termios.has_local(libc::ECHO) {
                return self.line.clear();
            }
            let is_visible = [libc::ECHOK, libc::ECHOKE, libc::ECHOE].into_iter().all(|flag| termios.has_local(flag));
            if !is_visible {
                self.line.clear();
                self.echo(termios.characters[libc::VKILL]);
                if termios.has_local(libc::ECHOK) {
                    self.echo_bytes(b"\n");
                }
                return;
            }
        }
        let mut has_seen_word = false;
        while let Some(last) = self.line.last().copied() {
            let is_word = last.is_ascii_alphanumeric() || last == b'_';
            if what == Erase::Word && has_seen_word && !is_word {
                break;
            }
            has_seen_word |= is_word;
            self.line.pop();
            if termios.has_input(libc::IUTF8) {
                // What has gone was the last byte of a character; the others go with it.
                let mut gone = last;
                while gone & 0xc0 == 0x80
                    && let Some(byte) = self.line.pop()
                {
                    gone = byte;
                }
            }
            if termios.has_local(libc::ECHO) {
                self.show_erased(last, what);
            }
            if what == Erase::Character {
                break;
            }
        }
    }

    fn show_erased(&mut self, byte: u8, what: Erase) {
        let is_marked = self.termios.has_local(libc::ECHOCTL);
        if what == Erase::Character && !self.termios.has_local(libc::ECHOE) {
            self.echo(self.termios.characters[libc::VERASE]);
        } else if byte == b'\t' {
            let width = |column: u32, byte: &u8| match byte {
                b'\t' => column | 7,
                byte if byte.is_ascii_control() && is_marked => column + 1,
                byte if byte.is_ascii_control() => column.wrapping_sub(1),
                _ => column,
            };
            let column = self.line.iter().fold(self.line_column, |column, byte| width(column, byte).wrapping_add(1));
            self.echo_bytes(&vec![BACKSPACE; TAB_COLUMNS - column as usize % TAB_COLUMNS]);
        } else {
            let is_control = byte.is_ascii_control();
            let columns = if is_control && is_marked { 2 } else { usize::from(!is_control) };
            for _ in 0..columns {
                self.echo_bytes(&[BACKSPACE, b' ', BACKSPACE]);
            }
        }
    }

    /// Echoes a byte, a control character so that it can be seen (`ECHOCTL`).
    fn echo(&mut self, byte: u8) {
        if self.termios.has_local(libc::ECHOCTL) && byte.is_ascii_control() && byte != b'\t' {
            self.echo_bytes(&[b'^', byte ^ 0x40]);
        } else {
            self.echo_bytes(&[byte]);
        }
    }

    fn echo_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.output.len() + TAB_COLUMNS <= ECHO_BYTES_MAX {
                self.put(*byte);
            }
        }
    }

    /// A byte on its way to the master (`OPOST`).
    fn put(&mut self, byte: u8) {
        let termios = self.termios;
        if !termios.has_output(libc::OPOST) {
            return self.output.push_back(byte);
        }
        match byte {
            b'\n' => {
                if termios.has_output(libc::ONLCR) {
                    self.output.push_back(b'\r');
                }
                if termios.has_output(libc::ONLCR | libc::ONLRET) {
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' if termios.has_output(libc::ONOCR) && self.column == 0 => {}
            b'\r' if termios.has_output(libc::OCRNL) => {
                if termios.has_output(libc::ONLRET) {
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' => {
                self.column = 0;
                self.output.push_back(b'\r');
            }
            b'\t' => {
                let width = TAB_COLUMNS - self.column as usize % TAB_COLUMNS;
                self.column = self.column.wrapping_add(width as u32);
                if termios.output & libc::TABDLY == libc::XTABS {
                    self.output.extend(std::iter::repeat_n(b' ', width));
                } else {
                    self.output.push_back(b'\t');
                }
            }
            BACKSPACE => {
                self.column = self.column.saturating_sub(1);
                self.output.push_back(byte);
            }
            byte => {
                let is_continuation = termios.has_input(libc::IUTF8) && byte & 0xc0 == 0x80;
                if byte >= b' ' && byte != DELETE && !is_continuation {
                    self.column = self.column.wrapping_add(1);
                }
                let is_raised = termios.has_output(libc::OLCUC);
                self.output.push_back(if is_raised { byte.to_ascii_uppercase() } else { byte });
            }
        }
    }

    /// Whether the parts fit the limits that they keep: for one that was saved.
    pub(crate) fn is_sound(&self) -> bool {
        let in_lines = self.ends.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length as usize));
        // The end of a line may be one more, and a doubled byte another.
        self.ready.len() + self.line.len() <= INPUT_BYTES_MAX + 2
            && self.output.len() <= ECHO_BYTES_MAX
            && in_lines.is_some_and(|length| length <= self.ready.len())
            && self.ends.len() <= INPUT_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(discipline: &mut Discipline, bytes: &[u8]) -> String {
        discipline.receive(bytes).unwrap();
        let shown = discipline.read_output(usize::MAX).unwrap_or_default();
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn lines_are_edited_before_they_are_read() {
        let mut discipline = Discipline::default();
        assert_eq!(typed(&mut discipline, b"ab\x7fc"), "ab\x08 \x08c");
        assert_eq!(discipline.read(10), Err(Errno::EAGAIN));
        assert_eq!(typed(&mut discipline, b"\r"), "\r\n");
        assert_eq!(discipline.read(2), Ok(b"ac".to_vec()));
        assert_eq!(discipline.read(10), Ok(b"\n".to_vec()));
        assert_eq!(typed(&mut discipline, b"one two\x17\x04"), "one two\x08 \x08\x08 \x08\x08 \x08");
        assert_eq!(discipline.read(4), Ok(b"one ".to_vec()));
        assert_eq!(typed(&mut discipline, b"\x04"), "");
        assert_eq!(discipline.read(4), Ok(vec![]));
    }

    #[test]
    fn a_line_that_is_too_long_can_still_be_ended_and_nothing_grows() {
        let mut discipline = Discipline::default();
        assert_eq!(discipline.receive(&[b'x'; 3 * INPUT_BYTES_MAX]).map(|(taken, _)| taken), Ok(3 * INPUT_BYTES_MAX));
        assert_eq!(discipline.receive(b"\nmore"), Ok((1, vec![])));
        assert_eq!(discipline.receive(b"more"), Err(Errno::EAGAIN));
        assert_eq!(discipline.read(usize::MAX).map(|line| line.len()), Ok(INPUT_BYTES_MAX + 1));
        assert!(discipline.output_length() <= ECHO_BYTES_MAX);
        assert!(discipline.is_sound());
    }

    #[test]
    fn ends_of_file_are_bounded_too() {
        let mut discipline = Discipline::default();
        let (taken, _) = discipline.receive(&vec![4; 100_000]).unwrap();
        assert!(taken <= INPUT_BYTES_MAX, "{taken}");
    }

    #[test]
    fn keys_become_signals() {
        let mut discipline = Discipline::default();
        assert_eq!(discipline.receive(b"lost\x03\x1a"), Ok((6, vec![Signal::INT, Signal::TSTP])));
        assert_eq!(discipline.read_output(100), Ok(b"lost^C^Z".to_vec()));
    }
}
