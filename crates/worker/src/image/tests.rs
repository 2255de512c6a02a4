//! Imports of every kind into a real data folder; the host's Python is run on the image that was made of it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::*;

fn images() -> (tempfile::TempDir, Images) {
    let directory = tempfile::tempdir().unwrap();
    let images = Images::open(directory.path().join("runtimes")).unwrap();
    (directory, images)
}

/// An archive from `(path, type, mode, content or link target)`.
fn tar(entries: &[(&str, EntryType, u32, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for &(path, kind, mode, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        // The builder refuses what an attacker would write.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if is_link {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        let data = if is_link { b"" } else { content.as_bytes() };
        header.set_size(data.len() as u64);
        header.set_cksum();
        archive.append(&header, data).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn write(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

const FILE: EntryType = EntryType::Regular;
const DIRECTORY: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const HARD_LINK: EntryType = EntryType::Link;

#[test]
fn names_are_given_listed_and_taken_and_equal_images_stored_once() {
    let (directory, images) = images();
    let source = directory.path().join("source");
    write(&source, "bin/program", "x");
    fs::set_permissions(source.join("bin/program"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("/bin/program", source.join("link")).unwrap();
    let one = images.add_from_directory("one", &source, &mut |_| {}).unwrap();
    let two = images.add_from_directory("two.x", &source, &mut |_| {}).unwrap();
    assert_eq!((&one.digest, &one.root), (&two.digest, &two.root));
    assert_eq!(images.get("one").unwrap(), one);
    assert_eq!(images.list().unwrap(), [one.clone(), two]);
    assert_eq!(fs::metadata(one.root.join("bin/program")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_link(one.root.join("link")).unwrap(), Path::new("/bin/program"));
    for path in MOUNT_POINTS {
        assert!(one.root.join(path).is_dir(), "{path}");
    }
    images.remove("one").unwrap();
    assert!(one.root.is_dir());
    let pin = images.pin(&one).unwrap().unwrap();
    images.remove("two.x").unwrap();
    assert!(one.root.is_dir(), "somebody uses it");
    drop(pin);
    assert_eq!(images.remove_unnamed().unwrap(), 1);
    assert!(!one.root.exists());
    let error = images.get("one").unwrap_err();
    assert!(matches!(&error, ImageError::Unknown { name, known } if name == "one" && known.is_empty()), "{error}");
    assert!(images.pin(&one).unwrap().is_none());
}

#[test]
fn a_name_moves_to_its_new_image_and_the_old_one_goes() {
    let (directory, images) = images();
    let source = directory.path().join("source");
    write(&source, "file", "1");
    let first = images.add_from_directory("name", &source, &mut |_| {}).unwrap();
    write(&source, "file", "2");
    let second = images.add_from_directory("name", &source, &mut |_| {}).unwrap();
    assert_eq!(images.get("name").unwrap(), second);
    assert!(!first.root.exists() && second.root.exists());
}

#[test]
fn names_and_damaged_records_are_refused_clearly() {
    let (directory, images) = images();
    for name in ["", "../x", "a/b", "A", ".hidden", "-x", &"x".repeat(65)] {
        assert!(matches!(images.get(name), Err(ImageError::Name { .. })), "{name:?}");
    }
    let runtimes = directory.path().join("runtimes");
    let digest = "0".repeat(64);
    let record = |format: u32, digest: &str| {
        format!(
            r#"{{"format":{format},"name":"x","digest":"{digest}","bootstrap":[],"environment":[],"working_directory":null,
            "python_version":null,"source":"","size_bytes":0,"entry_count":0,"created_s":0}}"#
        )
    };
    for (text, expected) in [
        ("{".to_owned(), "EOF"),
        (record(99, &digest), "format is 99"),
        (record(1, "../../etc"), "not 64 hexadecimal"),
        (record(1, &digest), "is not there"),
    ] {
        write(&runtimes, "damaged.json", text);
        let error = images.get("damaged").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        // Which images are in use is not known now, so none is removed.
        assert!(images.remove_unnamed().is_err());
    }
    images.remove("damaged").unwrap();
}

#[test]
fn archives_become_images_compressed_or_not() {
    let (directory, images) = images();
    let long = format!("{}/file", "d".repeat(90));
    let archive = tar(&[
        ("./", DIRECTORY, 0o755, ""),
        ("./bin/", DIRECTORY, 0o700, ""),
        ("bin/program", FILE, 0o4755, "content"),
        ("bin/other", HARD_LINK, 0o755, "bin/program"),
        ("sbin", SYMLINK, 0o777, "bin"),
        ("sbin/through-link", FILE, 0o644, "y"),
        ("dev/null", EntryType::Char, 0o666, ""),
        (&long, FILE, 0o644, "z"),
    ]);
    let digests: Vec<String> = [archive.clone(), gzip(&archive)]
        .iter()
        .map(|bytes| {
            let path = write(directory.path(), "root.tar", bytes);
            let image = images.add_from_tar("image", &path, &mut |_| {}).unwrap();
            assert_eq!(fs::read(image.root.join("bin/other")).unwrap(), b"content");
            assert_eq!(fs::read(image.root.join("bin/through-link")).unwrap(), b"y");
            assert_eq!(fs::read(image.root.join(&long)).unwrap(), b"z");
            assert!(!image.root.join("dev/null").exists());
            assert_eq!((image.size_bytes, image.bootstrap.len()), (16, 0));
            image.digest
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let (directory, images) = images();
    let mut cut = tar(&[("file", FILE, 0o644, &"x".repeat(2000))]);
    cut.truncate(1024);
    let mut forged = tar(&[("file", FILE, 0o644, "x")]);
    forged[148] ^= 1;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("parent", tar(&[("../escape", FILE, 0o644, "x")]), "leads out"),
        ("absolute", tar(&[("/escape", FILE, 0o644, "x")]), "has an absolute path"),
        ("through a link", tar(&[("l", SYMLINK, 0, "../../.."), ("l/escape/x/y", FILE, 0, "x")]), ""),
        ("link to outside", tar(&[("l", HARD_LINK, 0, "../../../etc/passwd")]), "leads out"),
        ("link to nothing", tar(&[("l", HARD_LINK, 0, "absent")]), "cannot write"),
        ("cut short", cut, "cut short"),
        ("forged", forged, "no tar archive"),
        ("empty", vec![0; 1024], "no entries"),
        ("nothing", Vec::new(), "no entries"),
        ("text", b"this is not an archive ".repeat(100), "no tar archive"),
        ("sparse", tar(&[("s", EntryType::GNUSparse, 0o644, "")]), "sparse"),
        ("long name", tar(&[("n", EntryType::GNULongName, 0, &"x".repeat(2 << 20))]), "longer than"),
        ("gzip of nothing", gzip(b""), "no entries"),
        ("broken gzip", [&gzip(b"")[..8], b"garbage garbage garbage"].concat(), ""),
    ];
    for (what, bytes, expected) in cases {
        let path = write(directory.path(), "hostile.tar", bytes);
        match images.add_from_tar("hostile", &path, &mut |_| {}) {
            // Inside the tree the link leads to the tree's own root.
            Ok(image) if what == "through a link" => assert!(image.root.join("escape/x/y").is_file()),
            Ok(image) => panic!("{what}: accepted as {image:?}"),
            Err(error) => assert!(chain(&error).contains(expected), "{what}: {}", chain(&error)),
        }
        assert!(!directory.path().join("escape").exists());
    }
    assert_eq!(fs::read_dir(directory.path().join("runtimes/images/temporary")).unwrap().count(), 0);
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", manifest::hexadecimal(&Sha256::digest(bytes)))
}

/// An image layout in a directory, from its layers; `change` may damage the files before they are written.
fn layout(directory: &Path, layers: &[Vec<u8>], compress: fn(&[u8]) -> Vec<u8>) -> PathBuf {
    let root = directory.join("layout");
    let _ = fs::remove_dir_all(&root);
    let blob = |bytes: &[u8]| {
        let digest = digest(bytes);
        write(&root, &format!("blobs/sha256/{}", &digest[7..]), bytes);
        serde_json::json!({ "digest": digest, "size": bytes.len(), "mediaType": "application/vnd.oci.image.layer.v1.tar" })
    };
    let descriptors: Vec<_> = layers.iter().map(|layer| blob(&compress(layer))).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/entry"], "Cmd": ["app.handler"], "Env": ["A=1", "B=x=y"], "WorkingDir": "/work" },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>() },
    });
    let config = blob(config.to_string().as_bytes());
    let manifest =
        blob(serde_json::json!({ "schemaVersion": 2, "config": config, "layers": descriptors }).to_string().as_bytes());
    let attestation =
        serde_json::json!({ "digest": digest(b""), "platform": { "os": "unknown", "architecture": "unknown" } });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest, attestation] });
    write(&root, "index.json", index.to_string());
    root
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        tar(&[
            ("a/gone", FILE, 0o644, "1"),
            ("a/kept", FILE, 0o644, "1"),
            ("opaque/old", FILE, 0o644, "1"),
            ("was-directory/x", FILE, 0o644, "1"),
            ("was-file", FILE, 0o644, "1"),
        ]),
        tar(&[
            ("a/.wh.gone", FILE, 0, ""),
            ("opaque/new", FILE, 0o644, "2"),
            ("opaque/.wh..wh..opq", FILE, 0, ""),
            ("was-directory", FILE, 0o644, "2"),
            ("was-file/", DIRECTORY, 0o755, ""),
            ("was-file/x", FILE, 0o644, "2"),
        ]),
    ]
}

fn check_layers(image: &RuntimeImage) {
    let exists = |path: &str| image.root.join(path).exists();
    assert!(exists("a/kept") && exists("opaque/new") && exists("was-file/x"));
    assert!(!exists("a/gone") && !exists("opaque/old") && !exists("a/.wh.gone") && !exists("opaque/.wh..wh..opq"));
    assert!(image.root.join("was-directory").is_file());
    assert_eq!(image.bootstrap, ["/entry", "app.handler"]);
    assert_eq!(image.environment, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())]);
    assert_eq!(image.working_directory.as_deref(), Some("/work"));
}

