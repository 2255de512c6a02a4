//! The command line through the binary: mistakes that people make, and the verbs against a real server.

#![allow(missing_docs)]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calypte");
/// Variables that would lead the program to somebody's server or data.
const FOREIGN_VARIABLES: &[&str] = &[
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_LAMBDA",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "CALYPTE_DATA",
    "CALYPTE_LOG",
    "CALYPTE_REGION",
];

fn calypte(data: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--data").arg(data);
    for variable in FOREIGN_VARIABLES {
        command.env_remove(variable);
    }
    command
}

fn run(data: &Path, arguments: &[&str]) -> Output {
    calypte(data).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs what must succeed and gives what it prints.
fn good(data: &Path, arguments: &[&str]) -> String {
    let output = run(data, arguments);
    assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, stderr(&output));
    stdout(&output)
}

/// Runs what must fail with this status and a message with these texts.
fn bad(data: &Path, arguments: &[&str], status: i32, texts: &[&str]) {
    let output = run(data, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {message}");
    for text in texts {
        assert!(message.contains(text), "{arguments:?}: no {text:?} in: {message}");
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A running `calypte dev`.
struct Server {
    child: Child,
    ready: Value,
}

impl Server {
    fn start(data: &Path) -> Self {
        let arguments = ["dev", "--port", "0", "--json", "--no-host-pythons"];
        let mut child = calypte(data).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut message = String::new();
            child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
            panic!("the server ended: {message}");
        }
        Self { child, ready: json(&line) }
    }

    fn text(&self, member: &str) -> &str {
        self.ready[member].as_str().unwrap()
    }

    fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        fs::read_to_string(path).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Ends the server as a service manager does; its messages.
    fn stop(mut self) -> String {
        signal(&self.child, "-TERM");
        let mut messages = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut messages).unwrap();
        assert!(self.child.wait().unwrap().success(), "{messages}");
        messages
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Has ended unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Whether the test can run here; says so if not.
fn has_kvm(test: &str) -> bool {
    let is_usable = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !is_usable {
        eprintln!("SKIP {test}: /dev/kvm cannot be opened");
    }
    is_usable
}

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
        (&["invoke", "hello", "{a}"], 1, &["not JSON", "single quotes"]),
        (&["invoke", "hello", "@/nothing"], 1, &["/nothing"]),
        (&["deploy", ".", "--env", "X"], 2, &["NAME=VALUE"]),
        (&["deploy", "."], 1, &["no server runs"]),
        (&["runtime", "add", "name"], 2, &["--from-host"]),
        (&["runtime", "add", "--from-tar", file], 2, &["NAME"]),
        (&["runtime", "add", "name", "--from-host", "a", "--from-tar", "b"], 2, &["cannot be used with"]),
        (&["runtime", "add", "--from-host", "/bin/true"], 1, &["/bin/true", "Python"]),
        (&["runtime", "rm", "python3.99"], 1, &["python3.99", "runtime add"]),
        (&["run", "--", "ls"], 125, &["no runtime", "--rootfs /"]),
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
    let as_second = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        command
            .args(arguments)
            .env("HOME", parent.path())
            .env("AWS_ENDPOINT_URL_LAMBDA", server.text("endpoint"))
            .env("AWS_ACCESS_KEY_ID", id)
            .env("AWS_SECRET_ACCESS_KEY", key["secret_access_key"].as_str().unwrap())
            .output()
            .unwrap()
    };
    assert_eq!(stdout(&as_second(&["ls", "--json"])), "[]\n");
    assert!(stderr(&as_second(&["rm", "hello"])).contains("no function `hello`"));
    for (verb, is_good) in [("disable", false), ("enable", true), ("rm", false)] {
        good(&data, &["key", verb, id]);
        let output = as_second(&["ls"]);
        assert_eq!(output.status.success(), is_good, "after {verb}: {}", stderr(&output));
        assert_eq!(stderr(&output).contains("UnrecognizedClientException"), !is_good, "after {verb}");
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
