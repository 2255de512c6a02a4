//! Programs × platforms × modes as tests, and the count of what they assert.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use calypte_linux::fs::RootMode;
use libtest_mimic::{Failed, Trial};

use crate::guest::{Platform, Shape, run_in_guest};
use crate::program::{self, Linking, Run, run_on_host};
use crate::saved::run_saved;

/// Fewest assertions that every platform must hold (`SPECIFICATION.md`).
const ASSERTIONS_MIN: usize = 400;
/// Differing lines that a failure shows.
const SHOWN_DIFFERENCES_MAX: usize = 20;
const MEMORY_MIB: u32 = 256;

/// A test program and what is expected of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    name: &'static str,
    arguments: &'static [&'static str],
    memory_mib: u32,
    root: RootMode,
    expected: Expected,
    wrong_when_emulated: Option<&'static str>,
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    /// What it does on the host; the host itself is held to an end, if there is one here.
    AsOnHost { status: Option<i32> },
    /// It cannot run on the host: this end, and this last line.
    InGuests { status: i32, last_line: Option<&'static str> },
}

impl Program {
    /// `NAME.c`, expected to do in guests what it does on the host.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            arguments: &[],
            memory_mib: MEMORY_MIB,
            root: RootMode::ReadOnly,
            expected: Expected::AsOnHost { status: None },
            wrong_when_emulated: None,
        }
    }

    /// Its arguments.
    pub(crate) const fn arguments(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }

    /// The guest's memory, 256 MiB unless told.
    pub(crate) const fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// In guests, `/` can be changed.
    pub(crate) const fn in_overlay(mut self) -> Self {
        self.root = RootMode::Overlay;
        self
    }

    /// Its exit status, on the host too.
    pub(crate) const fn ends_with(mut self, status: i32) -> Self {
        self.expected = Expected::AsOnHost { status: Some(status) };
        self
    }

    /// What an emulated processor does differently, so that the program is left out there.
    pub(crate) const fn wrong_when_emulated(mut self, reason: &'static str) -> Self {
        self.wrong_when_emulated = Some(reason);
        self
    }

    /// It is not run on the host.
    pub(crate) const fn only_in_guests(mut self, status: i32, last_line: Option<&'static str>) -> Self {
        self.expected = Expected::InGuests { status, last_line };
        self
    }

    fn runs_on_host(&self) -> bool {
        matches!(self.expected, Expected::AsOnHost { .. })
    }

    fn check_on_host(&self) -> Result<usize, Failed> {
        let Expected::AsOnHost { status } = self.expected else { return Ok(0) };
        let runs = linkings().map(|linking| run_on_host(self.name, linking, self.arguments));
        for run in &runs {
            // Without an end of its own a program must at least not be killed.
            if status.map_or(run.status >= 128, |status| run.status != status) {
                return Err(format!("ended with {} on the host:\n{}", run.status, run.output).into());
            }
        }
        Ok(runs.map(|run| assertions(&run)).into_iter().max().unwrap_or(0))
    }

    fn check_in_guest(&self, mode: Mode) -> Result<usize, Failed> {
        let Mode { platform, vcpu_count, .. } = mode;
        let shape = Shape { platform, vcpu_count, memory_mib: self.memory_mib, root: self.root };
        let run = if mode.is_saved { run_saved } else { run_in_guest };
        let found = run(self.name, mode.linking, self.arguments, shape);
        match self.expected {
            Expected::AsOnHost { .. } => {
                let expected = run_on_host(self.name, mode.linking, self.arguments);
                if found != expected {
                    return Err(difference(&expected, &found).into());
                }
            }
            Expected::InGuests { status, last_line } => {
                if found.status != status || last_line.is_some_and(|line| found.output.lines().last() != Some(line)) {
                    return Err(format!("expected status {status}, last line {last_line:?}: {found:?}").into());
                }
            }
        }
        Ok(assertions(&found))
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.arguments.iter().filter(|word| !word.is_empty()).try_for_each(|word| write!(f, " {word}"))
    }
}

/// A way to run a program in a guest.
#[derive(Debug, Clone, Copy)]
struct Mode {
    platform: Platform,
    linking: Linking,
    vcpu_count: usize,
    /// Whether it is saved and restored again and again meanwhile.
    is_saved: bool,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { platform, linking, vcpu_count, is_saved } = self;
        write!(f, "{}, {linking:?}, {vcpu_count} vCPU{}", platform.name(), if *is_saved { ", saved" } else { "" })
    }
}

fn linkings() -> [Linking; 2] {
    [Linking::Static, Linking::Dynamic]
}

fn vcpu_counts() -> [usize; 2] {
    [1, 2]
}

