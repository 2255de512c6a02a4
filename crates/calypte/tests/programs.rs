//! Unmodified programs by `calypte run`: the same output and exit status as on the host.

#![allow(missing_docs)]

mod harness;

use std::path::Path;
use std::process::Command;

use harness::vm::{Visible, check, host_program, in_vm, python};

#[test]
fn python_programs() {
    let Some(python) = python("python_programs") else { return };
    for script in [
        "print(1 + 1)",
        "import sys; sys.stderr.write('to stderr'); sys.exit(9)",
        "import json, datetime, decimal, re, random; print(json.dumps({'a': [1, 2.5, None]}), re.sub('b', 'c', 'abc'))",
        "import ssl, hashlib; print(hashlib.sha256(b'x').hexdigest(), ssl.create_default_context().verify_mode)",
        "import asyncio\nasync def f(n):\n    await asyncio.sleep(0.01)\n    return n\nasync def g():\n    \
         print(await asyncio.gather(*[f(n) for n in range(20)]))\nasyncio.run(g())",
        "import threading, queue\nq = queue.Queue()\nts = [threading.Thread(target=lambda n=n: q.put(n * n)) for n in range(50)]\n\
         [t.start() for t in ts]\n[t.join() for t in ts]\nprint(sorted(q.get() for _ in range(50)))",
        "import concurrent.futures as c\nwith c.ThreadPoolExecutor(8) as p:\n    print(sum(p.map(lambda n: n * n, range(1000))))",
        "import tempfile, os, pathlib\nwith tempfile.TemporaryDirectory() as d:\n    p = pathlib.Path(d, 'x')\n    \
         p.write_text('hello')\n    os.rename(p, p.with_suffix('.txt'))\n    print(sorted(os.listdir(d)), p.with_suffix('.txt').read_text())",
        "import socket\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\nc = socket.create_connection(s.getsockname())\n\
         a, _ = s.accept(); c.sendall(b'ping'); print(a.recv(10)); a.close(); print(c.recv(10))",
        "import socket\na, b = socket.socketpair()\na.send(b'x'); print(b.recv(1))",
        "import sqlite3\nd = sqlite3.connect('/tmp/calypte-test.db'); d.execute('create table if not exists t(a)')\n\
         d.execute('delete from t'); d.executemany('insert into t values (?)', [(n,) for n in range(100)]); d.commit()\n\
         print(d.execute('select sum(a) from t').fetchone())\nimport os; os.unlink('/tmp/calypte-test.db')",
        "import zlib, bz2, lzma, struct; print(len(lzma.compress(bz2.compress(zlib.compress(bytes(100000))))) > 0)",
        "import time; a = time.monotonic(); time.sleep(0.05); print(0.05 <= time.monotonic() - a < 5)",
        "import mmap\nm = mmap.mmap(-1, 10000); m[5000] = 7; print(m[5000], m[0])",
        "import select, os\nr, w = os.pipe(); p = select.poll(); p.register(r, select.POLLIN); print(p.poll(1)); os.write(w, b'x'); print(len(p.poll(1)))",
        "import os; print(os.getcwd(), os.path.exists('/etc/passwd'), os.path.exists('/nothing'))",
        "import os\nfor p in ('/etc/calypte-test', '/usr/calypte-test'):\n    try: open(p, 'w')\n    except OSError as e: print('refused')\n    else: os.unlink(p); print('refused')",
        "import ctypes; print(ctypes.CDLL(None).getpid() > 0)",
        "raise ValueError('boom')",
    ] {
        check(script, &python, &["-c", script]);
    }
}

/// Programs that start others: the C library's, Python's, Node's and shells' ways to do so.
#[test]
fn programs_that_start_others() {
    if let Some(python) = python("programs_that_start_others") {
        for script in [
            "import subprocess\nr = subprocess.run(['sh', '-c', 'read x; echo got $x; exit 3'], input=b'line', capture_output=True)\n\
             print(r.returncode, r.stdout, r.stderr)",
            "import os\np = os.fork()\nif p == 0: os._exit(7)\nprint(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]))",
            "import multiprocessing as m\nif __name__ == '__main__':\n    m.set_start_method('fork')\n    q = m.Queue()\n    \
             p = m.Process(target=lambda: q.put(sum(range(1000)))); p.start(); print(q.get()); p.join(); print(p.exitcode)",
            "import asyncio\nasync def f():\n    p = await asyncio.create_subprocess_exec('sort', stdin=-1, stdout=-1)\n    \
             print((await p.communicate(b'b\\na\\n'))[0], p.returncode)\nasyncio.run(f())",
            "import subprocess, signal\np = subprocess.Popen(['sleep', '60'], start_new_session=True)\np.send_signal(signal.SIGTERM)\n\
             print(p.wait())",
        ] {
            check(script, &python, &["-c", script]);
        }
    }
    if let Some(node) = host_program("programs_that_start_others", "node") {
        for script in [
            "const c = require('child_process'); console.log(c.execSync('echo from a child; exit 0').toString()); \
             const p = c.spawn('sh', ['-c', 'cat; exit 5']); p.stdout.on('data', d => console.log(String(d))); \
             p.on('exit', (code) => console.log(code)); p.stdin.end('through a pipe')",
            "const c = require('child_process'); const p = c.spawn('sleep', ['60']); \
             p.on('exit', (code, signal) => console.log(code, signal)); p.kill()",
        ] {
            check(script, &node, &["-e", script]);
        }
    }
    for shell in ["busybox", "dash", "bash"] {
        let Some(path) = host_program("programs_that_start_others", shell) else { continue };
        for script in [
            "seq 1 100 | grep 7 | sort -rn | head -5 | while read n; do echo \"<$n>\"; done",
            "x=$(echo inner; exit 4); echo $x $?; (exit 9); echo $?; sh -c 'kill -TERM $$'; echo $?",
            "sleep 0.05 & wait $!; echo waited $?; trap 'echo trapped' USR1; kill -USR1 $$; echo after",
            "setsid sh -c 'echo in a session of its own'; cat <<END | tr a-z A-Z\ntext\nEND",
        ] {
            let arguments: &[&str] = if shell == "busybox" { &["sh", "-c", script] } else { &["-c", script] };
            check(script, &path, arguments);
        }
        if shell == "bash" {
            check("job control", &path, &["--norc", "-ic", "sleep 0.1 & wait; jobs; echo done"]);
        }
    }
}

