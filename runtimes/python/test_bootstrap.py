"""Tests of bootstrap.py: functions run by it as on a node, against a Runtime API of this file.

    python3 runtimes/python/test_bootstrap.py            # with the Python that runs it
    BOOTSTRAP="python -m awslambdaric" python3 …         # proves the expectations: the same tests against AWS's client;
                                                         # those of our own extensions are skipped by name
"""

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest

BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.py")
IS_OURS = "BOOTSTRAP" not in os.environ
COMMAND = [sys.executable, BOOTSTRAP] if IS_OURS else shlex.split(os.environ["BOOTSTRAP"])
# Far above what anything here takes: reached only when something hangs.
TIME_LIMIT_S = 60


class FakeRuntimeApi(threading.Thread):
    """Answers `next` with events in turn, keeps what is posted, and ends the program after the last event."""

    def __init__(self, events, split=None, post_status="202 Accepted", generation=None):
        super().__init__(daemon=True)
        self.events, self.split, self.post_status = list(events), split, post_status
        self.posts, self.requests, self.generation = [], [], generation
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.invocations = 0

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as reader:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                line = reader.readline().decode().split(" ")
                if len(line) < 3:
                    return
                headers = {}
                while True:
                    field = reader.readline().decode().strip()
                    if not field:
                        break
                    name, _, value = field.partition(":")
                    headers[name.lower()] = value.strip()
                body = self.read_body(reader, headers)
                self.requests.append((line[0], line[1]))
                if line[1].endswith("/restore/next"):
                    headers = {"Calypte-Generation": self.generation} if self.generation else {}
                    self.send(connection, "200 OK", headers, b"")
                elif line[1].endswith("/invocation/next"):
                    if not self.events:
                        return
                    self.answer_next(connection)
                else:
                    self.posts.append((line[1], headers, body))
                    self.send(connection, self.post_status, {}, b'{"status":"OK"}\n')

    def read_body(self, reader, headers):
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                length = int(reader.readline(), 16)
                body += reader.read(length)
                reader.readline()
                if not length:
                    return body
        return reader.read(int(headers.get("content-length", 0)))

    def answer_next(self, connection):
        event = self.events.pop(0)
        extra = {}
        if isinstance(event, tuple):
            event, extra = event
        self.invocations += 1
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": "request-%d" % self.invocations,
            "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + 10000),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:123456789012:function:f",
        }
        headers.update(extra)
        self.send(connection, "200 OK", headers, event if isinstance(event, bytes) else json.dumps(event).encode())

    def send(self, connection, status, headers, body):
        head = "HTTP/1.1 %s\r\n" % status
        head += "".join("%s: %s\r\n" % field for field in headers.items())
        answer = (head + "Content-Length: %d\r\n\r\n" % len(body)).encode() + body
        step = self.split or len(answer)
        for start in range(0, len(answer), step):
            connection.sendall(answer[start : start + step])