#[test]
fn container_layouts_become_images() {
    let (directory, images) = images();
    let zstd = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    let mut digests = Vec::new();
    for compress in [<[u8]>::to_vec as fn(&[u8]) -> Vec<u8>, gzip, zstd] {
        let root = layout(directory.path(), &layers(), compress);
        let image = images.add_from_oci_layout("image", &root, &mut |_| {}).unwrap();
        check_layers(&image);
        digests.push(image.digest);
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        archive.append_dir_all(".", &root).unwrap();
        let path = write(directory.path(), "layout.tar.gz", archive.into_inner().unwrap().finish().unwrap());
        digests.push(images.add_from_oci_layout("image", &path, &mut |_| {}).unwrap().digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn saved_docker_images_become_images() {
    let (directory, images) = images();
    let layers = layers();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/entry"], "Cmd": ["app.handler"], "Env": ["A=1", "B=x=y"], "WorkingDir": "/work" },
        "rootfs": { "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>() },
    });
    let manifest = r#"[{"Config":"c.json","RepoTags":["x:latest"],"Layers":["0/layer.tar","1/layer.tar"]}]"#;
    let root = directory.path().join("saved");
    write(&root, "manifest.json", manifest);
    write(&root, "c.json", config.to_string());
    for (index, layer) in layers.iter().enumerate() {
        write(&root, &format!("{index}/layer.tar"), layer);
    }
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", &root).unwrap();
    let path = write(directory.path(), "saved.tar", archive.into_inner().unwrap());
    check_layers(&images.add_from_docker_save("saved", &path, &mut |_| {}).unwrap());
    write(&root, "1/layer.tar", &layers[0]);
    let error = images.add_from_docker_save("saved", &root, &mut |_| {}).unwrap_err();
    assert!(chain(&error).contains("is damaged: its digest is"), "{}", chain(&error));
}

#[test]
fn damaged_and_foreign_container_images_are_refused() {
    let (directory, images) = images();
    let refuse = |expected: &str, damage: &dyn Fn(&Path)| {
        let root = layout(directory.path(), &layers(), gzip);
        damage(&root);
        let error = chain(&images.add_from_oci_layout("image", &root, &mut |_| {}).unwrap_err());
        assert!(error.contains(expected), "{expected}: {error}");
    };
    let edit = |root: &Path, name: &str, from: &str, to: &str| {
        let text = fs::read_to_string(root.join(name)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(root.join(name), text.replace(from, to)).unwrap();
    };
    let blob_with = |root: &Path, is_wanted: &dyn Fn(&[u8]) -> bool| {
        let mut blobs = fs::read_dir(root.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
        blobs.find(|path| is_wanted(&fs::read(path).unwrap())).unwrap()
    };
    refuse("\"index.json\" cannot be read", &|root| fs::remove_file(root.join("index.json")).unwrap());
    refuse("\"index.json\" is malformed", &|root| fs::write(root.join("index.json"), "{").unwrap());
    refuse("is longer than", &|root| fs::write(root.join("index.json"), vec![b' '; 5 << 20]).unwrap());
    refuse("is not \"sha256:\"", &|root| edit(root, "index.json", "sha256:", "sha512:"));
    refuse("is not \"sha256:\"", &|root| {
        fs::write(root.join("index.json"), r#"{"manifests":[{"digest":"sha256:../../x"}]}"#).unwrap();
    });
    refuse("no image for linux/amd64", &|root| fs::write(root.join("index.json"), r#"{"manifests":[]}"#).unwrap());
    refuse("its digest is", &|root| {
        let layer = blob_with(root, &|bytes| bytes.starts_with(&[0x1f, 0x8b]));
        let mut bytes = fs::read(&layer).unwrap();
        bytes.push(0);
        fs::write(layer, bytes).unwrap();
    });
    refuse("its digest is", &|root| {
        let config = blob_with(root, &|bytes| bytes.windows(8).any(|text| text == b"diff_ids"));
        fs::write(config, "{}").unwrap();
    });
    // A link instead of a blob leads nowhere outside the layout.
    refuse("cannot be read", &|root| {
        let layer = blob_with(root, &|bytes| bytes.starts_with(&[0x1f, 0x8b]));
        fs::remove_file(&layer).unwrap();
        symlink("/etc/passwd", layer).unwrap();
    });
}

/// Runs a program with an image as its root; `None`, with the reason printed, where that is not possible.
fn run_in(image: &RuntimeImage, arguments: &[&str]) -> Option<std::process::Output> {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "chroot"])
        .arg(&image.root)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output();
    match output {
        Ok(output) if !String::from_utf8_lossy(&output.stderr).starts_with("unshare: unshare failed") => Some(output),
        other => {
            println!("SKIPPED running in the image: no user namespaces ({other:?})");
            None
        }
    }
}

#[test]
fn the_host_python_runs_on_its_image() {
    let pythons = discover_host_pythons();
    let Some(python) = pythons.first() else {
        println!("SKIPPED import of the host's Python: there is none");
        return;
    };
    let (_directory, images) = images();
    let mut steps = Vec::new();
    let image = images
        .add_from_host(None, python.executable.to_str().unwrap(), &mut |progress| {
            if steps.last() != Some(&progress.step) {
                steps.push(progress.step);
            }
        })
        .unwrap();
    assert_eq!(image.name, python.runtime_name());
    assert!(steps.contains(&Step::Compile) && steps.ends_with(&[Step::Digest, Step::Sync]), "{steps:?}");
    let again = images.add_from_host(Some("again"), python.executable.to_str().unwrap(), &mut |_| {}).unwrap();
    assert_eq!(again.digest, image.digest, "importing twice stores once");
    assert!(python.is_imported_as(&image) && python.is_imported_as(&again));
    let upgraded = RuntimeImage { python_version: Some("3.8.0".to_owned()), ..image.clone() };
    let other = RuntimeImage { source: "archive x".to_owned(), ..image.clone() };
    assert!(python.is_source_of(&upgraded) && !python.is_imported_as(&upgraded) && !python.is_source_of(&other));
    let executable = image.bootstrap[0].as_str();
    let modules =
        "ssl, sqlite3, ctypes, zlib, bz2, lzma, hashlib, asyncio, json, decimal, zoneinfo, email, unittest, uuid";
    let code = format!("import {modules}, sys, os; print(os.stat('/tmp').st_mode & 0o777, sys.version_info[:3])");
    let Some(output) = run_in(&image, &[executable, "-c", &code]) else { return };
    let (major, minor, micro) = python.version;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.trim(), format!("493 ({major}, {minor}, {micro})"), "{}", String::from_utf8_lossy(&output.stderr));
    // Every module that is imported has a compiled form that the interpreter accepts.
    let code = "import argparse, logging, typing, urllib.request";
    let output = run_in(&image, &[executable, "-v", "-c", code]).unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("matches /") && output.status.success(), "{log}");
    let is_from_source = |line: &&str| line.contains("code object from") && !line.contains("__pycache__");
    assert_eq!(log.lines().find(is_from_source), None, "a module without a compiled form");
    let output = run_in(&image, &[executable, "/var/runtime/bootstrap.pyc"]).unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        log.contains("File \"/var/runtime/bootstrap.py\", line ") && log.contains("AWS_LAMBDA_RUNTIME_API"),
        "{log}"
    );
    let code = "import locale, os, pwd, ssl, time; locale.setlocale(locale.LC_ALL, 'en_US.UTF-8'); \
                print(locale.getpreferredencoding().upper(), pwd.getpwuid(0).pw_name, time.tzname[0])";
    let output = run_in(&image, &[executable, "-c", code]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("UTF-8 root UTC"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    if python::CERTIFICATE_BUNDLES.iter().any(|path| Path::new(path).exists()) {
        let code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 10)";
        let output = run_in(&image, &[executable, "-c", code]).unwrap();
        assert_eq!(output.stdout, b"True\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
    check_packed_library(&image);
    let output = run_in(&image, &["/bin/sh", "-c", "exec python3 -c 'print(1 + 1)'"]).unwrap();
    assert_eq!(output.stdout, b"2\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// Imports most of the library twice, as usual and from the pack: programs must see no difference.
fn check_packed_library(image: &RuntimeImage) {
    let show = r"
import sys
names = 'json re enum collections.abc logging logging.handlers urllib.request email.mime.text http.client ssl asyncio zlib \
    decimal datetime typing dataclasses unittest.mock xml.etree.ElementTree sqlite3 concurrent.futures importlib.resources \
    multiprocessing.pool ctypes.util zoneinfo csv math _json _struct socket hashlib uuid tempfile'.split()
for name in names:
    __import__(name)
    m = sys.modules[name]
    print(name, getattr(m, '__file__', None), getattr(m, '__cached__', None), list(getattr(m, '__path__', [])), m.__package__)
import inspect, json.decoder, traceback
print(inspect.getsource(json.decoder.JSONDecoder.decode))
try:
    json.loads('{')
except ValueError:
    print(traceback.format_exc())
";
    let start = "import runpy, sys; g = runpy.run_path('/var/runtime/bootstrap.pyc', run_name='bootstrap'); \
                 sys.path[:0] = ['/var/task']; g['library'].guard()\n";
    let python = image.bootstrap[0].as_str();
    let usual = run_in(image, &[python, "-c", &format!("import sys; sys.path[:0] = ['/var/task']\n{show}")]).unwrap();
    let packed = run_in(image, &[python, "-c", &format!("{start}{show}")]).unwrap();
    assert!(usual.status.success(), "{}", String::from_utf8_lossy(&usual.stderr));
    assert_eq!(
        String::from_utf8_lossy(&packed.stdout),
        String::from_utf8_lossy(&usual.stdout),
        "{}",
        String::from_utf8_lossy(&packed.stderr)
    );
    for (what, code, expected) in [
        ("from the pack", "import csv; print(type(csv.__loader__).__name__)", "PackedLoader"),
        (
            "after a change of the path",
            "sys.path.insert(0, '/x'); import csv; print(type(csv.__loader__).__name__)",
            "SourceFileLoader",
        ),
        (
            "what the function has too",
            "g['library'].shadowed.add('csv'); import csv; print(type(csv.__loader__).__name__)",
            "SourceFileLoader",
        ),
        ("behind", "sys.path.append('/x'); import csv; print(type(csv.__loader__).__name__)", "PackedLoader"),
    ] {
        let output = run_in(image, &[python, "-c", &format!("{start}{code}")]).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.trim(), expected, "{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_closure_of_shared_objects_is_the_loaders_own() {
    let program = Path::new("/bin/sh").canonicalize().unwrap();
    let candidates =
        [program, discover_host_pythons().first().map_or_else(PathBuf::new, |python| python.executable.clone())];
    for program in candidates.iter().filter(|path| path.exists()) {
        let Ok(output) = Command::new("ldd").arg(program).output() else {
            println!("SKIPPED comparison with ldd: it is not there");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let path_of = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
        let mut expected: Vec<PathBuf> =
            text.lines().filter_map(path_of).map(|path| path.canonicalize().unwrap()).collect();
        let mut closure = elf::Closure::new();
        closure.add(program).unwrap();
        let mut found: Vec<PathBuf> = closure.into_paths().iter().map(|path| path.canonicalize().unwrap()).collect();
        found.retain(|path| path != program);
        expected.sort();
        found.sort();
        found.dedup();
        assert_eq!(found, expected, "{}", program.display());
    }
}

/// Damages an archive at pseudo-random places: whatever comes of it, it is a value.
#[test]
fn damaged_archives_never_panic() {
    let (directory, images) = images();
    let whole = tar(&[
        ("d/", DIRECTORY, 0o755, ""),
        ("d/file", FILE, 0o644, &"x".repeat(700)),
        ("link", SYMLINK, 0, "d"),
        ("hard", HARD_LINK, 0, "d/file"),
    ]);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let mut accepted = 0;
    for _ in 0..100 {
        let mut bytes = if random(2) == 0 { whole.clone() } else { gzip(&whole) };
        for _ in 0..=random(4) {
            let place = random(bytes.len());
            bytes[place] = random(256) as u8;
        }
        bytes.truncate(bytes.len() - random(bytes.len() / 4));
        let path = write(directory.path(), "damaged.tar", bytes);
        accepted += usize::from(images.add_from_tar("damaged", &path, &mut |_| {}).is_ok());
    }
    assert!(accepted < 100);
}

#[test]
fn programs_that_are_no_python_are_refused() {
    let (directory, images) = images();
    let script = |name: &str, text: &str| {
        let path = write(directory.path(), name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (program, expected) in [
        ("/nonexistent/python3".to_owned(), "cannot be started"),
        ("true".to_owned(), "is not a Python 3"),
        ("false".to_owned(), "ended with exit status: 1"),
        (script("liar", "#!/bin/sh\necho '{\"executable\": 1}'\n"), "is not a Python 3"),
        (
            script(
                "old",
                "#!/bin/sh\necho '{\"executable\":\"/x\",\"version\":[3,7,1],\"implementation\":\"cpython\",\"machine\":\"x86_64\",\
                 \"is_64_bit\":true,\"libraries\":[\"/x\"],\"certificates\":null}'\n",
            ),
            "3.8 or later",
        ),
    ] {
        let error = images.add_from_host(None, &program, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(expected), "{program}: {error}");
    }
}
