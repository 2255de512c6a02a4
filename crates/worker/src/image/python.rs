//! The managed Python runtime: what of a host's Python goes into an image, and our bootstrap.
//!
//! Files keep the paths that they have on the host, so the interpreter finds its library as it does there. Left out:
//! installed packages (a function brings its own), test suites, desktop parts, `ensurepip`. The root file system is
//! read-only, so compiled modules must be there in advance: each module gets an unchecked-hash `.pyc`, which stays valid
//! whatever the files' times are.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::elf::Closure;
use super::host::HostPython;
use super::mirror::Mirror;
use super::{Description, ImageError, Import, RuntimeImage, Step};
use crate::trees::FileError;

/// Directories of the standard library that functions have no use for.
const SKIPPED_DIRECTORIES: [&str; 10] = [
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "dist-packages",
    "__pycache__",
];
/// Prefixes of files that functions have no use for: Tk, extension modules of the test suite, the host's start-up hooks.
const SKIPPED_FILES: [&str; 9] = [
    "_tkinter.",
    "_ctypes_test.",
    "_test",
    "_xxtestfuzz.",
    "xxlimited",
    "_xxsubinterpreters.",
    "sitecustomize.",
    "usercustomize.",
    "libpython",
];
/// Objects that no part of the image says it needs: the C library, `threading` and `ssl` open some by name, and wheels
/// from PyPI may expect the others (`manylinux`, PEP 600), as AWS's images have them.
const LOADED_BY_NAME: [&str; 10] = [
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libutil.so.1",
    "libnss_files.so.2",
    "libnss_dns.so.2",
    "libresolv.so.2",
];
/// Programs that the standard library starts: `os.system`, `subprocess` with `shell=True`, `#!/usr/bin/env`.
const PROGRAMS: [&str; 2] = ["/bin/sh", "/usr/bin/env"];
/// Data that the C library and OpenSSL look for.
const DATA: [&str; 5] =
    ["/etc/ld.so.cache", "/usr/lib/ssl/openssl.cnf", "/etc/ssl/openssl.cnf", "/etc/protocols", "/etc/services"];