/// The init that containers have: it ends as its child does, passes signals on and waits for orphans.
#[test]
fn tini() {
    let Some(tini) = host_program("tini", "tini") else { return };
    for script in [
        "exit 7",
        "kill -TERM $$",
        "(exit 3) & exec sh -c 'exit 9'",
        "kill -TERM $PPID; sleep 60",
        "trap 'echo told; exit 5' TERM; kill -TERM $PPID; while :; do sleep 0.01; done",
        "sh -c 'sh -c \"echo of an orphan\" & exit 0'; sleep 0.2; echo last",
    ] {
        check(script, &tini, &["-s", "--", "sh", "-c", script]);
    }
}

/// `kill -1`, which would do harm on the host: all get the signal but who sends it.
#[test]
fn a_signal_to_all() {
    let Some(shell) = host_program("a_signal_to_all", "dash") else { return };
    for (script, expected) in [
        ("sleep 60 & a=$!; sleep 60 & b=$!; kill -s TERM -- -1; wait $a; echo $?; wait $b; echo $?", "143\n143\n"),
        (
            "trap 'echo told' TERM; dash -c 'kill -s TERM -- -1; echo not who sends it'; echo goes on",
            "not who sends it\ntold\ngoes on\n",
        ),
    ] {
        let output = in_vm(&[], &shell, &["-c", script]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{script}");
    }
}

#[test]
fn busybox_programs() {
    let Some(busybox) = host_program("busybox_programs", "busybox") else { return };
    for script in
        ["echo hello; exit 3", "x=0; while [ $x -lt 5 ]; do x=$((x+1)); done; echo $x", "cd /usr && pwd", "echo *bin*"]
    {
        check(script, &busybox, &["sh", "-c", script]);
    }
    check("cat", &busybox, &["cat", "/etc/debian_version"]);
    check("ls", &busybox, &["ls", "/usr"]);
    check("sha256sum", &busybox, &["sha256sum", "/etc/passwd", "/etc/group"]);
    check("find", &busybox, &["find", "/usr/share/common-licenses"]);
    check("missing file", &busybox, &["cat", "/nothing"]);
}

#[test]
fn node_programs() {
    let Some(node) = host_program("node_programs", "node") else { return };
    for script in [
        "console.log(1)",
        "setTimeout(() => { console.log('later'); process.exit(4) }, 20)",
        "const c = require('crypto'); console.log(c.createHash('sha256').update('x').digest('hex')); \
         c.pbkdf2('a', 'b', 1000, 16, 'sha256', (e, k) => console.log(k.toString('hex')))",
        "const fs = require('fs'); fs.writeFileSync('/tmp/calypte-node', 'text'); console.log(fs.readFileSync('/tmp/calypte-node', 'utf8')); \
         fs.unlinkSync('/tmp/calypte-node'); fs.promises.readdir('/usr').then(l => console.log(l.length > 3))",
        "let t = 0; for (let i = 0; i < 3e6; i++) t = (t + i * i) % 1000003; console.log(t)",
        "const s = require('net').createServer(c => c.pipe(c)).listen(0, '127.0.0.1', () => { const c = require('net').connect(s.address().port, \
         '127.0.0.1', () => c.end('hello')); c.on('data', d => console.log(String(d))); c.on('close', () => s.close()) })",
    ] {
        check(script, &node, &["-e", script]);
    }
}

#[test]
fn go_programs() {
    let Some(go) = host_program("go_programs", "go") else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["goroutines", "children"] {
        let program = folder.path().join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs").join(name).with_extension("go");
        let built = Command::new(&go)
            .args(["build", "-o"])
            .arg(&program)
            .arg(source)
            .env("GOFLAGS", "-mod=mod")
            .env("GOCACHE", folder.path().join("cache"))
            .status();
        assert!(built.unwrap().success());
        check(name, &Visible::new(&program).program, &[]);
    }
}

#[test]
fn input_environment_and_limits() {
    let Some(busybox) = host_program("input_environment_and_limits", "busybox") else { return };
    let output = in_vm(&["--env", "GREETING=hello there"], &busybox, &["sh", "-c", "echo $GREETING"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello there\n");

    let output = in_vm(&["--timeout", "1"], &busybox, &["sh", "-c", "while true; do :; done"]);
    assert_eq!(output.status.code(), Some(124), "{}", String::from_utf8_lossy(&output.stderr));

    let output = in_vm(&[], Path::new("/no/such/program"), &[]);
    assert_eq!(output.status.code(), Some(127), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/program"));

    let output = in_vm(&["--workdir", "/no/such/folder"], Path::new("busybox"), &["pwd"]);
    assert_eq!(output.status.code(), Some(125), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/folder"));

    let mut child = Command::new(env!("CARGO_BIN_EXE_calypte"))
        .args(["run", "--rootfs", "/", "--"])
        .arg(&busybox)
        .arg("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &vec![b'x'; 1_000_000]));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(output.stdout.len(), 1_000_000);
}
