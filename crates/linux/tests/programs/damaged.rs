//! Damaged states: whatever is changed in one, it is refused or makes a guest, and nothing panics.
//!
//! The table is read and sealed again here by what `docs/state-format.md` says, so that the description is tested too.

use std::ops::Range;

use calypte_linux::state::StateError;

use crate::guest::Shape;
use crate::program::Linking;
use crate::saved::{restore, save_after};

const HEADER_BYTES: usize = 64;
const ROW_BYTES: usize = 64;
/// System calls after which `sockets` has something of everything.
const CALLS: u64 = 400;
/// Changed places of each section.
const PLACES: usize = 60;

/// A state that can be changed and made to look undamaged.
#[derive(Clone)]
struct Draft(Vec<u8>);

impl Draft {
    fn sections(&self) -> usize {
        u32::from_le_bytes(self.0[12..16].try_into().expect("four bytes")) as usize
    }

    fn row(&self, index: usize) -> usize {
        HEADER_BYTES + index * ROW_BYTES
    }

    fn number(&self, at: usize) -> usize {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes")) as usize
    }

    fn body(&self, index: usize) -> Range<usize> {
        let row = self.row(index);
        let start = self.number(row + 8);
        start..start + self.number(row + 16)
    }

    fn table_end(&self) -> usize {
        self.row(self.sections())
    }

    /// Makes all checksums those of what is there.
    fn seal(mut self) -> Vec<u8> {
        for index in 0..self.sections() {
            let (row, body) = (self.row(index), self.body(index));
            let checksum = blake3::hash(&self.0[body]);
            self.0[row + 24..row + 56].copy_from_slice(checksum.as_bytes());
        }
        self.seal_table()
    }

    fn seal_table(mut self) -> Vec<u8> {
        self.0[16..48].fill(0);
        let checksum = blake3::hash(&self.0[..self.table_end()]);
        self.0[16..48].copy_from_slice(checksum.as_bytes());
        self.0
    }
}

/// A small generator: a test prints what it has changed, so it need not be good.
fn next(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed as usize
}

/// The whole test.
pub(crate) fn damaged_states_are_refused_or_harmless(shape: Shape) {
    let sound = Draft(save_after("sockets", Linking::Static, CALLS, shape));
    let is_refused = |bytes: &[u8]| restore_quietly(bytes, shape).is_err();
    assert!(!is_refused(&sound.0), "the sound state");
    assert!(!is_refused(&sound.clone().seal()), "sealed as described");

    for at in 0..sound.table_end() {
        let mut damaged = sound.clone();
        damaged.0[at] ^= 1 << (at % 8);
        assert!(is_refused(&damaged.0), "byte {at} of header or table changed");
    }
    for index in 0..sound.sections() {
        let body = sound.body(index);
        for at in [body.start, body.start + body.len() / 2, body.end - 1] {
            let mut damaged = sound.clone();
            damaged.0[at] ^= 0x10;
            assert!(matches!(restore_quietly(&damaged.0, shape), Err(StateError::Checksum { .. })), "section {index}");
        }
    }
    let mut seed = 0x1234_5678_9abc_def1;
    for _ in 0..PLACES {
        let length = next(&mut seed) % sound.0.len();
        assert!(is_refused(&sound.0[..length]), "cut off at {length}");
    }
    assert!(is_refused(&[&sound.0[..], &[0]].concat()), "a byte too many");
    let padding = sound.body(0).end;
    let mut damaged = sound.clone();
    damaged.0[padding] = 1;
    assert!(matches!(restore_quietly(&damaged.0, shape), Err(StateError::Padding { .. })), "a byte between sections");
    versions_and_numbers(&sound, shape);
    swapped_sections(&sound, shape);
    sealed_damage(&sound, shape, &mut seed);
}

/// Versions of the future, and numbers that are unknown, missing or there twice.
fn versions_and_numbers(sound: &Draft, shape: Shape) {
    let with = |at: usize, value: u8| {
        let mut changed = sound.clone();
        changed.0[at] = value;
        restore_quietly(&changed.seal_table(), shape).map(drop)
    };
    assert!(matches!(with(8, 2), Err(StateError::Version { found: 2, .. })));
    for index in 0..sound.sections() {
        let row = sound.row(index);
        assert!(matches!(with(row + 4, 9), Err(StateError::SectionVersion { found: 9, .. })), "section {index}");
        assert!(matches!(with(row, 99), Err(StateError::UnknownSection { number: 99 })), "section {index}");
        let other = sound.0[sound.row((index + 1) % sound.sections())];
        assert!(with(row, other).is_err(), "section {index} there twice");
        let mut optional = sound.clone();
        (optional.0[row], optional.0[row + 6]) = (99, 0);
        let result = restore_quietly(&optional.seal_table(), shape);
        assert!(matches!(result, Err(StateError::Missing { .. })), "section {index} missing");
    }
}

/// The number of one section on the body of another.
fn swapped_sections(sound: &Draft, shape: Shape) {
    for one in 0..sound.sections() {
        for other in one + 1..sound.sections() {
            let mut swapped = sound.clone();
            let (first, second) = (sound.row(one), sound.row(other));
            (swapped.0[first], swapped.0[second]) = (sound.0[second], sound.0[first]);
            assert!(restore_quietly(&swapped.seal_table(), shape).is_err(), "sections {one} and {other}");
        }
    }
}

/// Damage that no checksum shows.
fn sealed_damage(sound: &Draft, shape: Shape, seed: &mut u64) {
    let mut refused = 0;
    for index in 0..sound.sections() {
        let body = sound.body(index);
        for _ in 0..PLACES {
            let mut damaged = sound.clone();
            for _ in 0..1 + next(seed) % 3 {
                let at = body.start + next(seed) % body.len();
                damaged.0[at] = match next(seed) % 4 {
                    0 => 0,
                    1 => 0xff,
                    2 => damaged.0[at].wrapping_add(1),
                    _ => next(seed) as u8,
                };
            }
            refused += usize::from(restore_quietly(&damaged.seal(), shape).is_err());
        }
    }
    assert!(refused > 2 * PLACES, "only {refused} were refused");
}

fn restore_quietly(bytes: &[u8], shape: Shape) -> Result<(), StateError> {
    restore(bytes, shape, std::sync::Arc::<crate::guest::Output>::default()).map(drop)
}
