//! Files that exist from the start and never change: `/dev`, `/sys`, and the directories on the way to mount points that
//! the tree below does not have.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fs::listing::{Entry, entry_kind};
use crate::fs::metadata::{Metadata, Time, device_number};

/// Minor device number of the file system that these files are on.
const DEVICE_MINOR: u32 = 5;

/// A file that never changes.
#[derive(Debug)]
pub struct Fixed {
    inode: u64,
    content: Content,
}

/// What a fixed file is.
#[derive(Debug)]
pub enum Content {
    /// Names and files.
    Directory(BTreeMap<Vec<u8>, Arc<Fixed>>),
    /// A symbolic link.
    Link(Vec<u8>),
    /// A file that reads as this.
    Text(Arc<[u8]>),
    /// A character device.
    Device(Device),
}

/// The character devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// Swallows, reads as empty.
    Null,
    /// Swallows, reads as zeros.
    Zero,
    /// Refuses writes with `ENOSPC`, reads as zeros.
    Full,
    /// Random bytes.
    Random,
    /// Random bytes.
    Urandom,
    /// The controlling terminal, whichever that is of who opens it.
    Terminal,
    /// Makes pseudo-terminals (`ptmx`).
    Multiplexer,
}

impl Device {
    /// Major and minor number (`Documentation/admin-guide/devices.txt`).
    fn number(self) -> (u32, u32) {
        match self {
            Device::Null => (1, 3),
            Device::Zero => (1, 5),
            Device::Full => (1, 7),
            Device::Random => (1, 8),
            Device::Urandom => (1, 9),
            Device::Terminal => (5, 0),
            Device::Multiplexer => (5, 2),
        }
    }
}

impl Fixed {
    /// What it is.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Looks a name up; `None` if there is none or this is no directory.
    pub fn child(&self, name: &[u8]) -> Option<&Arc<Fixed>> {
        match &self.content {
            Content::Directory(children) => children.get(name),
            _ => None,
        }
    }

    /// Its metadata; times are those of the guest's start.
    pub fn metadata(&self, started: Time) -> Metadata {
        let (mode, size, special_device) = match &self.content {
            Content::Directory(_) => (libc::S_IFDIR | 0o755, 0, 0),
            Content::Link(target) => (libc::S_IFLNK | 0o777, target.len() as u64, 0),
            // Linux says 4096 of each file of `/sys`; `/etc/resolv.conf` is read by programs that trust the size.
            Content::Text(text) => (libc::S_IFREG | 0o444, text.len() as u64, 0),
            Content::Device(device) => {
                let (major, minor) = device.number();
                (libc::S_IFCHR | 0o666, 0, device_number(major, minor))
            }
        };
        Metadata {
            device: device_number(0, DEVICE_MINOR),
            inode: self.inode,
            mode,
            links: 1,
            size,
            special_device,
            accessed: started,
            modified: started,
            changed: started,
            ..Metadata::default()
        }
    }

    /// Names of a directory.
    pub fn list(&self) -> Vec<Entry> {
        let Content::Directory(children) = &self.content else { return Vec::new() };
        let entry = |(name, child): (&Vec<u8>, &Arc<Fixed>)| Entry {
            inode: child.inode,
            kind: entry_kind(child.metadata(Time::default()).mode),
            name: name.clone(),
        };
        children.iter().map(entry).collect()
    }
}

/// Makes fixed files and numbers them.
#[derive(Debug, Default)]
pub struct Builder {
    last_inode: u64,
}

impl Builder {
    /// A file.
    pub fn file(&mut self, content: Content) -> Arc<Fixed> {
        self.last_inode += 1;
        Arc::new(Fixed { inode: self.last_inode, content })
    }

    /// A tree from paths without a leading slash; directories on the way are made.
    pub fn tree(&mut self, files: Vec<(&str, Content)>) -> Arc<Fixed> {
        let mut direct = BTreeMap::new();
        let mut nested: BTreeMap<&str, Vec<(&str, Content)>> = BTreeMap::new();
        for (path, content) in files {
            match path.split_once('/') {
                Some((directory, rest)) => nested.entry(directory).or_default().push((rest, content)),
                None => _ = direct.insert(path.as_bytes().to_vec(), self.file(content)),
            }
        }
        for (name, files) in nested {
            let directory = self.tree(files);
            direct.insert(name.as_bytes().to_vec(), directory);
        }
        self.file(Content::Directory(direct))
    }

    /// `/dev`.
    pub fn dev(&mut self) -> Arc<Fixed> {
        let link = |target: &str| Content::Link(target.into());
        self.tree(vec![
            ("null", Content::Device(Device::Null)),
            ("zero", Content::Device(Device::Zero)),
            ("full", Content::Device(Device::Full)),
            ("random", Content::Device(Device::Random)),
            ("urandom", Content::Device(Device::Urandom)),
            ("tty", Content::Device(Device::Terminal)),
            ("ptmx", Content::Device(Device::Multiplexer)),
            ("fd", link("/proc/self/fd")),
            ("stdin", link("/proc/self/fd/0")),
            ("stdout", link("/proc/self/fd/1")),
            ("stderr", link("/proc/self/fd/2")),
        ])
    }

    /// `/sys`, as little of it as language runtimes look for.
    pub fn sys(&mut self, vcpu_count: u32) -> Arc<Fixed> {
        let text = |text: &str| Content::Text(format!("{text}\n").into_bytes().into());
        let processors = match vcpu_count {
            0 | 1 => "0".to_owned(),
            count => format!("0-{}", count - 1),
        };
        let mask = format!("{:x}", u64::MAX >> (64 - vcpu_count.clamp(1, 64)));
        let mut files: Vec<(String, Content)> = vec![
            ("devices/system/cpu/online".to_owned(), text(&processors)),
            ("devices/system/cpu/possible".to_owned(), text(&processors)),
            ("devices/system/cpu/present".to_owned(), text(&processors)),
            ("devices/system/cpu/offline".to_owned(), text("")),
            ("devices/system/cpu/isolated".to_owned(), text("")),
            ("devices/system/cpu/kernel_max".to_owned(), text("63")),
            ("devices/system/node/online".to_owned(), text("0")),
            ("devices/system/node/possible".to_owned(), text("0")),
            ("devices/system/node/node0/cpulist".to_owned(), text(&processors)),
            ("devices/system/node/node0/cpumap".to_owned(), text(&mask)),
            ("kernel/mm/transparent_hugepage/enabled".to_owned(), text("always madvise [never]")),
            ("kernel/mm/transparent_hugepage/hpage_pmd_size".to_owned(), text("2097152")),
        ];
        // One package; each virtual CPU is a core of its own.
        for index in 0..vcpu_count.max(1) {
            let own = (index.to_string(), format!("{:x}", 1_u64 << index.min(63)));
            for (name, value) in [
                ("core_id", own.0.as_str()),
                ("physical_package_id", "0"),
                ("core_cpus", &own.1),
                ("core_cpus_list", &own.0),
                ("thread_siblings", &own.1),
                ("thread_siblings_list", &own.0),
                ("core_siblings", &mask),
                ("core_siblings_list", &processors),
                ("package_cpus", &mask),
                ("package_cpus_list", &processors),
            ] {
                files.push((format!("devices/system/cpu/cpu{index}/topology/{name}"), text(value)));
            }
        }
        let (paths, contents): (Vec<String>, Vec<Content>) = files.into_iter().unzip();
        self.tree(paths.iter().map(String::as_str).zip(contents).collect())
    }
}
