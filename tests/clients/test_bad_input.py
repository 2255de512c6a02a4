"""Bad functions, bad archives and bad requests: each gets Lambda's error, and the system serves the next call."""

import io
import json
import os
import signal
import stat
import time
import unittest
import urllib.error
import urllib.request
import zipfile

import botocore.exceptions

import support


class BadInput(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client = support.lambda_client()
        cls.runtime = support.python_runtime()
        cls.good = support.Function(cls.client, "bad-input-witness", cls.runtime, {"m.py": "def f(e, c):\n    return e\n"}, "m.f")

    @classmethod
    def tearDownClass(cls):
        cls.good.delete()

    def tearDown(self):
        """Whatever a test did, the next call works."""
        result = self.good.invoke({"still": "here"})
        self.assertNotIn("FunctionError", result)
        self.assertEqual(result["payload"], {"still": "here"})

    def run_bad(self, source, handler="m.f", event=None, **configuration):
        """Deploys a module, calls it, and gives the error document."""
        with support.Function(self.client, "bad-input", self.runtime, {"m.py": source}, handler, **configuration) as function:
            result = function.invoke(event)
            self.assertEqual(result.get("FunctionError"), "Unhandled", result)
            return result["payload"], result["log"]

    # Functions that fail.

    def test_missing_handler(self):
        error, _ = self.run_bad("x = 1\n")
        self.assertEqual(error["errorType"], "Runtime.HandlerNotFound")
        self.assertEqual(error["errorMessage"], "Handler 'f' missing on module 'm'")

    def test_missing_module(self):
        error, _ = self.run_bad("x = 1\n", handler="nothing.f")
        self.assertEqual(error["errorType"], "Runtime.ImportModuleError")
        self.assertIn("No module named 'nothing'", error["errorMessage"])

    def test_syntax_error(self):
        error, _ = self.run_bad("def f(e, c:\n")
        self.assertEqual(error["errorType"], "Runtime.UserCodeSyntaxError")
        self.assertIn("Syntax error in module 'm'", error["errorMessage"])

    def test_exception(self):
        error, log = self.run_bad("def f(e, c):\n    raise ValueError('no such thing')\n")
        self.assertEqual((error["errorType"], error["errorMessage"]), ("ValueError", "no such thing"))
        self.assertTrue(any("m.py" in line for line in error["stackTrace"]), error)
        self.assertIn("[ERROR] ValueError: no such thing", log)

    def test_unserialisable_result(self):
        error, _ = self.run_bad("def f(e, c):\n    return {1, 2}\n")
        self.assertEqual(error["errorType"], "Runtime.MarshalError")
        self.assertIn("set is not JSON serializable", error["errorMessage"])

    def test_result_over_6_mb(self):
        error, _ = self.run_bad("def f(e, c):\n    return 'x' * 7_000_000\n")
        self.assertEqual(error["errorType"], "Function.ResponseSizeTooLarge")

    def test_infinite_loop(self):
        started = time.monotonic()
        error, log = self.run_bad("def f(e, c):\n    while True: pass\n", Timeout=1)
        self.assertIn("Task timed out after 1.00 seconds", error["errorMessage"])
        self.assertIn("Task timed out after 1.00 seconds", log)
        self.assertLess(time.monotonic() - started, 20)

    def test_sleep_past_the_limit(self):
        error, _ = self.run_bad("import time\ndef f(e, c):\n    time.sleep(600)\n", Timeout=1)
        self.assertIn("Task timed out after 1.00 seconds", error["errorMessage"])

    def test_infinite_loop_while_importing(self):
        error, _ = self.run_bad("while True: pass\n", Timeout=1)
        self.assertIn("timed out", error["errorMessage"].lower())

    def test_deep_recursion(self):
        error, _ = self.run_bad("def g(n):\n    return g(n + 1) + 1\ndef f(e, c):\n    return g(0)\n")
        self.assertEqual(error["errorType"], "RecursionError")

    def test_stack_overflow(self):
        source = "import sys, threading\nsys.setrecursionlimit(10**9)\ndef g(*a):\n    return sorted([1], key=g)\ndef f(e, c):\n    return g()\n"
        error, _ = self.run_bad(source, Timeout=30)
        self.assertEqual(error["errorType"], "Runtime.ExitError")
        self.assertIn("signal: segmentation fault", error["errorMessage"])

    def test_memory_hog(self):
        error, _ = self.run_bad("def f(e, c):\n    keep = []\n    while True: keep.append(bytearray(1 << 20))\n", Timeout=60)
        self.assertIn(error["errorType"], ("Runtime.OutOfMemory", "MemoryError"))

    def test_thread_bomb(self):
        source = (
            "import threading, time\ndef f(e, c):\n    while True:\n"
            "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        )
        error, _ = self.run_bad(source, Timeout=30)
        self.assertIn(error["errorType"], ("RuntimeError", "Runtime.OutOfMemory", "Sandbox.Timedout"))

    def test_closing_every_descriptor(self):
        error, _ = self.run_bad("import os\ndef f(e, c):\n    os.closerange(0, 1024)\n    return 1\n", Timeout=5)
        self.assertIn(error["errorType"], ("Runtime.ExitError", "Sandbox.Timedout"))

    def test_exit_in_the_middle(self):
        error, _ = self.run_bad("import os\ndef f(e, c):\n    os._exit(0)\n")
        self.assertEqual(error["errorType"], "Runtime.ExitError")
        self.assertIn("Runtime exited without providing a reason", error["errorMessage"])
        error, _ = self.run_bad("import os\ndef f(e, c):\n    os._exit(3)\n")
        self.assertIn("Runtime exited with error: exit status 3", error["errorMessage"])

    def test_kill_of_the_monitor(self):
        source = "import time\ndef f(e, c):\n    print('started', flush=True)\n    time.sleep(30)\n"
        with support.Function(self.client, "bad-input-kill", self.runtime, {"m.py": source}, "m.f", Timeout=60) as function:
            before = support.monitor_pids()
            call = support.in_background(lambda: function.invoke({}))
            function.wait_for_log("started")
            (victim,) = support.monitor_pids() - before
            os.kill(victim, signal.SIGKILL)
            result = call.result(timeout=20)
            self.assertEqual(result["FunctionError"], "Unhandled")
            self.assertEqual(result["payload"]["errorType"], "Runtime.ExitError")

    def test_flood_of_output(self):
        source = "def f(e, c):\n    for i in range(50000): print('x' * 100)\n    return 'done'\n"
        with support.Function(self.client, "bad-input-flood", self.runtime, {"m.py": source}, "m.f", Timeout=60) as function:
            self.assertEqual(function.invoke({})["payload"], "done")

    # Archives that must be refused.

    def refuse_zip(self, data, expected_text, code="InvalidParameterValueException"):
        with self.assertRaises(botocore.exceptions.ClientError) as caught:
            self.client.create_function(
                FunctionName="bad-zip", Runtime=self.runtime, Handler="m.f", Role=support.ROLE, Code={"ZipFile": data}
            )
        error = caught.exception.response["Error"]
        self.assertEqual(error["Code"], code, error)
        self.assertIn(expected_text.lower(), error["Message"].lower())
        with self.assertRaises(self.client.exceptions.ResourceNotFoundException):
            self.client.get_function(FunctionName="bad-zip")

    def test_corrupt_zip(self):
        self.refuse_zip(b"this is no zip file", "zip")
        good = support.zip_bytes({"m.py": "def f(e, c): return 1\n" * 100})
        self.refuse_zip(good[: len(good) // 2], "zip")
        broken = bytearray(good)
        broken[45] ^= 0xFF
        self.refuse_zip(bytes(broken), "zip")

    def test_zip_with_a_path_out(self):
        for name in ("../evil.py", "a/../../evil.py", "/etc/evil"):
            self.refuse_zip(support.zip_bytes({name: "x"}), "evil")

    def test_zip_with_a_link_out(self):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            link = zipfile.ZipInfo("link")
            link.create_system = 3
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "../../../etc/passwd")
        self.refuse_zip(buffer.getvalue(), "link")

    def test_zip_bomb(self):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("zeros", "w", force_zip64=True) as member:
                for _ in range(300):
                    member.write(bytes(1 << 20))
        self.refuse_zip(buffer.getvalue(), "unzipped")

    def test_zip_of_60_mb(self):
        with self.assertRaises(botocore.exceptions.ClientError) as caught:
            data = support.zip_bytes({"noise": os.urandom(60 << 20)}, zipfile.ZIP_STORED)
            self.client.create_function(
                FunctionName="bad-zip", Runtime=self.runtime, Handler="m.f", Role=support.ROLE, Code={"ZipFile": data}
            )
        self.assertIn(caught.exception.response["Error"]["Code"], ("RequestEntityTooLargeException", "413"))

    # Requests that must be refused.

    def test_unknown_runtime(self):
        with self.assertRaises(self.client.exceptions.InvalidParameterValueException) as caught:
            self.client.create_function(
                FunctionName="bad-runtime",
                Runtime="cobol85",
                Handler="m.f",
                Role=support.ROLE,
                Code={"ZipFile": support.zip_bytes({"m.py": ""})},
            )
        self.assertIn("cobol85", str(caught.exception))

    def test_payload_that_is_no_json(self):
        with self.assertRaises(self.client.exceptions.InvalidRequestContentException):
            self.client.invoke(FunctionName=self.good.name, Payload=b"{not json")

    def test_payload_over_6_mb(self):
        with self.assertRaises(self.client.exceptions.RequestTooLargeException):
            self.client.invoke(FunctionName=self.good.name, Payload=json.dumps("x" * (6 << 20)).encode())

    def test_wrong_signature(self):
        client = support.lambda_client(aws_secret_access_key="wrong" * 8)
        with self.assertRaises(botocore.exceptions.ClientError) as caught:
            client.list_functions()
        self.assertEqual(caught.exception.response["Error"]["Code"], "InvalidSignatureException")

    def test_unknown_access_key(self):
        client = support.lambda_client(aws_access_key_id="AKIAAAAAAAAAAAAAAAAA")
        with self.assertRaises(botocore.exceptions.ClientError) as caught:
            client.list_functions()
        self.assertEqual(caught.exception.response["Error"]["Code"], "UnrecognizedClientException")

    def test_unsigned_request(self):
        url = os.environ["AWS_ENDPOINT_URL_LAMBDA"] + "/2015-03-31/functions/"
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, timeout=10)
        with caught.exception as response:
            self.assertEqual(response.code, 403)
            self.assertIn("MissingAuthenticationToken", response.headers["x-amzn-ErrorType"])

    def test_function_of_another_account(self):
        other = self.client.get_function(FunctionName=self.good.name)["Configuration"]["FunctionArn"]
        parts = other.split(":")
        parts[4] = "999999999999"
        with self.assertRaises(botocore.exceptions.ClientError) as caught:
            self.client.invoke(FunctionName=":".join(parts))
        self.assertIn(
            caught.exception.response["Error"]["Code"], ("AccessDeniedException", "ResourceNotFoundException")
        )


if __name__ == "__main__":
    unittest.main()
