//! Templates: environments as they were when their function was ready for its first event, from which further ones start.
//!
//! A template is the state of a guest (`docs/state-format.md`) in a file in memory. It was written by a monitor, whose word
//! counts for nothing: it is used for exactly the [`FunctionSpec`] that it was made of, and whoever restores a guest from it
//! is a jailed monitor that checks it. What the file holds cannot change once it is sealed.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use calypte_types::{AccountId, FunctionName};
use calypte_wire::monitor::WorkingSet;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use crate::invocation::FunctionSpec;

/// How often a template of one function version is made: more often it is not to be used, for whatever reason.
const ATTEMPTS_MAX: u32 = 3;
/// A state's size beyond the guest's memory, MiB: what the monitor knows of it.
const OVERHEAD_MIB: u64 = 64;

/// A saved environment.
#[derive(Debug)]
pub(crate) struct Template {
    file: OwnedFd,
    bytes: u64,
    /// What copies use of it, as the first one has told.
    working_set: OnceLock<WorkingSet>,
}

impl Template {
    /// The file with its state, which never changes.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// What copies use of it, if one has told already.
    pub(crate) fn working_set(&self) -> Option<&WorkingSet> {
        self.working_set.get()
    }

    /// A copy has told what it has used. Only the first one is believed: it is a hint.
    pub(crate) fn note_working_set(&self, set: WorkingSet) {
        // Another copy was first.
        let _ = self.working_set.set(set);
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A file for the state of an environment: a monitor can fill it and not make it longer.
#[derive(Debug)]
pub(crate) struct Draft(OwnedFd);

impl Draft {
    /// For an environment of this function.
    pub(crate) fn new(spec: &FunctionSpec) -> io::Result<Self> {
        let bytes_max = (u64::from(spec.memory_mib) + u64::from(spec.tmp_mib) + OVERHEAD_MIB) << 20;
        let file = memfd_create(c"calypte-template", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes_max)?;
        fcntl_add_seals(&file, SealFlags::GROW)?;
        Ok(Self(file))
    }

    /// The file.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The template, whose first `bytes` have been written. Fails while somebody could still write.
    pub(crate) fn seal(self, bytes: u64) -> io::Result<Template> {
        ftruncate(&self.0, bytes)?;
        fcntl_add_seals(&self.0, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Template { file: self.0, bytes, working_set: OnceLock::new() })
    }
}

/// The templates of a node, bounded in size: those used least recently go.
#[derive(Debug)]
pub(crate) struct Templates {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Arc<FunctionSpec>, Slot>,
    bytes: u64,
    uses: u64,
}

/// What there is of one function version.
#[derive(Debug, Default)]
struct Slot {
    template: Option<Arc<Template>>,
    is_coming: bool,
    attempts: u32,
    last_use: u64,
}

impl Templates {
    /// None yet, and never more than `bytes_max` bytes of them.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// The template of a function version.
    pub(crate) fn get(&self, spec: &FunctionSpec) -> Option<Arc<Template>> {
        let mut state = self.lock();
        state.uses += 1;
        let now = state.uses;
        let slot = state.slots.get_mut(spec)?;
        slot.last_use = now;
        slot.template.clone()
    }

    /// Whether there is a template of a function version.
    pub(crate) fn has(&self, spec: &FunctionSpec) -> bool {
        self.lock().slots.get(spec).is_some_and(|slot| slot.template.is_some())
    }

    /// Whether the caller is to make a template now: there is none, nobody is at it, and it has not failed too often.
    pub(crate) fn begin(&self, spec: &Arc<FunctionSpec>) -> bool {
        let mut state = self.lock();
        state.uses += 1;
        let now = state.uses;
        let slot = state.slots.entry(Arc::clone(spec)).or_default();
        slot.last_use = now;
        if slot.template.is_some() || slot.is_coming || slot.attempts >= ATTEMPTS_MAX {
            return false;
        }
        slot.is_coming = true;
        slot.attempts += 1;
        true
    }

    /// What has become of making a template that [`Templates::begin`] has asked for. Forgotten if the function version is
    /// not used any more.
    pub(crate) fn finish(&self, spec: &FunctionSpec, template: Option<Template>) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(spec) else { return };
        slot.is_coming = false;
        let Some(template) = template else { return };
        if template.bytes > self.bytes_max {
            slot.attempts = ATTEMPTS_MAX;
            return;
        }
        let bytes = template.bytes;
        slot.template = Some(Arc::new(template));
        state.bytes += bytes;
        state.shrink(self.bytes_max);
    }

    /// There was no room to make a template: that is no attempt.
    pub(crate) fn postpone(&self, spec: &FunctionSpec) {
        if let Some(slot) = self.lock().slots.get_mut(spec) {
            slot.is_coming = false;
            slot.attempts -= 1;
        }
    }

    /// The template does not work: it is not used again.
    pub(crate) fn discard(&self, spec: &FunctionSpec) {
        self.lock().take(spec);
    }

    /// The function has changed or is gone: only templates of revision `keep` stay.
    pub(crate) fn retire(&self, account: &AccountId, function: &FunctionName, keep: Option<&str>) {
        let mut state = self.lock();
        let is_old = |spec: &FunctionSpec| {
            spec.account == *account && spec.arn.function == *function && keep != Some(spec.revision_id.as_str())
        };
        let old: Vec<_> = state.slots.keys().filter(|spec| is_old(spec)).cloned().collect();
        for spec in old {
            state.take(&spec);
            state.slots.remove(&spec);
        }
    }

    /// How many there are, and their size in bytes.
    #[cfg(test)]
    fn sizes(&self) -> (usize, u64) {
        let state = self.lock();
        (state.slots.values().filter(|slot| slot.template.is_some()).count(), state.bytes)
    }
}

impl State {
    fn take(&mut self, spec: &FunctionSpec) {
        if let Some(template) = self.slots.get_mut(spec).and_then(|slot| slot.template.take()) {
            self.bytes -= template.bytes;
        }
    }