fn modes(platform: Platform) -> impl Iterator<Item = Mode> {
    let mode = move |linking, vcpu_count, is_saved| Mode { platform, linking, vcpu_count, is_saved };
    let straight =
        linkings().into_iter().flat_map(move |linking| vcpu_counts().map(|count| mode(linking, count, false)));
    // What is saved is the same on every platform: one of them goes through all of it, and that takes a while.
    let saved = [mode(Linking::Static, 1, true), mode(Linking::Dynamic, 2, true)];
    let count = if platform == Platform::Kvm { saved.len() } else { 1 };
    straight.chain(saved.into_iter().take(count))
}

fn assertions(run: &Run) -> usize {
    run.output.lines().count() + 1
}

/// The lines in which two runs differ.
fn difference(expected: &Run, found: &Run) -> String {
    let mut text = String::new();
    if expected.status != found.status {
        text += &format!("status: expected {}, found {}\n", expected.status, found.status);
    }
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.output.lines().collect(), found.output.lines().collect());
    let lines = (0..expected.len().max(found.len())).filter(|line| expected.get(*line) != found.get(*line));
    for line in lines.take(SHOWN_DIFFERENCES_MAX) {
        let shown = |lines: &[&str]| lines.get(line).map_or("(no line)".to_owned(), |&line| line.to_owned());
        text += &format!("line {}: expected {}\n{:>9} found    {}\n", line + 1, shown(&expected), "", shown(&found));
    }
    text
}

/// Puts the programs and what they do on this host into a folder.
pub(crate) fn record(programs: &[Program], folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder to record to");
    for program in programs {
        for linking in linkings() {
            program::record(program.name, linking, program.arguments, program.runs_on_host(), folder);
        }
    }
}

/// The suite: its tests, and what they have counted.
pub(crate) struct Conformance {
    programs: Vec<Program>,
    /// By place (`host` or a platform's name) and program; the fewest of all modes.
    counts: Arc<Mutex<BTreeMap<(&'static str, String), usize>>>,
}

impl Conformance {
    /// Nothing counted yet.
    pub(crate) fn new(programs: &[Program]) -> Self {
        let is_left_out = |program: &&Program| match program.wrong_when_emulated {
            Some(reason) if program::is_recorded() => {
                println!("conformance: left out: {program}: {reason}");
                true
            }
            _ => false,
        };
        Self {
            programs: programs.iter().filter(|program| !is_left_out(program)).copied().collect(),
            counts: Arc::default(),
        }
    }

    /// One test for each program, platform and mode.
    pub(crate) fn trials(&self) -> Vec<Trial> {
        let mut trials = Vec::new();
        for program in self.programs.iter().copied().filter(Program::runs_on_host) {
            trials.push(self.trial("host", program, format!("{program}, host"), move || program.check_on_host()));
        }
        for &platform in Platform::ALL {
            if let Some(reason) = platform.unavailable() {
                eprintln!("SKIP conformance on {}: {reason}", platform.name());
                continue;
            }
            for program in self.programs.iter().copied() {
                for mode in modes(platform) {
                    let name = format!("{program}, {mode}");
                    trials.push(self.trial(platform.name(), program, name, move || program.check_in_guest(mode)));
                }
            }
        }
        trials
    }

    fn trial(
        &self,
        place: &'static str,
        program: Program,
        name: String,
        check: impl FnOnce() -> Result<usize, Failed> + Send + 'static,
    ) -> Trial {
        let counts = Arc::clone(&self.counts);
        Trial::test(name, move || {
            let found = check()?;
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.entry((place, program.to_string())).and_modify(|count| *count = found.min(*count)).or_insert(found);
            Ok(())
        })
    }

    /// Prints what has been counted, and fails if it is less than promised where every program has run.
    pub(crate) fn report(&self) -> ExitCode {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let places = std::iter::once("host").chain(Platform::ALL.iter().copied().map(Platform::name));
        let mut code = ExitCode::SUCCESS;
        for place in places {
            let mut total = 0;
            let mut is_whole = true;
            for program in self.programs.iter().filter(|program| place != "host" || program.runs_on_host()) {
                match counts.get(&(place, program.to_string())) {
                    Some(count) => {
                        println!("conformance: {count:>5} {program} on {place}");
                        total += count;
                    }
                    None => is_whole = false,
                }
            }
            if total > 0 {
                println!("conformance: {total} assertions on {place}");
            }
            if is_whole && total < ASSERTIONS_MIN {
                eprintln!("conformance: at least {ASSERTIONS_MIN} are promised");
                code = ExitCode::FAILURE;
            }
        }
        code
    }
}
