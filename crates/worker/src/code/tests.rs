//! Zips of every bad kind, and what becomes of good ones.

use std::io::{Cursor, Write};
use std::os::unix::fs::{PermissionsExt, symlink};

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;

fn cache() -> (tempfile::TempDir, CodeCache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(directory.path().join("code")).unwrap();
    (directory, cache)
}

enum Member<'a> {
    File(&'a str, u32, &'a [u8]),
    Directory(&'a str),
    Link(&'a str, &'a str),
}
use Member::{Directory, File, Link};

fn zip_of(members: &[Member<'_>]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    for member in members {
        match member {
            File(name, mode, content) => {
                zip.start_file(*name, options.unix_permissions(*mode)).unwrap();
                zip.write_all(content).unwrap();
            }
            Directory(name) => zip.add_directory(*name, options).unwrap(),
            Link(name, target) => zip.add_symlink(*name, *target, options).unwrap(),
        }
    }
    zip.finish().unwrap().into_inner()
}

/// Replaces a name wherever it is in the zip by one of the same length.
fn rename(zip: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut zip = zip.to_vec();
    for start in 0..zip.len() - from.len() {
        if zip[start..].starts_with(from.as_bytes()) {
            zip[start..start + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    zip
}

/// The position of the `nth` occurrence of a signature.
fn find(zip: &[u8], signature: &[u8], nth: usize) -> usize {
    (0..zip.len()).filter(|&start| zip[start..].starts_with(signature)).nth(nth).unwrap()
}

fn add(cache: &CodeCache, zip: &[u8]) -> Result<PathBuf, CodeError> {
    cache.add(&CodeCache::id_of(zip), zip)
}

#[test]
fn good_zips_are_extracted_once_with_their_modes_and_links() {
    let (_directory, cache) = cache();
    let zip = zip_of(&[
        Directory("pkg/"),
        File("pkg/module.py", 0o600, b"x = 1\n"),
        File("bootstrap", 0o700, b"#!/bin/sh\n"),
        File("set-user-id", 0o4755, b""),
        Link("lib/link", "../pkg/module.py"),
        Link("dangling", "nowhere"),
    ]);
    let id = CodeCache::id_of(&zip);
    assert_eq!(cache.directory(&id), None);
    cache.check(&zip).unwrap();
    assert_eq!(cache.directory(&id), None);
    let directory = add(&cache, &zip).unwrap();
    assert_eq!(cache.directory(&id), Some(directory.clone()));
    assert!(directory.is_absolute());
    let mode = |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("pkg"), mode("pkg/module.py")), (0o755, 0o644));
    assert_eq!((mode("bootstrap"), mode("set-user-id"), mode("")), (0o755, 0o755, 0o755));
    assert_eq!(fs::read(directory.join("lib/link")).unwrap(), b"x = 1\n");
    // The second time the zip is not even looked at.
    assert_eq!(cache.add(&id, b"").unwrap(), directory);
}

#[test]
fn bad_zips_are_refused_clearly_and_leave_nothing() {
    let (directory, cache) = cache();
    let file = |name: &str| zip_of(&[File(name, 0o644, b"content")]);
    let good = file("file.name");
    let central = find(&good, b"PK\x01\x02", 0);
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut zip = good.clone();
        edit(&mut zip);
        zip
    };
    let two = zip_of(&[File("file.one", 0o644, b"1"), File("file.two", 0o644, b"2")]);
    let long_data = zip_of(&[File("file.name", 0o644, &[b'x'; 5000])]);
    let long_data_central = find(&long_data, b"PK\x01\x02", 0);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "not a valid zip"),
        ("text", b"not a zip at all ".repeat(10), "not a valid zip"),
        ("cut short", good[..good.len() - 10].to_vec(), "not a valid zip"),
        ("no members", zip_of(&[]), "is empty"),
        ("parent", rename(&good, "file.name", "../escape"), "leads out of the archive"),
        ("parent inside", rename(&file("a/b/c/d"), "a/b/c/d", "a/../.."), "leads out of the archive"),
        ("absolute", rename(&good, "file.name", "/escape_1"), "has an absolute path"),
        ("backslash", rename(&good, "file.name", "dir\\escap"), "has a backslash"),
        ("NUL", rename(&good, "file.name", "file\0name"), "has a NUL"),
        ("twice", rename(&two, "file.two", "file.one"), "is there twice"),
        (
            "twice, spelled differently",
            rename(&zip_of(&[File("a/b", 0, b""), File("a.//b", 0, b"")]), "a.//b", "a/./b"),
            "is there twice",
        ),
        ("link out", zip_of(&[Link("link", "../outside")]), "leads out of the function's code"),
        ("absolute link", zip_of(&[Link("link", "/etc/passwd")]), "leads out of the function's code"),
        ("link out through a link", zip_of(&[Link("a/b/top", "../.."), Link("out", "a/b/top/../x")]), "leads out"),
        (
            "file through a link",
            zip_of(&[Link("l", "d"), Directory("d/"), File("l/../../x", 0o644, b"")]),
            "leads out of the archive",
        ),
        ("file under a file", zip_of(&[File("f", 0o644, b""), File("f/x", 0o644, b"")]), "below something"),
        ("wrong checksum", edited(&|zip| zip[central + 16] ^= 1), "is damaged"),
        (
            "encrypted",
            edited(&|zip| {
                zip[6] |= 1;
                zip[central + 8] |= 1;
            }),
            "is encrypted",
        ),
        (
            "unknown compression",
            edited(&|zip| {
                zip[8] = 77;
                zip[central + 10] = 77;
            }),
            "use deflate",
        ),
        ("declares more than there is", edited(&|zip| zip[central + 24] = 200), ""),
        (
            "declares too much",
            edited(&|zip| zip[central + 24..central + 28].copy_from_slice(&[0xfe; 4])),
            "is larger than",
        ),
        (
            "declares less than there is",
            {
                let mut zip = long_data.clone();
                zip[22..26].copy_from_slice(&10_u32.to_le_bytes());
                zip[long_data_central + 24..long_data_central + 28].copy_from_slice(&10_u32.to_le_bytes());
                zip
            },
            "",
        ),
        ("larger than a request", vec![0; limits::ZIP_BYTES_MAX + 1], "may have 52428800"),
    ];
    for (what, zip, expected) in cases {
        let error = add(&cache, &zip).map(|path| panic!("{what}: accepted at {path:?}")).unwrap_err();
        assert!(error.to_string().contains(expected), "{what}: {error}");
        assert!(error.is_callers_fault(), "{what}");
        assert!(cache.check(&zip).is_err(), "{what}");
    }
    let left: Vec<_> = fs::read_dir(directory.path().join("code/temporary")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "something was written outside");
}