    /// Lets those go that were used least recently, until the rest fits.
    fn shrink(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max {
            let with_one = self.slots.iter().filter(|(_, slot)| slot.template.is_some());
            let oldest = with_one.min_by_key(|(_, slot)| slot.last_use).map(|(spec, _)| Arc::clone(spec));
            let oldest = oldest.expect("what takes room is there");
            self.take(&oldest);
            // It may be made anew when it is wanted again.
            self.slots.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;
    use crate::invocation::Isolation;

    fn spec(function: &str, revision_id: &str) -> Arc<FunctionSpec> {
        Arc::new(FunctionSpec {
            account: "000000000001".parse().unwrap(),
            arn: format!("arn:aws:lambda:us-east-1:000000000001:function:{function}").parse().unwrap(),
            version: "$LATEST".into(),
            revision_id: revision_id.into(),
            mounts: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            memory_mib: 128,
            tmp_mib: 512,
            timeout_s: 3,
            has_template: true,
            isolation: Isolation::Reuse,
        })
    }

    fn template(spec: &FunctionSpec, bytes: u64) -> Template {
        Draft::new(spec).unwrap().seal(bytes).unwrap()
    }

    #[test]
    fn a_monitor_can_neither_make_the_file_longer_nor_change_it_afterwards() {
        let spec = spec("f", "1");
        let draft = Draft::new(&spec).unwrap();
        let mut file = std::fs::File::from(draft.0.try_clone().unwrap());
        let bytes_max = file.metadata().unwrap().len();
        assert!(file.set_len(bytes_max + 1).is_err());
        file.seek(io::SeekFrom::Start(bytes_max)).unwrap();
        assert!(file.write_all(&[1]).is_err(), "behind the end");
        file.rewind().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        assert!(draft.seal(bytes_max + 1).is_err(), "longer than it may be");
        let draft = Draft(file.try_clone().unwrap().into());
        let template = draft.seal(5000).unwrap();
        assert_eq!(template.bytes(), 5000);
        file.rewind().unwrap();
        assert!(file.write_all(&[8]).is_err());
        assert!(file.set_len(10).is_err());
    }

    #[test]
    fn one_is_made_at_a_time_and_not_for_ever() {
        let templates = Templates::new(1 << 20);
        let spec = spec("f", "1");
        assert!(templates.begin(&spec));
        assert!(!templates.begin(&spec), "somebody is at it");
        templates.postpone(&spec);
        for _ in 0..ATTEMPTS_MAX {
            assert!(templates.begin(&spec));
            templates.finish(&spec, None);
            assert!(templates.get(&spec).is_none());
        }
        assert!(!templates.begin(&spec), "it fails each time");
    }

    #[test]
    fn a_template_that_does_not_work_is_made_anew() {
        let templates = Templates::new(1 << 20);
        let spec = spec("f", "1");
        assert!(templates.begin(&spec));
        templates.finish(&spec, Some(template(&spec, 4096)));
        assert!(!templates.begin(&spec), "it is there");
        assert_eq!(templates.sizes(), (1, 4096));
        templates.discard(&spec);
        assert!(templates.get(&spec).is_none());
        assert_eq!(templates.sizes(), (0, 0));
        assert!(templates.begin(&spec));
    }

    #[test]
    fn those_used_least_recently_go() {
        let templates = Templates::new(10_000);
        let specs = ["a", "b", "c"].map(|name| spec(name, "1"));
        for spec in &specs[..2] {
            assert!(templates.begin(spec));
            templates.finish(spec, Some(template(spec, 4000)));
        }
        assert!(templates.get(&specs[0]).is_some());
        assert!(templates.begin(&specs[2]));
        templates.finish(&specs[2], Some(template(&specs[2], 4000)));
        assert_eq!(specs.each_ref().map(|spec| templates.get(spec).is_some()), [true, false, true]);
        assert_eq!(templates.sizes(), (2, 8000));
        assert!(templates.begin(&specs[1]), "it may come back");
        templates.finish(&specs[1], Some(template(&specs[1], 10_001)));
        assert!(templates.get(&specs[1]).is_none(), "larger than all may be together");
        assert!(!templates.begin(&specs[1]));
    }

    #[test]
    fn templates_of_old_revisions_go_also_when_they_come_late() {
        let templates = Templates::new(1 << 20);
        let (old, new, other) = (spec("f", "1"), spec("f", "2"), spec("g", "1"));
        for spec in [&old, &new, &other] {
            assert!(templates.begin(spec));
        }
        templates.finish(&new, Some(template(&new, 4096)));
        templates.finish(&other, Some(template(&other, 4096)));
        templates.retire(&old.account, &old.arn.function, Some("2"));
        templates.finish(&old, Some(template(&old, 4096)));
        assert!(templates.get(&old).is_none());
        assert!(templates.get(&new).is_some() && templates.get(&other).is_some());
        templates.retire(&old.account, &old.arn.function, None);
        assert!(templates.get(&new).is_none());
        assert_eq!(templates.sizes(), (1, 4096));
    }
}
