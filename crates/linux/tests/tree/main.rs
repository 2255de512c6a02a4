//! The guest's tree of files over real directories of the host: what paths lead to, that none leads out, and the limits of
//! the file systems in memory.

mod machine;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use calypte_linux::errno::Errno;
use calypte_linux::file::{self, OpenFile};
use calypte_linux::fs::change::{self, Existing, Made};
use calypte_linux::fs::open::{OpenHow, open};
use calypte_linux::fs::walk::{Follow, Walker};
use calypte_linux::fs::{Location, RootMode, TMP_INODES_MAX, open_executable};
use calypte_linux::guest::{Guest, GuestConfig, Observer};
use calypte_linux::kernel::Kernel;
use calypte_linux::mm::SpaceId;
use calypte_linux::process::Process;
use rustix::fs::{Mode, OFlags};

const PID: u32 = 1;
const TMP_MIB: u32 = 1;

struct Nobody;

impl Observer for Nobody {
    fn progress(&self, _kernel: &mut Kernel) {}
}

fn directory(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Works on the kernel of a guest with these mounts and one process, which runs nothing.
fn with_kernel<T>(mounts: &[(&str, &Path)], work: impl FnOnce(&mut Kernel) -> T) -> T {
    let config = GuestConfig {
        way_out: None,
        memory_mib: 16,
        tmp_mib: TMP_MIB,
        mounts: mounts.iter().map(|(at, path)| ((*at).to_owned(), directory(path))).collect(),
        root: RootMode::ReadOnly,
        host_name: "guest".to_owned(),
        vcpu_count: 1,
        services: Vec::new(),
        observer: Arc::new(Nobody),
    };
    let guest = Guest::new(Arc::new(machine::Idle::default()), config).unwrap();
    let mut kernel = guest.lock();
    let root = kernel.files.root();
    kernel.processes.insert(PID, Process::new(PID, SpaceId(0), file::standard_streams(), root, 0));
    work(&mut kernel)
}

fn try_open(kernel: &mut Kernel, path: &str, flags: i32) -> Result<Arc<OpenFile>, Errno> {
    let root = kernel.files.root();
    open(kernel, PID, &root, path.as_bytes(), OpenHow::new(flags, 0o644))
}

fn read(kernel: &mut Kernel, path: &str) -> Result<String, Errno> {
    let file = try_open(kernel, path, libc::O_RDONLY)?;
    file.read(kernel, None, 4096).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn names(kernel: &Kernel, path: &str) -> Vec<String> {
    let location = find(kernel, path).unwrap();
    let mut names: Vec<String> = location
        .list(kernel, PID)
        .unwrap()
        .into_iter()
        .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
        .filter(|name| name != "." && name != "..")
        .collect();
    names.sort();
    names
}

fn find(kernel: &Kernel, path: &str) -> Result<Location, Errno> {
    Walker::new(kernel, PID)?.existing(&kernel.files.root(), path.as_bytes(), Follow::Yes)
}

/// `<folder>/root` is what the guest sees, `<folder>/outside` what it must not.
fn host_tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::write(root.join("file"), "in the root").unwrap();
    fs::write(root.join("a/file"), "in a").unwrap();
    fs::write(root.join("a/b/file"), "in b").unwrap();
    fs::write(root.join("program"), "#!").unwrap();
    fs::set_permissions(root.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, target) in [
        ("absolute", "/file"),
        ("outwards", "../outside/secret"),
        ("far_outwards", "../../../../../../../../etc/passwd"),
        ("host_path", outside.join("secret").to_str().unwrap()),
        ("into", "a/b"),
        ("chain", "into/../file"),
        ("loop", "loop"),
        ("up", ".."),
        ("a/b/back", "../../file"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    rustix::fs::mknodat(directory(&root), "fifo", rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    folder
}

#[test]
fn paths_lead_to_files_of_the_tree_and_never_out_of_it() {
    let folder = host_tree();
    with_kernel(&[("/", &folder.path().join("root"))], |kernel| {
        for (path, expected) in [
            ("/file", Ok("in the root")),
            ("file", Ok("in the root")),
            ("//a/./b/../file", Ok("in a")),
            ("/../../../file", Ok("in the root")),
            ("/a/b/../../../../file", Ok("in the root")),
            ("/absolute", Ok("in the root")),
            ("/into/file", Ok("in b")),
            ("/chain", Ok("in a")),
            ("/a/b/back", Ok("in the root")),
            ("/up/up/up/file", Ok("in the root")),
            ("/proc/self/root/a/file", Ok("in a")),
            ("/proc/self/cwd/a/file", Ok("in a")),
            ("/outwards", Err(Errno::ENOENT)),
            ("/far_outwards", Err(Errno::ENOENT)),
            ("/host_path", Err(Errno::ENOENT)),
            ("/up/outside/secret", Err(Errno::ENOENT)),
            ("/loop", Err(Errno::ELOOP)),
            ("/fifo", Err(Errno::ENOENT)),
            ("/socket", Err(Errno::ENOENT)),
            ("/file/", Err(Errno::ENOTDIR)),
            ("/file/x", Err(Errno::ENOTDIR)),
            ("/missing/x", Err(Errno::ENOENT)),
            ("", Err(Errno::ENOENT)),
            ("/a\u{0}b", Err(Errno::EINVAL)),
        ] {
            assert_eq!(read(kernel, path), expected.map(str::to_owned), "{path}");
        }
        assert_eq!(read(kernel, &format!("/{}", "n".repeat(256))), Err(Errno::ENAMETOOLONG));
        let listed = names(kernel, "/");
        assert!(listed.contains(&"a".to_owned()) && listed.contains(&"tmp".to_owned()), "{listed:?}");
        assert!(!listed.contains(&"fifo".to_owned()) && !listed.contains(&"socket".to_owned()), "{listed:?}");
    });
}

#[test]
fn trees_of_the_host_are_read_only() {
    let folder = host_tree();
    with_kernel(&[("/", &folder.path().join("root"))], |kernel| {
        let root = kernel.files.root();
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC, libc::O_WRONLY | libc::O_CREAT] {
            assert_eq!(try_open(kernel, "/file", flags).unwrap_err(), Errno::EROFS, "{flags:o}");
        }
        assert_eq!(try_open(kernel, "/new", libc::O_WRONLY | libc::O_CREAT).unwrap_err(), Errno::EROFS);
        assert_eq!(change::unlink(kernel, PID, &root, b"/file"), Err(Errno::EROFS));
        assert_eq!(change::remove_directory(kernel, PID, &root, b"/a/b"), Err(Errno::EROFS));
        assert_eq!(change::remove_directory(kernel, PID, &root, b"/tmp"), Err(Errno::EBUSY));
        let rename = change::rename(kernel, PID, (&root, b"/file"), (&root, b"/tmp/file"), Existing::Replace);
        assert_eq!(rename, Err(Errno::EXDEV));
        let made = change::make(kernel, PID, &root, b"/a/new", Made::Directory, 0o755);
        assert_eq!(made.unwrap_err(), Errno::EROFS);
        let file = find(kernel, "/file").unwrap();
        assert_eq!(change::change_mode(kernel, PID, &file, 0o777), Err(Errno::EROFS));
        assert_eq!(change::truncate(kernel, PID, &file, 0), Err(Errno::EROFS));
    });
    assert_eq!(fs::read_to_string(folder.path().join("root/file")).unwrap(), "in the root");
}

#[test]
fn mount_points_are_made_where_the_tree_has_none() {
    let folder = host_tree();
    let (root, code) = (folder.path().join("root"), folder.path().join("outside"));
    with_kernel(&[("/var/task", &code), ("/", &root), ("/a/over", &code)], |kernel| {
        assert_eq!(read(kernel, "/var/task/secret").as_deref(), Ok("secret"));
        assert_eq!(read(kernel, "/var/task/../../file").as_deref(), Ok("in the root"));
        assert_eq!(read(kernel, "/a/over/secret").as_deref(), Ok("secret"));
        assert_eq!(read(kernel, "/a/over/../file").as_deref(), Ok("in a"));
        assert_eq!(names(kernel, "/a"), ["b", "file", "over"]);
        assert_eq!(names(kernel, "/var"), ["task"]);
        assert_eq!(find(kernel, "/a/b/../over").unwrap().path(&kernel.files).unwrap(), b"/a/over");
        assert_eq!(find(kernel, "/into").unwrap().path(&kernel.files).unwrap(), b"/a/b");
        assert_eq!(read(kernel, "/dev/null").as_deref(), Ok(""));
        assert_eq!(names(kernel, "/dev/shm"), Vec::<String>::new());
    });
}

#[test]
fn a_directory_that_the_host_moves_away_meanwhile_leads_nowhere_else() {
    let folder = host_tree();
    let (inside, away) = (folder.path().join("root/a/b"), folder.path().join("outside/b"));
    let is_over = AtomicBool::new(false);
    with_kernel(&[("/", &folder.path().join("root"))], |kernel| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    fs::rename(&inside, &away).unwrap();
                    fs::rename(&away, &inside).unwrap();
                }
            });
            for _ in 0..3000 {
                for path in ["/a/b/../secret", "/into/../secret", "/a/b/../../outside/secret"] {
                    assert_eq!(read(kernel, path), Err(Errno::ENOENT), "{path}");
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_file_that_the_host_replaces_by_a_link_or_fifo_is_not_followed() {
    let folder = host_tree();
    let root = folder.path().join("root");
    let (path, link) = (root.join("changing"), root.join("link"));
    let is_over = AtomicBool::new(false);
    fs::write(&path, "plain").unwrap();
    with_kernel(&[("/", &root)], |kernel| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let other = root.join("other");
                while !is_over.load(Ordering::Relaxed) {
                    symlink(folder.path().join("outside/secret"), &link).unwrap();
                    fs::rename(&link, &path).unwrap();
                    fs::write(&other, "plain").unwrap();
                    fs::rename(&other, &path).unwrap();
                }
            });
            for _ in 0..3000 {
                match read(kernel, "/changing") {
                    Ok(text) => assert!(text == "plain" || text.is_empty(), "{text}"),
                    Err(errno) => assert!(matches!(errno, Errno::ENOENT | Errno::ELOOP | Errno::EINVAL), "{errno:?}"),
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn only_executable_regular_files_are_executed() {
    let folder = host_tree();
    with_kernel(&[("/", &folder.path().join("root"))], |kernel| {
        let root = kernel.files.root();
        let found = open_executable(kernel, PID, &root, b"/into/../../program").unwrap();
        assert_eq!((&*found.path, found.size), (&b"/program"[..], 2));
        for (path, expected) in [
            (&b"/file"[..], Errno::EACCES),
            (b"/a", Errno::EACCES),
            (b"/missing", Errno::ENOENT),
            (b"/dev/null", Errno::EACCES),
            (b"/proc/version", Errno::EACCES),
        ] {
            assert_eq!(open_executable(kernel, PID, &root, path).unwrap_err(), expected);
        }
    });
}

#[test]
fn permissions_hold_for_other_users() {
    let folder = host_tree();
    with_kernel(&[("/", &folder.path().join("root"))], |kernel| {
        let root = kernel.files.root();
        change::make(kernel, PID, &root, b"/tmp/private", Made::Directory, 0o700).unwrap();
        try_open(kernel, "/tmp/private/file", libc::O_CREAT | libc::O_WRONLY).unwrap();
        try_open(kernel, "/tmp/mine", libc::O_CREAT | libc::O_WRONLY).unwrap();
        let process = kernel.processes.get_mut(&PID).unwrap();
        process.credentials.uid_effective = 1000;
        process.credentials.uid_file = 1000;
        process.credentials.gid_effective = 1000;
        assert_eq!(read(kernel, "/tmp/private/file"), Err(Errno::EACCES));
        assert_eq!(read(kernel, "/tmp/mine").as_deref(), Ok(""));
        assert_eq!(try_open(kernel, "/tmp/mine", libc::O_WRONLY).unwrap_err(), Errno::EACCES);
        assert_eq!(change::unlink(kernel, PID, &root, b"/tmp/mine"), Err(Errno::EPERM), "/tmp is sticky");
        let mine = find(kernel, "/tmp/mine").unwrap();
        assert_eq!(change::change_mode(kernel, PID, &mine, 0o777), Err(Errno::EPERM));
        assert_eq!(change::change_owner(kernel, PID, &mine, Some(1000), None), Err(Errno::EPERM));
    });
}

#[test]
fn the_quota_of_tmp_holds_and_removed_files_give_their_space_back() {
    with_kernel(&[], |kernel| {
        let root = kernel.files.root();
        let quota = TMP_MIB as usize * 1024 * 1024;
        for _ in 0..3 {
            let file = try_open(kernel, "/tmp/big", libc::O_CREAT | libc::O_WRONLY).unwrap();
            assert_eq!(file.write(kernel, None, &vec![1; quota + 1]), Ok(quota), "as much as there is room for");
            assert_eq!(file.write(kernel, None, b"x"), Err(Errno::ENOSPC));
            let other = try_open(kernel, "/tmp/other", libc::O_CREAT | libc::O_WRONLY).unwrap();
            assert_eq!(other.write(kernel, None, b"x"), Err(Errno::ENOSPC));
            change::unlink(kernel, PID, &root, b"/tmp/big").unwrap();
            assert_eq!(other.write(kernel, None, b"x"), Err(Errno::ENOSPC), "the file is still open");
            drop(file);
            assert_eq!(other.write(kernel, None, b"x"), Ok(1));
            change::unlink(kernel, PID, &root, b"/tmp/other").unwrap();
        }
    });
}

#[test]
fn the_number_of_files_in_tmp_is_bounded() {
    with_kernel(&[], |kernel| {
        let root = kernel.files.root();
        let make = |kernel: &mut Kernel, index: u64| {
            change::make(kernel, PID, &root, format!("/tmp/{index}").as_bytes(), Made::Regular, 0o600).map(drop)
        };
        let made = (0..).take_while(|index| make(kernel, *index).is_ok()).count() as u64;
        assert_eq!(made, TMP_INODES_MAX - 1, "one is the root");
        assert_eq!(make(kernel, made), Err(Errno::ENOSPC));
        change::unlink(kernel, PID, &root, b"/tmp/7").unwrap();
        assert_eq!(make(kernel, made), Ok(()));
    });
}

#[test]
fn directories_nested_without_end_are_dropped_without_recursion() {
    with_kernel(&[], |kernel| {
        let mut base = find(kernel, "/tmp").unwrap();
        for _ in 0..20_000 {
            change::make(kernel, PID, &base, b"d", Made::Directory, 0o755).unwrap();
            base = Walker::new(kernel, PID).unwrap().existing(&base, b"d", Follow::Yes).unwrap();
        }
        assert_eq!(base.path(&kernel.files).unwrap().len(), 4096, "the end of the path: open files keep it");
    });
}

#[test]
fn proc_shows_the_process_and_its_descriptors() {
    with_kernel(&[], |kernel| {
        assert!(read(kernel, "/proc/meminfo").unwrap().starts_with("MemTotal:"));
        assert!(read(kernel, "/proc/1/status").unwrap().contains("Pid:\t1\n"));
        assert!(read(kernel, "/proc/cpuinfo").unwrap().contains("flags\t\t: fpu"));
        assert!(read(kernel, "/proc/net/dev").unwrap().contains("lo:"));
        assert!(read(kernel, "/proc/self/limits").unwrap().contains("Max open files"));
        assert!(read(kernel, "/proc/mounts").unwrap().contains("tmpfs /tmp tmpfs rw"));
        assert_eq!(names(kernel, "/proc/self/fd"), ["0", "1", "2"]);
        assert_eq!(read(kernel, "/proc/2/status"), Err(Errno::ENOENT));
        assert_eq!(read(kernel, "/proc/self/fd/9"), Err(Errno::ENOENT));
        assert_eq!(read(kernel, "/proc/01/status"), Err(Errno::ENOENT));
        assert_eq!(try_open(kernel, "/proc/version", libc::O_WRONLY).unwrap_err(), Errno::EACCES);
        assert_eq!(read(kernel, "/sys/devices/system/cpu/online").as_deref(), Ok("0\n"));
        let file = try_open(kernel, "/tmp/f", libc::O_CREAT | libc::O_RDWR).unwrap();
        file.write(kernel, None, b"content").unwrap();
        let process = kernel.processes.get_mut(&PID).unwrap();
        process.files.insert_at_least(file, false, 5).unwrap();
        assert_eq!(read(kernel, "/proc/self/fd/5").as_deref(), Ok("content"), "opened anew, at the beginning");
        assert_eq!(read(kernel, "/dev/fd/5").as_deref(), Ok("content"));
    });
}

/// A file opened by the way to it, opened by the way to that, and so on.
#[test]
fn ways_to_files_do_not_pile_up() {
    with_kernel(&[], |kernel| {
        let mut fd = 1;
        for _ in 0..20_000 {
            let file = try_open(kernel, &format!("/proc/self/fd/{fd}"), libc::O_PATH).unwrap();
            let files = &mut kernel.process_mut(PID).files;
            let next = files.insert_at_least(file, false, 3).unwrap();
            if fd > 2 {
                files.remove(fd).unwrap();
            }
            fd = next;
        }
        let metadata = find(kernel, &format!("/proc/self/fd/{fd}")).unwrap().metadata(kernel).unwrap();
        assert_eq!(metadata.mode & libc::S_IFMT, libc::S_IFIFO, "still standard output");
        try_open(kernel, &format!("/proc/self/fd/{fd}"), libc::O_WRONLY).unwrap();
    });
}
