"""What the client tests share: clients, archives, a function that is deleted at the end."""

import base64
import concurrent.futures
import io
import json
import os
import subprocess
import time
import zipfile

import boto3
from botocore.config import Config

ROLE = "arn:aws:iam::123456789012:role/unused"
PROGRAM = os.environ["CALYPTE_PROGRAM"]
DATA = os.environ["CALYPTE_DATA"]
SERVER_PID = int(os.environ["CALYPTE_SERVER_PID"])


def lambda_client(**overrides):
    """A boto3 client that does not repeat failed requests, so that errors are seen."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=120)
    # boto3 takes an explicit key only as a whole.
    key = {name: os.environ[name.upper()] for name in ("aws_access_key_id", "aws_secret_access_key")}
    return boto3.client("lambda", config=config, **{**key, **overrides})


def calypte(*arguments):
    """Runs the command line against the tests' data folder and gives what it prints."""
    command = [PROGRAM, *arguments, "--data", DATA]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def python_runtime():
    """The newest Python runtime that the server found on this host."""
    names = [runtime["name"] for runtime in json.loads(calypte("runtime", "ls", "--json"))]
    return max((name for name in names if name.startswith("python3.")), key=lambda name: int(name.split(".")[1]))


def zip_bytes(files, compression=zipfile.ZIP_DEFLATED):
    """An archive of `{name: text or bytes}`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Function:
    """A deployed function; deletes itself at the end of a `with` block."""

    def __init__(self, client, name, runtime, files, handler, **configuration):
        self.client = client
        self.name = name
        code = files if isinstance(files, bytes) else zip_bytes(files)
        client.create_function(
            FunctionName=name, Runtime=runtime, Handler=handler, Role=ROLE, Code={"ZipFile": code}, **configuration
        )
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})

    def invoke(self, event=None, **options):
        """Calls it; the result has the decoded `payload` and the tail of the `log` besides boto3's members."""
        result = self.client.invoke(
            FunctionName=self.name, Payload=json.dumps(event).encode(), LogType="Tail", **options
        )
        result["payload"] = json.loads(result["Payload"].read())
        result["log"] = base64.b64decode(result["LogResult"]).decode()
        return result

    def wait_for_log(self, text, timeout_s=20):
        """Waits until its log holds a text."""
        deadline = time.monotonic() + timeout_s
        while text not in calypte("logs", self.name):
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} was not logged within {timeout_s} s")
            time.sleep(0.05)

    def delete(self):
        self.client.delete_function(FunctionName=self.name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.delete()


def in_background(function):
    """Runs a function on another thread; the future of its result."""
    executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    future = executor.submit(function)
    executor.shutdown(wait=False)
    return future


def monitor_pids():
    """Process ids of the running monitors: children of the zygote, which is the server's child."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    parent = {int(line.split()[0]): int(line.split()[1]) for line in listed.splitlines()}
    return {pid for pid, of in parent.items() if parent.get(of) == SERVER_PID}


def zip_executable(name, content):
    """An archive of one file with its executable bit."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo(name)
        member.create_system = 3
        member.external_attr = 0o100755 << 16
        archive.writestr(member, content)
    return buffer.getvalue()
