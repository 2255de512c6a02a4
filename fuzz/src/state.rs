//! Saved states: one of a guest that has something of everything, changed as the fuzzer says and sealed again, so that no
//! checksum hides the change. A guest that can be made of it makes calls.

use std::sync::{Arc, OnceLock, Weak, mpsc};

use calypte_linux::guest::{Guest, Observer};
use calypte_linux::kernel::{GuestExit, Kernel};
use calypte_linux::outcome::Woken;
use calypte_linux::state::{ALIGNMENT, ClockPolicy, FORMAT_VERSION, MAGIC, State};
use calypte_linux::thread::ThreadState;
use parking_lot::Mutex;

use crate::guest::{self, PATHS, SCRATCH, Waker};
use crate::machine::ScriptedMachine;
use crate::script::{Script, call, write};

const HEADER_BYTES: usize = 64;
const ROW_BYTES: usize = 64;
/// Most changes of one input; more hide each other.
const CHANGES_MAX: u8 = 16;

/// Restores the state that the input makes, lets the guest run, and checks that it comes to an end.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let kind = input.byte();
    let mut bodies = sample().bodies.clone();
    let bytes = match kind {
        // Damage that checksums show.
        0xff => {
            let mut bytes = assemble(&bodies);
            for _ in 0..input.byte() % CHANGES_MAX {
                let at = (input.number(3) as usize) % bytes.len();
                bytes[at] = input.byte();
            }
            bytes.truncate(bytes.len() - (input.number(2) as usize).min(bytes.len()));
            bytes
        }
        // Bytes of any kind.
        0xfe => {
            _ = State::parse(input.0);
            return;
        }
        count => {
            for _ in 0..count % CHANGES_MAX {
                change(&mut bodies, &mut input);
            }
            assemble(&bodies)
        }
    };
    let Ok(state) = State::parse(&bytes) else { return };
    let script = Arc::new(Mutex::new(Script::new(input.0)));
    let machine = ScriptedMachine::new(guest::FRAMES_MAX, script.clone());
    let config = guest::configuration(Arc::new(Waker::new(script.clone())));
    match Guest::restore(machine, config, ClockPolicy::Advance, &state) {
        Ok(guest) => go_on(&guest, &script),
        Err(error) => assert!(kind > 0, "a sound state is refused: {error}"),
    }
}

/// Bytes of the fuzzer that have not been read.
struct Input<'i>(&'i [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }

    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, _| {
            let (byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
            self.0 = rest;
            number << 8 | u64::from(*byte)
        })
    }
}

/// Changes a section at one place. Numbers are of variable length in it, so bytes also come and go.
fn change(bodies: &mut [Vec<u8>], input: &mut Input<'_>) {
    let section = input.byte() as usize % bodies.len();
    let body = &mut bodies[section];
    let at = input.number(2) as usize % (body.len() + 1);
    let kind = input.byte();
    let count = usize::from(kind >> 4);
    match kind % 6 {
        0 if at < body.len() => body[at] = input.byte(),
        1 => (0..count).for_each(|_| body.insert(at, input.byte())),
        2 => drop(body.drain(at..(at + count).min(body.len()))),
        3 if at < body.len() => {
            // The longest number that there is.
            body.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        }
        4 if at < body.len() => body[at] = body[at].wrapping_add(count as u8).wrapping_sub(7),
        5 => {
            // Something that is there already, once more.
            let from = input.number(2) as usize % (body.len() + 1);
            let again = body[from..(from + 8 * count).min(body.len())].to_vec();
            body.splice(at..at, again);
        }
        _ => {}
    }
}

/// Lets a restored guest run to its end. What it waits for would not come: the waits are interrupted.
fn go_on(guest: &Arc<Guest>, script: &Mutex<Script>) {
    {
        let mut kernel = guest.lock();
        guest.set_frozen(&mut kernel, false);
        let waiting = kernel.threads.iter().filter(|(_, thread)| thread.state == ThreadState::Parked);
        let parked: Vec<_> = waiting.map(|(tid, _)| *tid).collect();
        parked.iter().for_each(|tid| _ = kernel.waits.wake(*tid, Woken::Signal));
    }
    guest::run_to_end(guest, script);
}

/// The sections of a guest with something of everything.
struct Sample {
    /// Number, version and flags of each, as they stand in its row.
    heads: Vec<[u8; 8]>,
    bodies: Vec<Vec<u8>>,
}

fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let bytes = save_after(&preparation());
        let word = |at: usize| -> [u8; 8] { bytes[at..at + 8].try_into().expect("eight bytes") };
        let number = |at: usize| u64::from_le_bytes(word(at)) as usize;
        let count = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) as usize;
        let rows = (0..count).map(|index| HEADER_BYTES + index * ROW_BYTES);
        let body = |row: usize| bytes[number(row + 8)..][..number(row + 16)].to_vec();
        Sample { heads: rows.clone().map(word).collect(), bodies: rows.map(body).collect() }
    })
}

/// Puts a state together, as `docs/state-format.md` says.
fn assemble(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut rows = Vec::new();
    let mut bytes = vec![0; HEADER_BYTES + bodies.len() * ROW_BYTES];
    for (head, body) in sample().heads.iter().zip(bodies) {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        rows.extend(head);
        rows.extend((bytes.len() as u64).to_le_bytes());
        rows.extend((body.len() as u64).to_le_bytes());
        rows.extend(blake3::hash(body).as_bytes());
        rows.extend([0; 8]);
        bytes.extend(body);
    }
    bytes[HEADER_BYTES..HEADER_BYTES + rows.len()].copy_from_slice(&rows);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(bodies.len() as u32).to_le_bytes());
    let checksum = blake3::hash(&bytes[..HEADER_BYTES + rows.len()]);
    bytes[16..48].copy_from_slice(checksum.as_bytes());
    bytes
}

/// Freezes the guest when its script is over.
struct Freezer {
    script: Arc<Mutex<Script>>,
    guest: OnceLock<Weak<Guest>>,
    frozen: mpsc::SyncSender<()>,
}

impl Observer for Freezer {
    fn progress(&self, kernel: &mut Kernel) {
        kernel.take_output();
        let guest = self.guest.get().and_then(Weak::upgrade);
        if self.script.lock().is_over()
            && let Some(guest) = guest
        {
            guest.set_frozen(kernel, true);
            _ = self.frozen.try_send(());
        }
    }
}

fn save_after(script: &[u8]) -> Vec<u8> {
    let script = Arc::new(Mutex::new(Script::new(script)));
    let (sender, frozen) = mpsc::sync_channel(1);
    let freezer = Arc::new(Freezer { script: script.clone(), guest: OnceLock::new(), frozen: sender });
    let machine = ScriptedMachine::new(guest::FRAMES_MAX, script);
    let guest = guest::start(machine, guest::configuration(freezer.clone()));
    freezer.guest.set(Arc::downgrade(&guest)).expect("it is new");
    std::thread::scope(|scope| {
        scope.spawn(|| guest.run_vcpu(0));
        frozen.recv().expect("the script comes to its end");
        let saved = guest.save().expect("a guest that waits");
        guest.kill(GuestExit::Failed);
        saved.into_bytes()
    })
}