/// Damages a zip at pseudo-random places: whatever comes of it, it is a value, and the disk is not to blame.
#[test]
fn damaged_zips_never_panic() {
    let (_directory, cache) = cache();
    let whole = zip_of(&[
        Directory("d/"),
        File("d/file", 0o644, &[b'x'; 300]),
        Link("link", "d/file"),
        File("d/other", 0o755, b"some other content"),
    ]);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let mut accepted = 0;
    for _ in 0..1000 {
        let mut zip = whole.clone();
        for _ in 0..=random(4) {
            let place = random(zip.len());
            zip[place] = random(256) as u8;
        }
        if random(4) == 0 {
            zip.truncate(zip.len() - random(zip.len() / 2));
        }
        match cache.check(&zip) {
            Ok(()) => accepted += 1,
            Err(error) => assert!(error.is_callers_fault(), "{error:?}"),
        }
    }
    assert!(accepted < 1000);
}

#[test]
fn bombs_are_stopped_at_the_limit_whatever_they_declare() {
    let (_directory, cache) = cache();
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let zeros = vec![0; 1 << 20];
    zip.start_file("bomb", options).unwrap();
    for _ in 0..260 {
        zip.write_all(&zeros).unwrap();
    }
    let honest = zip.finish().unwrap().into_inner();
    assert!(honest.len() < 1 << 20);
    assert!(matches!(add(&cache, &honest), Err(CodeError::TooLarge)));
    // The same with a declared size of one byte.
    let mut lying = honest.clone();
    let central = find(&lying, b"PK\x01\x02", 0);
    lying[central + 24..central + 28].copy_from_slice(&1_u32.to_le_bytes());
    let error = add(&cache, &lying).unwrap_err();
    assert!(matches!(error, CodeError::TooLarge | CodeError::Member { .. } | CodeError::Corrupt { .. }), "{error}");
    assert!(error.is_callers_fault());
}