/// Directories of such data.
const DATA_DIRECTORIES: [&str; 2] = ["/usr/share/zoneinfo", UTF8_LOCALE];
const UTF8_LOCALE: &str = "/usr/lib/locale/C.utf8";
/// Where distributions keep the bundle of certificates; the first that exists is used.
pub(super) const CERTIFICATE_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where programs look for it.
const CERTIFICATE_PATHS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Users, names and time zone as a function expects them; nothing of the host's own.
const ETC: [(&str, &str); 6] = [
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nsbx_user1051:x:993:990::/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
    ("/etc/group", "root:x:0:\nsbx_user1051:x:990:\nnogroup:x:65534:\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
    ("/etc/os-release", "NAME=Calypte\nID=calypte\nPRETTY_NAME=\"Calypte managed runtime\"\n"),
];
/// The file that starts functions.
const BOOTSTRAP_PATH: &str = "/var/runtime/bootstrap.py";
const COMPILED_BOOTSTRAP_PATH: &str = "/var/runtime/bootstrap.pyc";
/// Where it looks for the compiled library in one file.
const PACK_PATH: &str = "/var/runtime/library.pack";
const BOOTSTRAP: &[u8] = include_bytes!("../../../../runtimes/python/bootstrap.py");
/// Largest compiled module, or pack of all, that is accepted from the interpreter.
const COMPILED_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// Reads lines `source NUL name in tracebacks NUL module` and answers each with a big-endian length and a `.pyc`; length 0
/// where the source does not compile (some library files are meant not to) or is an extension module. What the host
/// compiled already is taken over. Last comes the pack of all that have a module name; `bootstrap.py` says how it is made.
const COMPILE: &str = r"
import sys, json
early = set(sys.modules)
import importlib.util, marshal, os, struct, warnings
def compiled(source, name):
    with open(source, 'rb') as file:
        text = file.read()
    try:
        with open(importlib.util.cache_from_source(source), 'rb') as file:
            cached = file.read()
        flags, mtime, size = struct.unpack('<III', cached[4:16])
        status = os.stat(source)
        is_current = flags == 0 and mtime == int(status.st_mtime) & 0xFFFFFFFF and size == status.st_size
        if cached[:4] == importlib.util.MAGIC_NUMBER and is_current and source == name:
            return text, cached[16:]
    except (OSError, struct.error, NotImplementedError):
        pass
    try:
        return text, marshal.dumps(compile(text, name, 'exec', dont_inherit=True))
    except (SyntaxError, ValueError):
        return text, None
def answer(content):
    sys.stdout.buffer.write(struct.pack('>I', len(content)) + content)
warnings.simplefilter('ignore')
packed = []
for line in sys.stdin.buffer.read().split(b'\n'):
    if not line:
        continue
    source, name, module = (part.decode('utf-8', 'surrogateescape') for part in line.split(b'\0'))
    if source.endswith('.so'):
        packed.append((module, name, b''))
        answer(b'')
        continue
    text, code = compiled(source, name)
    if code is None:
        answer(b'')
        continue
    if module:
        packed.append((module, name, code))
    answer(importlib.util.MAGIC_NUMBER + struct.pack('<I', 1) + importlib.util.source_hash(text) + code)
packed.sort(key=lambda entry: (entry[0] not in early, entry[0]))
index, offset, early_length = {}, 0, 0
for module, name, code in packed:
    index[module] = (name, offset, len(code))
    offset += len(code)
    if module in early:
        early_length = offset
head = marshal.dumps((importlib.util.MAGIC_NUMBER, index))
answer(struct.pack('<II', len(head), early_length) + head + b''.join(code for _, _, code in packed))
";

/// What is compiled, from which file, and where the result goes in the image.
struct Module {
    source: PathBuf,
    /// As tracebacks show it.
    shown: PathBuf,
    /// As programs import it; empty for what only runs as a program.
    name: String,
    compiled: PathBuf,
}

impl Module {
    /// A file of a library directory; `None` if it is no module, or has a name that the list for the interpreter cannot
    /// hold.
    fn of_library(source: &Path, library: &Path, python: &HostPython) -> Option<Self> {
        let relative = source.strip_prefix(library).ok()?;
        let stem = source.file_stem()?.to_str()?;
        // `_json.cpython-311-x86_64-linux-gnu.so` is `_json`.
        let stem = stem.split('.').next()?;
        let mut names: Vec<&str> = relative.parent()?.iter().map(OsStr::to_str).collect::<Option<_>>()?;
        match source.extension()?.to_str()? {
            "py" if stem == "__init__" => {}
            "py" => names.push(stem),
            // Extension modules are in a directory of their own that is on the path itself.
            "so" if relative.parent()?.ends_with("lib-dynload") => names = vec![stem],
            _ => return None,
        }
        if source.as_os_str().as_bytes().contains(&b'\n') {
            return None;
        }
        let file_name = format!("{stem}.cpython-{}{}.pyc", python.version.0, python.version.1);
        let compiled = source.parent()?.join("__pycache__").join(file_name);
        Some(Self { source: source.to_owned(), shown: source.to_owned(), name: names.join("."), compiled })
    }

    fn to_line(&self) -> Vec<u8> {
        let (source, shown) = (self.source.as_os_str().as_bytes(), self.shown.as_os_str().as_bytes());
        [source, b"\0", shown, b"\0", self.name.as_bytes(), b"\n"].concat()
    }
}

/// Fills an image with a host's Python.
pub(super) fn import(python: &HostPython, import: &mut Import<'_>) -> Result<Description, ImageError> {
    let scratch = import.scratch.clone();
    let mut mirror = Mirror::new(import);
    mirror.step(Step::Search);
    let mut closure = Closure::new();
    let mut modules = Vec::new();
    mirror.add(&python.executable)?;
    closure.add(&python.executable)?;
    for library in &python.libraries {
        let mut files = Vec::new();
        add_library(library, &mut mirror, &mut closure, &mut files)?;
        modules.extend(files.iter().filter_map(|file| Module::of_library(file, library, python)));
    }
    for name in LOADED_BY_NAME {
        closure.add_by_name(name)?;
    }
    for program in PROGRAMS.map(Path::new) {
        if mirror.add_if_present(program)? {
            closure.add(program)?;
        }
    }
    for object in closure.into_paths() {
        mirror.add(&object)?;
    }
    add_data(python, &mut mirror)?;
    mirror.write(Path::new(BOOTSTRAP_PATH), 0o644, BOOTSTRAP)?;
    // Its path is in the image only, so it is compiled from a copy. A program that is started as a source file would be
    // compiled at every start: this one is started from its compiled form, which needs no `__pycache__`.
    let copy = scratch.join("bootstrap.py");
    fs::write(&copy, BOOTSTRAP).map_err(FileError::on("write", &copy))?;
    modules.push(Module {
        source: copy,
        shown: BOOTSTRAP_PATH.into(),
        name: String::new(),
        compiled: COMPILED_BOOTSTRAP_PATH.into(),
    });
    compile(python, &modules, &mut mirror)?;
    Ok(Description {
        // No user's own packages: there is no such user.
        bootstrap: vec![python.executable.display().to_string(), "-s".to_owned(), COMPILED_BOOTSTRAP_PATH.to_owned()],
        python_version: Some(python.version_text()),
        source: python.source(),
        ..Description::default()
    })
}

/// Whether an image has the bootstrap of this version of Calypte.
pub(super) fn has_current_bootstrap(image: &RuntimeImage) -> bool {
    let path = image.root.join(BOOTSTRAP_PATH.trim_start_matches('/'));
    fs::read(path).is_ok_and(|bootstrap| bootstrap == BOOTSTRAP)
}

/// Copies a library directory; collects its files and the objects that its extension modules need.
fn add_library(
    directory: &Path,
    mirror: &mut Mirror<'_, '_>,
    closure: &mut Closure,
    files: &mut Vec<PathBuf>,
) -> Result<(), ImageError> {
    if !directory.is_dir() {
        return Ok(());
    }
    for path in sorted_entries(directory)? {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if path.is_dir() {
            if !SKIPPED_DIRECTORIES.contains(&name) && !name.starts_with("config-") {
                add_library(&path, mirror, closure, files)?;
            }
            continue;
        }
        // A dangling link is of no use in an image either.
        if SKIPPED_FILES.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with(".a") || !path.exists() {
            continue;
        }
        mirror.add(&path)?;
        if path.extension() == Some(OsStr::new("so")) {
            closure.add(&path)?;
        }
        files.push(path);
    }
    Ok(())
}

fn add_data(python: &HostPython, mirror: &mut Mirror<'_, '_>) -> Result<(), ImageError> {
    for path in DATA {
        mirror.add_if_present(Path::new(path))?;
    }
    for directory in DATA_DIRECTORIES {
        add_directory(Path::new(directory), mirror)?;
    }
    // Lambda's locale. Hosts seldom have it; its character type, all that functions depend on, is the same.
    if Path::new(UTF8_LOCALE).is_dir() {
        mirror.link(Path::new("/usr/lib/locale/en_US.utf8"), OsStr::new("C.utf8"))?;
    }
    for (path, content) in ETC {
        mirror.write(Path::new(path), 0o644, content.as_bytes())?;
    }
    // UTC, whatever the host's own time zone is.
    mirror.link(Path::new("/etc/localtime"), OsStr::new("/usr/share/zoneinfo/UTC"))?;
    if let Some(bundle) = CERTIFICATE_BUNDLES.iter().map(Path::new).find(|path| path.is_file()) {
        let content = fs::read(bundle).map_err(FileError::on("read", bundle))?;
        let [first, others @ ..] = CERTIFICATE_PATHS;
        mirror.write(Path::new(first), 0o644, &content)?;
        for path in others.into_iter().map(Path::new).chain(python.certificates.as_deref()) {
            if path != Path::new(first) && path.is_absolute() {
                mirror.link(path, OsStr::new(first))?;
            }
        }
    }
    // Usual names, where the host's own are elsewhere: `calypte run -- python3 …`, `#!/usr/bin/python3`.
    let executable = python.executable.as_os_str();
    for name in ["python3".to_owned(), python.runtime_name()] {
        let path = Path::new("/usr/bin").join(name);
        if path.as_os_str() != executable {
            mirror.link(&path, executable)?;
        }
    }
    Ok(())
}

fn add_directory(directory: &Path, mirror: &mut Mirror<'_, '_>) -> Result<(), ImageError> {
    if !directory.is_dir() {
        return Ok(());
    }
    for path in sorted_entries(directory)? {
        // Debian's copies of the whole time zone database, with and without leap seconds.
        let is_copy = ["posix", "right"].map(OsStr::new).contains(&path.file_name().unwrap_or_default());
        if path.is_dir() && !is_copy {
            add_directory(&path, mirror)?;
        } else if !path.is_dir() {
            mirror.add_if_present(&path)?;
        }
    }
    Ok(())
}

/// Compiles modules with the interpreter that will run them.
fn compile(python: &HostPython, modules: &[Module], mirror: &mut Mirror<'_, '_>) -> Result<(), ImageError> {
    mirror.step(Step::Compile);
    let failed = |problem: String| ImageError::Program { program: python.executable.display().to_string(), problem };
    let io_failed = |error: io::Error| failed(format!("it cannot compile the standard library ({error})"));
    let mut list = tempfile::tempfile().map_err(io_failed)?;
    for module in modules {
        list.write_all(&module.to_line()).map_err(io_failed)?;
    }
    list.rewind().map_err(io_failed)?;
    let mut child = Command::new(&python.executable)
        .args(["-I", "-S", "-B", "-c", COMPILE])
        // Equal input must give equal bytes, so that importing twice stores once.
        .env_clear()
        .env("PYTHONHASHSEED", "0")
        .stdin(Stdio::from(list))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(io_failed)?;
    let mut answers = child.stdout.take().map(BufReader::new).ok_or_else(|| failed("it has no output".to_owned()))?;
    let mut write_all = || {
        for module in modules {
            let code = read_compiled(&mut answers).map_err(io_failed)?;
            if !code.is_empty() {
                mirror.write(&module.compiled, 0o644, &code)?;
            }
        }
        let pack = read_compiled(&mut answers).map_err(io_failed)?;
        mirror.write(Path::new(PACK_PATH), 0o644, &pack)
    };
    let written: Result<(), ImageError> = write_all();
    drop(answers);
    // After an error it may still be writing: its output is closed, so it ends.
    let status = child.wait().map_err(io_failed)?;
    written?;
    if status.success() { Ok(()) } else { Err(failed(format!("compiling the standard library ended with {status}"))) }
}

fn read_compiled(answers: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    answers.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > COMPILED_BYTES_MAX {
        return Err(io::Error::other(format!("a module of {length} bytes")));
    }
    let mut code = vec![0; length as usize];
    answers.read_exact(&mut code)?;
    Ok(code)
}

fn sorted_entries(directory: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let on_error = || FileError::on("list", directory);
    let listing = fs::read_dir(directory).map_err(on_error())?;
    let mut paths =
        listing.map(|entry| Ok(entry.map_err(on_error())?.path())).collect::<Result<Vec<_>, FileError>>()?;
    paths.sort();
    Ok(paths)
}