class Run:
    """A function that has been run until its events were used up or it ended."""

    def __init__(self, code, events=(), handler="function.handler", files=None, environment=None, **api):
        self.api = FakeRuntimeApi(events, **api)
        self.api.start()
        with tempfile.TemporaryDirectory() as root:
            for name, text in dict(files or {}, **({"function.py": code} if code is not None else {})).items():
                path = os.path.join(root, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(textwrap.dedent(text))
            variables = {
                "PATH": os.environ["PATH"],
                "AWS_LAMBDA_RUNTIME_API": self.api.address,
                "AWS_LAMBDA_FUNCTION_NAME": "f",
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
                "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/f",
                "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
                "AWS_EXECUTION_ENV": "AWS_Lambda_python%d.%d" % sys.version_info[:2],
                "LAMBDA_TASK_ROOT": root,
                "_HANDLER": handler,
            }
            variables.update(environment or {})
            command = COMMAND if IS_OURS else COMMAND + [handler]
            done = subprocess.run(
                command, cwd=root, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=TIME_LIMIT_S
            )
            self.root = root
        self.api.listener.close()
        self.status, self.output = done.returncode, done.stdout.decode(errors="replace")
        self.errors = done.stderr.decode(errors="replace")

    def responses(self):
        return [json.loads(body) for path, _, body in self.api.posts if path.endswith("/response")]

    def error(self, ending="/error"):
        """The last error document and its type header."""
        path, headers, body = self.api.posts[-1]
        assert path.endswith(ending), (path, body, self.errors)
        document = json.loads(body)
        if not isinstance(document, dict):
            document = json.loads(document)
        return document


def ours(test):
    return unittest.skipUnless(IS_OURS, "an extension of our bootstrap")(test)


ECHO = "def handler(event, context):\n    return event\n"


class Events(unittest.TestCase):
    def test_events_and_responses_of_every_kind(self):
        events = [None, True, 0, 1.5, "text", [], {"a": [1, {"b": None}]}, "ünïcödé \U0001f426", "x" * 300000]
        run = Run(ECHO, events)
        self.assertEqual(run.responses(), events)
        self.assertEqual([path.split("/")[4] for path, _, _ in run.api.posts][:2], ["request-1", "request-2"])

    @ours
    def test_answers_split_anywhere(self):
        events = [{"n": n, "text": "y" * 300} for n in range(3)]
        for split in (1, 2, 3, 7, 100):
            self.assertEqual(Run(ECHO, events, split=split).responses(), events, split)

    def test_large_events_and_responses(self):
        event = "z" * (6 * 1024 * 1024 - 2)
        self.assertEqual(Run(ECHO, [event, 1], split=50000).responses(), [event, 1])

    @ours
    def test_a_head_longer_than_the_buffer(self):
        context = {"custom": {"k": "v" * 200000}}
        code = "def handler(event, context):\n    return len(context.client_context.custom['k'])\n"
        headers = {"Lambda-Runtime-Client-Context": json.dumps(context)}
        run = Run(code, [(1, headers), (2, headers), (3, headers)], split=9973)
        self.assertEqual(run.responses(), [200000] * 3)

    @ours
    def test_the_answer_and_the_next_request_travel_together(self):
        run = Run(ECHO, [1, 2])
        kinds = [path.rsplit("/", 1)[1] for _, path in run.api.requests]
        self.assertEqual(kinds, ["next", "response", "next", "response", "next"])

    @ours
    def test_a_refused_response_does_not_end_the_program(self):
        run = Run(ECHO, [1, 2], post_status="413 Request Entity Too Large")
        self.assertEqual(run.responses(), [1, 2])

    def test_bytes_go_out_as_they_are(self):
        run = Run("def handler(event, context):\n    return b'\\x00\\xff'\n", [1])
        _, headers, body = run.api.posts[0]
        self.assertEqual((headers["content-type"], body), ("application/unknown", b"\x00\xff"))

    def test_decimals_are_numbers(self):
        code = """
            from decimal import Decimal
            def handler(event, context):
                return {"a": Decimal("1.10"), "b": [Decimal("1e400")], "c": "decimal-x"}
        """
        _, _, body = Run(code, [1]).api.posts[0]
        self.assertEqual(body.decode(), '{"a": 1.10, "b": [1E+400], "c": "decimal-x"}')

    def test_an_event_that_is_not_json(self):
        error = Run(ECHO, [b"{nope"]).error()
        self.assertEqual(error["errorType"], "Runtime.UnmarshalError")
        self.assertTrue(error["errorMessage"].startswith("Unable to unmarshal input: Expecting property name"))

    def test_unserialisable_results(self):
        error = Run("def handler(event, context):\n    return {1, 2}\n", [1]).error()
        self.assertEqual(error["errorType"], "Runtime.MarshalError")
        self.assertEqual(
            error["errorMessage"], "Unable to marshal response: Object of type set is not JSON serializable"
        )
        self.assertEqual(error["stackTrace"], [])
        circular = "def handler(event, context):\n    a = []\n    a.append(a)\n    return a\n"
        self.assertEqual(Run(circular, [1]).error()["errorType"], "Runtime.MarshalError")

    @ours
    def test_text_that_is_no_unicode_is_a_marshal_error_and_the_next_event_is_served(self):
        code = "def handler(event, context):\n    return '\\ud800' if event == 1 else {'\\ud800': event}[event]\n"
        run = Run(code, [1, 2])
        expected = "/response" if sys.version_info < (3, 12) else "/error"
        self.assertTrue(run.api.posts[0][0].endswith(expected))
        self.assertEqual(len(run.api.posts), 2)


class Context(unittest.TestCase):
    def test_fields(self):
        code = """
            import os
            def handler(event, context):
                names = ["aws_request_id", "function_name", "function_version", "invoked_function_arn",
                         "memory_limit_in_mb", "log_group_name", "log_stream_name", "tenant_id"]
                result = {name: getattr(context, name) for name in names}
                result["client_context"] = repr(context.client_context)
                result["identity"] = repr(context.identity)
                result["remaining"] = context.get_remaining_time_in_millis()
                result["trace"] = os.environ.get("_X_AMZN_TRACE_ID")
                repr(context)
                return result
        """
        result = Run(code, [1]).responses()[0]
        self.assertTrue(8000 < result.pop("remaining") <= 10000)
        self.assertEqual(
            result,
            {
                "aws_request_id": "request-1",
                "function_name": "f",
                "function_version": "$LATEST",
                "invoked_function_arn": "arn:aws:lambda:eu-west-1:123456789012:function:f",
                "memory_limit_in_mb": "128",
                "log_group_name": "/aws/lambda/f",
                "log_stream_name": "stream",
                "tenant_id": None,
                "client_context": "None",
                "identity": "CognitoIdentity([cognito_identity_id=None,cognito_identity_pool_id=None])",
                "trace": None,
            },
        )

    def test_client_context_identity_and_trace(self):
        code = """
            import os
            def handler(event, context):
                return [context.client_context.custom, context.client_context.client.app_title,
                        context.client_context.env, context.identity.cognito_identity_id,
                        os.environ.get("_X_AMZN_TRACE_ID")]
        """
        headers = {
            "Lambda-Runtime-Client-Context": '{"custom": {"k": 1}, "client": {"app_title": "t"}}',
            "Lambda-Runtime-Cognito-Identity": '{"cognitoIdentityId": "i"}',
            "Lambda-Runtime-Trace-Id": "Root=1",
        }
        run = Run(code, [(1, headers), (2, dict(headers, **{"Lambda-Runtime-Trace-Id": "Root=2"}))])
        self.assertEqual(run.responses(), [[{"k": 1}, "t", None, "i", "Root=1"], [{"k": 1}, "t", None, "i", "Root=2"]])

    def test_a_client_context_that_is_not_json(self):
        error = Run(ECHO, [(1, {"Lambda-Runtime-Client-Context": "{"})]).error()
        self.assertEqual(error["errorType"], "Runtime.LambdaContextUnmarshalError")
        self.assertTrue(error["errorMessage"].startswith("Unable to parse Client Context JSON: Expecting"))


class Errors(unittest.TestCase):
    def test_an_exception_and_the_next_event(self):
        code = """
            class Broken(Exception):
                pass
            def inner(event):
                raise Broken("no %s" % event)
            def handler(event, context):
                if event == 1:
                    inner(event)
                return "fine"
        """
        run = Run(code, [1, 2])
        path, headers, body = run.api.posts[0]
        self.assertTrue(path.endswith("/invocation/request-1/error"))
        error = json.loads(body)
        trace = error.pop("stackTrace")
        self.assertEqual(error, {"errorMessage": "no 1", "errorType": "Broken", "requestId": "request-1"})
        self.assertEqual(len(trace), 2)
        file = os.path.join(run.root, "function.py")
        self.assertEqual(trace[0], '  File "%s", line 8, in handler\n    inner(event)\n' % file)
        self.assertEqual(trace[1], '  File "%s", line 5, in inner\n    raise Broken("no %%s" %% event)\n' % file)
        self.assertEqual(run.responses(), ["fine"])
        self.assertIn("[ERROR] Broken: no 1", run.output)
        self.assertIn("Traceback (most recent call last):", run.output)

    @ours
    def test_the_type_travels_as_a_header_too(self):
        code = "def handler(event, context):\n    raise type('Odd\\r\\nInjected: 1', (Exception,), {})\n"
        _, headers, _ = Run(code, [1]).api.posts[0]
        self.assertEqual(headers["lambda-runtime-function-error-type"], "OddInjected:1")
        self.assertNotIn("injected", headers)

    def test_deep_recursion(self):
        code = "def handler(event, context):\n    return handler(event, context) if event else 'fine'\n"
        run = Run(code, [1, 0])
        self.assertEqual(json.loads(run.api.posts[0][2])["errorType"], "RecursionError")
        self.assertEqual(run.responses(), ["fine"])

    @ours
    def test_exceptions_that_fail_themselves(self):
        code = """
            class Worse(Exception):
                def __str__(self):
                    raise ValueError("in str")
            def handler(event, context):
                raise Worse() if event == 1 else ValueError("\\ud800")
        """
        run = Run(code, [1, 2])
        documents = [json.loads(body) for _, _, body in run.api.posts]
        self.assertEqual([d["errorType"] for d in documents], ["Worse", "ValueError"])
        self.assertEqual(documents[1]["errorMessage"], "\ud800")

    def test_exits_end_the_program_with_their_status(self):
        for code, status in (("sys.exit(0)", 0), ("sys.exit(3)", 3), ("os._exit(4)", 4), ("exit(5)", 5)):
            run = Run("import os, sys\ndef handler(event, context):\n    %s\n" % code, [1])
            self.assertEqual((run.status, run.api.posts), (status, []), code)

    def test_other_base_exceptions_end_the_program(self):
        run = Run("def handler(event, context):\n    raise KeyboardInterrupt\n", [1])
        self.assertEqual(run.api.posts, [])
        self.assertNotEqual(run.status, 0)

    @ours
    def test_closing_every_descriptor_ends_the_program(self):
        code = "import os\ndef handler(event, context):\n    os.closerange(0, 1000)\n    return 1\n"
        run = Run(code, [1])
        self.assertEqual(run.api.posts, [])
        self.assertNotEqual(run.status, 0)


class Initialisation(unittest.TestCase):
    def check(self, expected_type, expected_message, code=ECHO, **arguments):
        run = Run(code, [1], **arguments)
        self.assertEqual(run.status, 1, run.errors)
        self.assertEqual([path for path, _, _ in run.api.posts], ["/2018-06-01/runtime/init/error"])
        error = run.error("/init/error")
        self.assertEqual(error["errorType"], expected_type)
        self.assertTrue(error["errorMessage"].startswith(expected_message), error["errorMessage"])
        self.assertEqual(run.api.posts[0][1]["lambda-runtime-function-error-type"], expected_type)
        self.assertIn("[ERROR] " + expected_type, run.output)
        return run, error

    def test_handler_not_found(self):
        _, error = self.check(
            "Runtime.HandlerNotFound", "Handler 'absent' missing on module 'function'", handler="function.absent"
        )
        self.assertEqual(error["stackTrace"], [])

    def test_module_not_found(self):
        self.check(
            "Runtime.ImportModuleError",
            "Unable to import module 'absent': No module named 'absent'",
            handler="absent.handler",
        )

    def test_import_in_the_module_fails(self):
        self.check(
            "Runtime.ImportModuleError",
            "Unable to import module 'function': No module named 'numpyx'",
            code="import numpyx\n",
        )

    def test_malformed_handler_name(self):
        message = "Bad handler 'handler': not enough values to unpack (expected 2, got 1)"
        self.check("Runtime.MalformedHandlerName", message, handler="handler")

    def test_built_in_module(self):
        self.check(
            "Runtime.BuiltInModuleConflict",
            "Cannot use built-in module sys as a handler module",
            handler="sys.exit",
        )

    def test_syntax_error(self):
        run, error = self.check(
            "Runtime.UserCodeSyntaxError", "Syntax error in module 'function': ", code="def handler(:\n    pass\n"
        )
        file = os.path.join(run.root, "function.py")
        self.assertEqual(error["stackTrace"], ['  File "%s" Line 1\n    def handler(:\n' % file])

    def test_exception_in_the_module(self):
        run, error = self.check("ZeroDivisionError", "division by zero", code="def f():\n    return 1 / 0\nf()\n")
        self.assertIn('function.py", line 2, in f\n', error["stackTrace"][-1])

    def test_exit_in_the_module(self):
        run = Run("import sys\nsys.exit(7)\n", [1])
        self.assertEqual((run.status, run.api.posts), (7, []))


class SnapshotHooks(unittest.TestCase):
    """AWS's client passes where snapshot_restore_py is installed."""

    CODE = """
        import random
        from snapshot_restore_py import register_before_snapshot, register_after_restore
        calls = []

        @register_before_snapshot
        def first():
            calls.append("before 1")

        register_before_snapshot(calls.append, "before 2")

        @register_after_restore
        def third():
            calls.append("after 1")

        register_after_restore(lambda *args, **kwargs: calls.append([args, kwargs]), 2, key="value")

        def handler(event, context):
            return calls
        """
    SNAP_START = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}

    def requests(self, run):
        return [path.rpartition("/runtime/")[2] for _, path in run.api.requests]

    def test_before_hooks_run_backwards_and_after_hooks_forwards(self):
        run = Run(self.CODE, [1], environment=self.SNAP_START)
        self.assertEqual(run.responses(), [["before 2", "before 1", "after 1", [[2], {"key": "value"}]]])
        self.assertEqual(self.requests(run)[:2], ["restore/next", "invocation/next"])

    def test_hooks_do_not_run_where_nothing_is_saved(self):
        run = Run(self.CODE, [1], environment={"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand"})
        self.assertEqual(run.responses(), [[]])
        self.assertNotIn("restore/next", self.requests(run))

    def test_a_hook_that_fails_before_the_snapshot(self):
        code = """
            from snapshot_restore_py import register_before_snapshot
            register_before_snapshot(lambda: 1 / 0)
            def handler(event, context): pass
            """
        run = Run(code, [1], environment=self.SNAP_START)
        self.check_failure(run, "init/error", "Runtime.BeforeSnapshotError", 64)

    def test_a_hook_that_fails_after_the_restore(self):
        code = """
            from snapshot_restore_py import register_after_restore
            register_after_restore(lambda: 1 / 0)
            def handler(event, context): pass
            """
        run = Run(code, [1], environment=self.SNAP_START)
        self.check_failure(run, "restore/error", "Runtime.AfterRestoreError", 65)

    def check_failure(self, run, path, error_type, status):
        (posted,) = run.api.posts
        self.assertTrue(posted[0].endswith(path), posted)
        self.assertEqual(posted[1]["lambda-runtime-function-error-type"], error_type)
        document = json.loads(posted[2])
        self.assertEqual((document["errorType"], document["errorMessage"]), ("ZeroDivisionError", "division by zero"))
        self.assertIn("[ERROR] ZeroDivisionError: division by zero", run.output)
        self.assertEqual((run.status, run.api.invocations), (status, 0))

    @ours
    def test_a_library_that_the_function_brings_is_used(self):
        library = """
            hooks = [(print, ("its own",), {})]
            def get_before_snapshot(): return hooks
            def get_after_restore(): return []
            """
        code = "import snapshot_restore_py\ndef handler(event, context): return snapshot_restore_py.__file__ is not None"
        run = Run(code, [1], files={"snapshot_restore_py.py": library}, environment=self.SNAP_START)
        self.assertEqual(run.responses(), [True])
        self.assertIn("its own", run.output)
        self.assertNotIn("restore/next", self.requests(run), "no hook is to run in copies")

    @ours
    def test_hooks_in_copies_draw_numbers_of_their_own(self):
        code = """
            import random
            from snapshot_restore_py import register_after_restore
            random.seed(1)
            drawn = []
            register_after_restore(lambda: drawn.append(random.random()))
            def handler(event, context):
                random.seed(1)
                return drawn[0] != random.random()
            """
        event = (1, {"Calypte-Generation": "a"})
        run = Run(code, [event], environment=self.SNAP_START, generation="a")
        self.assertEqual(run.responses(), [True])
        kept = code.replace("random.seed(1)\n                return", "return")
        kept = kept.replace("drawn.append(random.random())", "random.seed(7)")
        kept = kept.replace("drawn[0] != random.random()", "random.random() == random.Random(7).random()")
        run = Run(kept, [event], environment=self.SNAP_START, generation="a")
        self.assertEqual(run.responses(), [True], "the event of the same copy does not seed anew what a hook has seeded")