/// Calls after which a guest has something of everything: files and sockets of every kind, some with something in them,
/// mappings, signals, timers, a second thread and a second process, all of which wait.
fn preparation() -> Vec<u8> {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let (tmp_a, tmp_b) = (PATHS + guest::PATH_OFFSETS[2], PATHS + guest::PATH_OFFSETS[3]);
    let maps = PATHS + guest::PATH_OFFSETS[4];
    let address = |port: u16| [&[2, 0][..], &port.to_be_bytes(), &[127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    let here: u64 = -100_i64 as u64;
    [
        // What calls point to.
        write(0x100, &words(&[0, 0, SCRATCH + 0x180, 1, SCRATCH + 0x1c0, 24, 0])), // struct msghdr
        write(0x180, &words(&[PATHS, 4])),
        write(0x1c0, &words(&[20, 1 << 32 | 1, 3])),       // SCM_RIGHTS
        write(0x200, &words(&[1000, 0, 1000, 0])),         // struct itimerspec and timespec
        write(0x240, &words(&[0x0000_000c_0000_0001, 0])), // struct epoll_event
        write(0x280, &words(&[1 << 9])),                   // SIGUSR1 alone
        write(0x2c0, &address(4000)),
        write(0x2e0, &address(4001)),
        write(0x300, &words(&[0x40_0010, 0x0400_0000, 0x40_0020, 0])), // struct sigaction
        write(0x340, &words(&[1, 10, 100, 0])),                        // struct flock: F_WRLCK
        write(0x380, b"/dev/ptmx\0"),
        write(0x3a0, b"/tmp/directory\0"),
        write(0x3c0, b"user.name\0"),
        write(0x3e0, &words(&[SCRATCH + 0x4000, 0, 0x4000])), // stack_t
        // Files with something in them.
        call(293, &[SCRATCH, 0]), // pipe2: 3, 4
        call(1, &[4, PATHS, 20]),
        call(53, &[1, 1, 0, SCRATCH]), // socketpair: 5, 6
        call(1, &[5, PATHS, 10]),
        call(46, &[5, SCRATCH + 0x100, 0]), // sendmsg
        call(53, &[1, 2, 0, SCRATCH]),      // socketpair: 7, 8
        call(1, &[7, PATHS, 9]),
        call(290, &[3, 0]), // eventfd2: 9
        call(283, &[1, 0]), // timerfd_create: 10
        call(286, &[10, 0, SCRATCH + 0x200, 0]),
        call(291, &[0]), // epoll_create1: 11
        call(233, &[11, 1, 9, SCRATCH + 0x240]),
        call(233, &[11, 1, 3, SCRATCH + 0x240]),
        call(294, &[0x800]),                     // inotify_init1: 12
        call(257, &[here, tmp_a, 0o102, 0o600]), // openat: 13
        call(254, &[12, tmp_a, 0xfff]),
        call(1, &[13, PATHS, 30]),
        call(72, &[13, 6, SCRATCH + 0x340]),            // fcntl: F_SETLK
        call(190, &[13, SCRATCH + 0x3c0, PATHS, 5, 0]), // fsetxattr
        call(257, &[here, PATHS, 0, 0]),                // openat of the host: 14
        call(257, &[here, maps, 0, 0]),                 // openat: 15
        call(0, &[15, SCRATCH + 0x2000, 10]),
        call(289, &[u64::MAX, SCRATCH + 0x280, 8, 0]), // signalfd4: 16
        call(319, &[PATHS, 2]),                        // memfd_create: 17
        call(77, &[17, 8192]),
        call(257, &[here, SCRATCH + 0x380, 2, 0]), // openat of a terminal: 18
        call(16, &[18, 0x4004_5431, SCRATCH + 0x3f8]),
        call(16, &[18, 0x5441, 2]), // TIOCGPTPEER: 19
        call(1, &[18, PATHS, 5]),
        call(83, &[SCRATCH + 0x3a0, 0o700]), // mkdir
        call(86, &[tmp_a, tmp_b]),           // link
        // Sockets.
        call(41, &[2, 1, 0]), // 20
        call(49, &[20, SCRATCH + 0x2c0, 16]),
        call(50, &[20, 4]),
        call(41, &[2, 1, 0]), // 21
        call(42, &[21, SCRATCH + 0x2c0, 16]),
        call(1, &[21, PATHS, 7]),
        call(41, &[2, 2, 0]), // 22
        call(49, &[22, SCRATCH + 0x2e0, 16]),
        call(44, &[22, PATHS, 8, 0, SCRATCH + 0x2e0, 16]),
        // Memory.
        call(9, &[0, 16384, 3, 0x22, u64::MAX, 0]),
        call(9, &[0, 8192, 3, 1, 17, 0]),
        call(9, &[0, 8192, 1, 2, 14, 0]),
        call(9, &[0x50_0000, 8192, 3, 0x32, u64::MAX, 0]),
        call(0, &[14, 0x50_0000, 5000]),
        // Signals and timers.
        call(13, &[10, SCRATCH + 0x300, 0, 8]),
        call(131, &[SCRATCH + 0x3e0, 0]),
        call(14, &[0, SCRATCH + 0x280, 0, 8]),
        call(62, &[2, 10]), // a signal that waits
        call(38, &[0, SCRATCH + 0x200, 0]),
        call(222, &[1, 0, SCRATCH + 0x3f0]),
        call(223, &[0, 0, SCRATCH + 0x200, 0]),
        // A thread and a process; then each of them waits.
        call(56, &[0x0001_0f00, SCRATCH + 0x8000, 0, 0, 0]),
        call(57, &[]),
        call(202, &[SCRATCH + 0x3000, 0, 0, 0]), // futex
        call(230, &[1, 0, SCRATCH + 0x200, 0]),  // clock_nanosleep
        call(0, &[10, SCRATCH + 0x2000, 8]),
    ]
    .concat()
}
