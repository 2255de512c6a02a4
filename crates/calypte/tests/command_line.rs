//! The command line through the binary: mistakes that people make, and the verbs against a real server.

#![allow(missing_docs)]

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::{Server, as_account, bad, calypte, good, has_kvm, json, run, stderr, stdout};
use serde_json::Value;
use tempfile::TempDir;

/// A folder to deploy, for a runtime that needs nothing but its own program.
fn function_folder(parent: &TempDir) -> String {
    let folder = parent.path().join("hello");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("bootstrap"), "#!/nothing\n").unwrap();
    fs::set_permissions(folder.join("bootstrap"), fs::Permissions::from_mode(0o755)).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn mistakes_are_explained() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let file = parent.path().join("file.txt");
    fs::write(&file, "text").unwrap();
    let file = file.to_str().unwrap();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["deplay", "."], 2, &["deploy"]),
        (&["ls"], 1, &["no server runs", "calypte dev"]),
        (&["key", "ls"], 1, &["no server runs", "calypte dev"]),
        (&["logs", "hello"], 1, &["no server runs", "calypte dev"]),
        (&["ls", "--endpoint", "http://127.0.0.1:9"], 1, &["AWS_ACCESS_KEY_ID is not set"]),
        (&["ls", "--endpoint", "here"], 1, &["http://127.0.0.1:7070"]),
        (&["ls", "--endpoint", "https://127.0.0.1:9"], 1, &["http://127.0.0.1:7070"]),
        (&["invoke", "hello", "{a}"], 1, &["not JSON", "single quotes"]),
        (&["invoke", "hello", "@/nothing"], 1, &["/nothing"]),
        (&["deploy", ".", "--env", "X"], 2, &["NAME=VALUE"]),
        (&["deploy", ".", "--template", "maybe"], 2, &["--template", "on", "off"]),
        (&["deploy", "/tmp"], 1, &["no server runs"]),
        (&["deploy", "/"], 1, &["--name"]),
        (&["runtime", "add", "name"], 2, &["--from-host"]),
        (&["runtime", "add", "--from-tar", file], 2, &["NAME"]),
        (&["runtime", "add", "name", "--from-host", "a", "--from-tar", "b"], 2, &["cannot be used with"]),
        (&["runtime", "add", "--from-host", "/bin/true"], 1, &["/bin/true", "Python"]),
        (&["runtime", "rm", "python3.99"], 1, &["python3.99", "runtime add"]),
        (&["runtime", "add", "name", "--from-tar", file], 1, &["file.txt"]),
        (&["run", "--", "ls"], 125, &["no runtime", "--rootfs /"]),
        (&["run", "--rootfs", "/"], 125, &["which program"]),
        (&["run", "--rootfs", "/nothing", "--", "ls"], 125, &["/nothing"]),
        (&["run", "--rootfs", file, "--", "ls"], 125, &["not a folder"]),
        (&["run", "--rootfs", "/", "--runtime", "x", "--", "ls"], 2, &["cannot be used with"]),
        (&["run", "--timeout", "-1", "--rootfs", "/", "--", "ls"], 2, &["--timeout"]),
        (&["run", "--timeout", "soon", "--rootfs", "/", "--", "ls"], 2, &["time in seconds"]),
        (&["dev", "--region", "Not A Region"], 2, &["us-east-1"]),
        (&["dev", "--port", "70000"], 2, &["70000"]),
        (&["zygote"], 1, &["calypte dev"]),
    ];
    for (arguments, status, texts) in cases {
        bad(&data, arguments, *status, texts);
    }
}

#[test]
fn errors_are_json_on_request() {
    let data = tempfile::tempdir().unwrap();
    let output = run(data.path(), &["ls", "--json"]);
    assert!(stdout(&output).is_empty());
    assert!(json(&stderr(&output))["error"].as_str().unwrap().contains("no server runs"));
}

#[test]
fn a_wrong_log_setting_is_explained() {
    let data = tempfile::tempdir().unwrap();
    let output = calypte(data.path()).arg("ls").env("CALYPTE_LOG", "a=b=c").output().unwrap();
    assert!(stderr(&output).contains("CALYPTE_LOG"), "{}", stderr(&output));
}

#[test]
fn completions_know_every_verb() {
    let data = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = good(data.path(), &["completions", shell]);
        for verb in
            ["dev", "serve", "deploy", "invoke", "ls", "logs", "rm", "run", "runtime", "account", "key", "doctor"]
        {
            assert!(script.contains(verb), "{verb} for {shell}");
        }
    }
}

#[test]
fn a_runtime_is_imported_listed_and_removed() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let root = parent.path().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/program"), "x").unwrap();
    assert_eq!(json(&good(&data, &["runtime", "ls", "--json"])), Value::Array(Vec::new()));
    assert!(!data.exists(), "who looks makes nothing");
    good(&data, &["runtime", "add", "mine", "--from-directory", root.to_str().unwrap()]);
    let listed = json(&good(&data, &["runtime", "ls", "--json"]));
    assert_eq!(listed[0]["name"], "mine");
    assert!(Path::new(listed[0]["root"].as_str().unwrap()).join("bin/program").is_file());
    assert!(good(&data, &["runtime", "ls"]).contains("mine"));
    good(&data, &["runtime", "rm", "mine"]);
    assert_eq!(json(&good(&data, &["runtime", "ls", "--json"])), Value::Array(Vec::new()));
}