class Modules(unittest.TestCase):
    def test_handlers_in_packages(self):
        files = {"pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/sub/mod.py": ECHO}
        for handler in ("pkg/sub/mod.handler", "pkg.sub.mod.handler"):
            self.assertEqual(Run(None, [1], handler=handler, files=files).responses(), [1])

    def test_own_modules_come_before_the_library(self):
        code = "import colorsys\ndef handler(event, context):\n    return colorsys.WHOSE\n"
        self.assertEqual(Run(code, [1], files={"colorsys.py": "WHOSE = 'ours'\n"}).responses(), ["ours"])

    @ours
    def test_little_is_imported_for_a_function_that_imports_nothing(self):
        code = "import sys\ndef handler(event, context):\n    return sorted(sys.modules)\n"
        modules = set(Run(code, [1]).responses()[0])
        for heavy in ("logging", "http.client", "urllib.parse", "ssl", "traceback", "selectors", "socket", "decimal"):
            # A Python with start-up hooks in its site-packages imports some before us.
            command = [sys.executable, "-c", "import json, os, sys; print(json.dumps(sorted(sys.modules)))"]
            bare = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            self.assertTrue(heavy not in modules or heavy in bare, heavy)


class Output(unittest.TestCase):
    def test_logging(self):
        code = """
            import logging
            logger = logging.getLogger()
            logger.setLevel("INFO")
            logging.basicConfig(format="never used: there is a handler already")
            def handler(event, context):
                logging.getLogger("a.b").info("hello %s", event)
                logging.debug("not shown")
                context.log("raw\\n")
                try:
                    1 / 0
                except ZeroDivisionError:
                    logger.exception("caught")
        """
        run = Run(code, [1])
        self.assertRegex(
            run.output, r"(?m)^\[INFO\]\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\trequest-1\thello 1$"
        )
        self.assertRegex(run.output, r"(?m)^\[ERROR\]\t.*\trequest-1\tcaught$")
        self.assertRegex(run.output, r"(?m)^ZeroDivisionError: division by zero" + ("$" if IS_OURS else ""))
        self.assertRegex(run.output, r"(?m)^raw$")
        self.assertNotIn("not shown", run.output)

    def test_logging_while_the_module_is_imported_and_levels(self):
        code = """
            import logging
            logging.warning("during init")
            logging.info("below the default level")
            def handler(event, context):
                pass
        """
        run = Run(code, [1])
        self.assertRegex(run.output, r"(?m)^\[WARNING\]\t\S+Z\t\tduring init$")
        self.assertNotIn("below", run.output)

    def test_print_reaches_the_log_before_the_program_is_killed(self):
        code = """
            import os, sys
            def handler(event, context):
                print("a line")
                print("an error line", file=sys.stderr)
                os._exit(9)
        """
        run = Run(code, [1])
        self.assertEqual((run.output, run.errors), ("a line\n", "an error line\n"))

    def test_output_without_a_line_end(self):
        code = """
            import os
            def handler(event, context):
                if event == 2:
                    os._exit(1)
                print("no end", end="")
        """
        self.assertEqual(Run(code, [1, 2]).output, "no end")

    def test_streams_that_the_function_closed(self):
        code = """
            import sys
            def handler(event, context):
                sys.stdout = None
                return "fine"
        """
        self.assertEqual(Run(code, [1, 2]).responses(), ["fine", "fine"])

    def test_text_of_every_language_under_the_c_locale(self):
        code = "def handler(event, context):\n    print('ünïcödé \U0001f426')\n"
        run = Run(code, [1], environment={"LC_ALL": "POSIX", "LANG": ""})
        self.assertRegex(run.output, "^ünïcödé \U0001f426\n")


if __name__ == "__main__":
    unittest.main(verbosity=1)
