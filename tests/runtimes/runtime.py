"""Threads, garbage, files, child processes, sockets and an HTTP server of the standard library."""
import asyncio, gc, hashlib, http.server, json, multiprocessing, os, socket, sqlite3, subprocess, sys, tempfile, threading
import urllib.request, weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor


class Node:
    pass


def square(number):
    return number * number


class Echo(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"path": self.path, "length": len(body)}).encode())

    def log_message(self, *arguments):
        pass


def collected():
    nodes = [Node() for _ in range(1000)]
    for node in nodes:
        node.next = nodes
    watched = [weakref.ref(node) for node in nodes]
    del nodes, node
    gc.collect()
    return sum(reference() is None for reference in watched)


def http_answers():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/some/path"
    client = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], b'x' * 100000).read().decode())"
    answers = [subprocess.run([sys.executable, "-c", client, url], capture_output=True, text=True).stdout.strip()]
    answers += [urllib.request.urlopen(url, b"y" * n).read().decode() for n in (1, 1000)]
    server.shutdown()
    return answers


async def processes():
    child = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    output, _ = await child.communicate(b"through cat")
    return output.decode(), child.returncode


def main():
    with ThreadPoolExecutor(8) as pool:
        print("threads", sum(pool.map(square, range(1000))))
    print("collected", collected())
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        with open(path, "wb") as file:
            file.write(bytes(1 << 20))
        print("file", hashlib.sha256(open(path, "rb").read()).hexdigest())
        database = sqlite3.connect(os.path.join(folder, "database"))
        database.execute("create table numbers(n)")
        database.executemany("insert into numbers values (?)", [(n,) for n in range(1000)])
        database.commit()
        print("sqlite", database.execute("select sum(n) from numbers").fetchone())
    run = subprocess.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True, text=True)
    print("child", run.returncode, run.stdout.strip(), run.stderr.strip())
    print("pipeline", subprocess.check_output("printf 'b\\na\\nb\\n' | sort | uniq -c | tr -s ' '", shell=True, text=True).split())
    try:
        subprocess.run(["sleep", "100"], timeout=0.2)
    except subprocess.TimeoutExpired:
        print("child killed in time")
    print("asyncio child", asyncio.run(processes()))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        print("fork pool", list(pool.map(square, range(10))))
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=child.send, args=({"from": "child"},))
    process.start()
    print("spawned", parent.recv(), process.join(), process.exitcode)
    print("http", http_answers())
    left, right = socket.socketpair()
    left.sendall(b"x" * 1000)
    print("socketpair", len(right.recv(2000)))


if __name__ == "__main__":
    main()