#[test]
fn functions_live_through_the_api() {
    if !has_kvm("functions_live_through_the_api") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let folder = function_folder(&parent);
    let server = Server::start(&data);
    assert!(good(&data, &["ls"]).contains("There are no functions"));
    bad(&data, &["deploy", &folder], 1, &["--runtime"]);
    bad(&data, &["deploy", &folder, "--runtime", "python3.99", "--handler", "a.b"], 1, &["python3.99"]);
    let created = json(&good(&data, &["deploy", &folder, "--runtime", "provided.al2023", "--memory", "256", "--json"]));
    assert_eq!((&created["FunctionName"], &created["State"]), (&"hello".into(), &"Active".into()));
    let update = ["deploy", folder.as_str(), "--timeout", "7", "--env", "AB=x=y", "--description", "d", "--json"];
    let updated = json(&good(&data, &update));
    assert_eq!((&updated["Timeout"], &updated["MemorySize"]), (&7.into(), &256.into()));
    assert_eq!(updated["Environment"]["Variables"]["AB"], "x=y");
    for (template, apply_on) in [("on", "PublishedVersions"), ("off", "None")] {
        let updated = json(&good(&data, &["deploy", &folder, "--template", template, "--json"]));
        assert_eq!(updated["SnapStart"]["ApplyOn"], apply_on);
    }
    assert_eq!(json(&good(&data, &["ls", "--json"])).as_array().unwrap().len(), 1);
    assert!(good(&data, &["ls"]).contains("provided.al2023"));
    for arguments in [["rm", "helo"], ["invoke", "helo"], ["logs", "helo"]] {
        bad(&data, &arguments, 1, &["did you mean `hello`?"]);
    }
    assert_eq!(good(&data, &["logs", "hello"]), "");

    // Everything is there after a restart, the key too.
    let key = server.text("access_key_id").to_owned();
    let children = server.children();
    assert!(!children.is_empty(), "there is a zygote");
    server.stop();
    for child in children {
        assert!(!Path::new(&format!("/proc/{child}")).exists(), "process {child} outlived the server");
    }
    bad(&data, &["ls"], 1, &["no server runs"]);
    let server = Server::start(&data);
    assert_eq!(server.text("access_key_id"), key);
    assert_eq!(json(&good(&data, &["ls", "--json"]))[0]["FunctionName"], "hello");
    good(&data, &["rm", "hello"]);
    assert_eq!(json(&good(&data, &["ls", "--json"])), Value::Array(Vec::new()));
    server.stop();
}

#[test]
fn accounts_are_apart_and_their_keys_can_be_taken_away() {
    if !has_kvm("accounts_are_apart_and_their_keys_can_be_taken_away") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let folder = function_folder(&parent);
    let server = Server::start(&data);
    good(&data, &["deploy", &folder, "--runtime", "provided.al2023"]);
    good(&data, &["account", "add", "second"]);
    bad(&data, &["account", "add", "second"], 1, &["already"]);
    bad(&data, &["account", "add", "a b"], 1, &["letters"]);
    bad(&data, &["key", "add", "secnd"], 1, &["did you mean `second`?"]);
    assert_eq!(json(&good(&data, &["account", "ls", "--json"])).as_array().unwrap().len(), 2);
    let key = json(&good(&data, &["key", "add", "second", "--json"]));
    let id = key["access_key_id"].as_str().unwrap();
    let as_second = |arguments: &[&str]| as_account(&server, &key).args(arguments).output().unwrap();
    assert_eq!(stdout(&as_second(&["ls", "--json"])), "[]\n");
    assert!(stderr(&as_second(&["rm", "hello"])).contains("no function `hello`"));
    for (verb, is_good) in [("disable", false), ("enable", true), ("rm", false)] {
        good(&data, &["key", verb, id]);
        let output = as_second(&["ls"]);
        assert_eq!(output.status.success(), is_good, "after {verb}: {}", stderr(&output));
        assert_eq!(stderr(&output).contains("UnrecognizedClientException"), !is_good, "after {verb}");
        assert_eq!(stderr(&output).contains("calypte key ls"), !is_good, "after {verb}");
    }
    bad(&data, &["key", "rm", id], 1, &["no access key"]);
    let listed = good(&data, &["key", "ls", "--json"]);
    assert!(!listed.contains(id) && !listed.contains("secret"), "{listed}");
    server.stop();
}

#[test]
fn a_server_owns_its_folder_and_its_port() {
    if !has_kvm("a_server_owns_its_folder_and_its_port") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    // Longer than the address of a Unix socket may be.
    let data = parent.path().join("long-name-".repeat(12)).join("data");
    let server = Server::start(&data);
    let pid = server.child.id().to_string();
    bad(&data, &["dev", "--port", "0"], 1, &["in use", &pid, "--data"]);
    let other = parent.path().join("other");
    let port = server.text("endpoint").rsplit(':').next().unwrap();
    bad(&other, &["dev", "--port", port, "--no-host-pythons"], 1, &["in use", "--port"]);
    let doctor = json(&good(&data, &["doctor", "--json"]));
    let status = doctor.as_array().unwrap().iter().find(|check| check["check"] == "server").unwrap();
    assert!(status["detail"].as_str().unwrap().contains(&pid), "{doctor}");
    for file in ["administration.socket", "credentials.json", "endpoint.json", "calypte.db", "lock"] {
        let mode = fs::metadata(data.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
    let messages = server.stop();
    assert!(!messages.contains("ERROR"), "{messages}");
    for file in ["administration.socket", "endpoint.json"] {
        assert!(!data.join(file).exists(), "{file}");
    }
}

#[test]
fn a_killed_server_leaves_nothing_in_the_way() {
    if !has_kvm("a_killed_server_leaves_nothing_in_the_way") {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let zygote = server.children();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    bad(data.path(), &["account", "ls"], 1, &["no server runs", "calypte dev"]);
    bad(data.path(), &["ls"], 1, &["no server answers", "calypte dev"]);
    let server = Server::start(data.path());
    assert_ne!(server.children(), zygote);
    server.stop();
}
