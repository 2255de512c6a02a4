//! Files of `/proc` as they are saved: by name, because tables change from one version to the next.

use serde::{Deserialize, Serialize};

use super::{Link, Owner, Proc, process, system};
use crate::process::Pid;
use crate::state::{SectionId, StateError};

/// A [`Proc`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SavedProc {
    Root,
    OwnProcess,
    OwnThread,
    OwnMounts,
    SystemDirectory(String),
    System(String),
    Process(Owner),
    Tasks(Pid),
    ProcessFile(Owner, String),
    Link(Owner, Link),
    Descriptors(Owner),
    Descriptor(Owner, i32),
    DescriptorInfos(Owner),
    DescriptorInfo(Owner, i32),
}

impl Proc {
    pub(crate) fn save(self) -> SavedProc {
        match self {
            Proc::Root => SavedProc::Root,
            Proc::OwnProcess => SavedProc::OwnProcess,
            Proc::OwnThread => SavedProc::OwnThread,
            Proc::OwnMounts => SavedProc::OwnMounts,
            Proc::SystemDirectory(path) => SavedProc::SystemDirectory(path.to_owned()),
            Proc::System(index) => SavedProc::System(system::FILES[index].path.to_owned()),
            Proc::Process(owner) => SavedProc::Process(owner),
            Proc::Tasks(pid) => SavedProc::Tasks(pid),
            Proc::ProcessFile(owner, index) => SavedProc::ProcessFile(owner, process::FILES[index].name.to_owned()),
            Proc::Link(owner, link) => SavedProc::Link(owner, link),
            Proc::Descriptors(owner) => SavedProc::Descriptors(owner),
            Proc::Descriptor(owner, fd) => SavedProc::Descriptor(owner, fd),
            Proc::DescriptorInfos(owner) => SavedProc::DescriptorInfos(owner),
            Proc::DescriptorInfo(owner, fd) => SavedProc::DescriptorInfo(owner, fd),
        }
    }
}

impl SavedProc {
    pub(crate) fn restore(self) -> Result<Proc, StateError> {
        let missing = || StateError::broken(SectionId::Files, "a file of /proc that does not exist");
        Ok(match self {
            SavedProc::Root => Proc::Root,
            SavedProc::OwnProcess => Proc::OwnProcess,
            SavedProc::OwnThread => Proc::OwnThread,
            SavedProc::OwnMounts => Proc::OwnMounts,
            SavedProc::SystemDirectory(path) => {
                let below = |file: &&system::SystemFile| file.path.as_bytes().get(path.len()) == Some(&b'/');
                let files = system::FILES.iter().filter(|file| file.path.starts_with(&path));
                let file = files.clone().find(below).ok_or_else(missing)?;
                Proc::SystemDirectory(&file.path[..path.len()])
            }
            SavedProc::System(path) => {
                let index = system::FILES.iter().position(|file| file.path == path);
                Proc::System(index.ok_or_else(missing)?)
            }
            SavedProc::Process(owner) => Proc::Process(owner),
            SavedProc::Tasks(pid) => Proc::Tasks(pid),
            SavedProc::ProcessFile(owner, name) => {
                let index = process::FILES.iter().position(|file| file.name == name);
                Proc::ProcessFile(owner, index.ok_or_else(missing)?)
            }
            SavedProc::Link(owner, link) => Proc::Link(owner, link),
            SavedProc::Descriptors(owner) => Proc::Descriptors(owner),
            SavedProc::Descriptor(owner, fd) => Proc::Descriptor(owner, fd),
            SavedProc::DescriptorInfos(owner) => Proc::DescriptorInfos(owner),
            SavedProc::DescriptorInfo(owner, fd) => Proc::DescriptorInfo(owner, fd),
        })
    }
}