#[test]
fn zips_with_too_many_members_are_refused() {
    let (_directory, cache) = cache();
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for n in 0..=limits::CODE_FILES_MAX {
        zip.start_file(n.to_string(), options).unwrap();
    }
    assert!(matches!(add(&cache, &zip.finish().unwrap().into_inner()), Err(CodeError::TooManyFiles)));
}

#[test]
fn bytes_that_are_not_those_of_the_id_are_refused() {
    let (_directory, cache) = cache();
    let id = CodeCache::id_of(b"other");
    let error = cache.add(&id, &zip_of(&[File("f", 0o644, b"")])).unwrap_err();
    assert!(matches!(error, CodeError::Digest { .. }) && !error.is_callers_fault(), "{error}");
    assert_eq!(cache.directory(&id), None);
}

#[test]
fn concurrent_extractions_of_one_zip_agree() {
    let (_directory, cache) = cache();
    let zip = zip_of(&[File("f", 0o644, &vec![7; 100_000])]);
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| add(&cache, &zip).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(paths.iter().all(|path| *path == paths[0]));
    assert_eq!(fs::read(paths[0].join("f")).unwrap().len(), 100_000);
}

#[test]
fn only_what_is_neither_referenced_nor_pinned_is_removed() {
    let (_directory, cache) = cache();
    let zips: Vec<Vec<u8>> = (0..3_u8).map(|n| zip_of(&[File("f", 0o644, &[n])])).collect();
    let ids: Vec<BlobId> = zips.iter().map(|zip| CodeCache::id_of(zip)).collect();
    let paths: Vec<PathBuf> = zips.iter().map(|zip| add(&cache, zip).unwrap()).collect();
    let pin = cache.pin(&ids[1]).unwrap();
    assert!(pin.is_some());
    assert_eq!(cache.retain(&HashSet::from([ids[0].clone()])).unwrap(), 1);
    assert_eq!(paths.iter().map(|path| path.exists()).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(add(&cache, &zips[2]).unwrap(), paths[2], "it can be extracted again");
}

#[test]
fn directories_are_packed_reproducibly_and_come_back() {
    let (directory, cache) = cache();
    let build = |name: &str, order: &[&str]| {
        let root = directory.path().join(name);
        for path in order {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), format!("content of {path}")).unwrap();
        }
        fs::set_permissions(root.join("bootstrap"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("a.py", root.join("link.py")).unwrap();
        for skipped in [".git/config", "__pycache__/a.pyc", "pkg/__pycache__/b.pyc", ".venv/x"] {
            fs::create_dir_all(root.join(skipped).parent().unwrap()).unwrap();
            fs::write(root.join(skipped), "x").unwrap();
        }
        pack_directory(&root).unwrap()
    };
    let zip = build("one", &["a.py", "bootstrap", "pkg/b.py"]);
    assert_eq!(zip, build("two", &["pkg/b.py", "bootstrap", "a.py"]));
    let extracted = add(&cache, &zip).unwrap();
    let mut names: Vec<_> = fs::read_dir(&extracted).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.py", "bootstrap", "link.py", "pkg"]);
    assert_eq!(fs::read_dir(extracted.join("pkg")).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(extracted.join("link.py")).unwrap(), "content of a.py");
    assert_eq!(fs::metadata(extracted.join("bootstrap")).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn directories_that_cannot_be_functions_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refuse = |expected: &str| {
        let error = pack_directory(directory.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refuse("has no files");
    fs::write(directory.path().join("back\\slash"), "").unwrap();
    refuse("has a backslash");
    fs::remove_file(directory.path().join("back\\slash")).unwrap();
    fs::File::create(directory.path().join("huge")).unwrap().set_len(limits::CODE_BYTES_MAX + 1).unwrap();
    refuse("huge is the largest with 250 MiB");
    fs::remove_file(directory.path().join("huge")).unwrap();
    assert!(pack_directory(&directory.path().join("absent")).unwrap_err().to_string().contains("cannot list"));
}
