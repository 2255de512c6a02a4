"""The AWS CLI, unmodified: deploy, invoke, change, list, delete, and how errors look."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import support

HANDLER = "def handler(event, context):\n    print('hello from', context.function_name)\n    return {{'{}': event}}\n"


def aws(*arguments, check=True):
    """Runs `aws lambda …`; the JSON that it prints, or its result where `check` is not wanted."""
    command = ["aws", "lambda", *arguments, "--output", "json"]
    # Version 2 shows its output in a pager unless told otherwise.
    environment = {**os.environ, "AWS_PAGER": ""}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    if not check:
        return result
    if result.returncode != 0:
        raise AssertionError(f"{command} failed: {result.stderr}")
    return json.loads(result.stdout) if result.stdout.strip() else None


class AwsCli(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def package(self, word):
        return "fileb://" + self.file(f"{word}.zip", support.zip_bytes({"app.py": HANDLER.format(word)}))

    def create(self, name, *arguments):
        created = aws(
            "create-function", "--function-name", name, "--runtime", support.python_runtime(), "--handler", "app.handler",
            "--role", support.ROLE, "--zip-file", self.package("first"), *arguments,
        )  # fmt: skip
        self.addCleanup(aws, "delete-function", "--function-name", name, check=False)
        return created

    def invoke(self, name, event, *arguments):
        """Invokes a function: what the CLI prints, and the payload."""
        output = self.folder / "output"
        payload = "fileb://" + self.file("event", json.dumps(event).encode())
        result = aws("invoke", "--function-name", name, "--payload", payload, *arguments, str(output))
        return result, json.loads(output.read_bytes())

    def expect_error(self, name, *arguments):
        result = aws(*arguments, check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn(f"An error occurred ({name})", result.stderr)
        return result.stderr

    def test_life_of_a_function(self):
        created = self.create("awscli-life", "--timeout", "20", "--environment", "Variables={NAME=value}")
        self.assertEqual((created["FunctionName"], created["Timeout"]), ("awscli-life", 20))
        aws("wait", "function-active-v2", "--function-name", "awscli-life")
        result, payload = self.invoke("awscli-life", {"a": 1}, "--log-type", "Tail")
        self.assertEqual((result["StatusCode"], result["ExecutedVersion"]), (200, "$LATEST"))
        self.assertIn("LogResult", result)
        self.assertEqual(payload, {"first": {"a": 1}})

        aws("update-function-code", "--function-name", "awscli-life", "--zip-file", self.package("second"))
        aws("wait", "function-updated-v2", "--function-name", "awscli-life")
        self.assertEqual(self.invoke("awscli-life", 2)[1], {"second": 2})
        changed = aws("update-function-configuration", "--function-name", "awscli-life", "--memory-size", "256")
        self.assertEqual((changed["MemorySize"], changed["Environment"]), (256, {"Variables": {"NAME": "value"}}))
        self.assertEqual(self.invoke(created["FunctionArn"], 3)[1], {"second": 3})

        shown = aws("get-function", "--function-name", "awscli-life")
        self.assertEqual(shown["Configuration"]["MemorySize"], 256)
        shown = aws("get-function-configuration", "--function-name", "awscli-life", "--qualifier", "$LATEST")
        self.assertEqual(shown["FunctionArn"], created["FunctionArn"] + ":$LATEST")
        aws("delete-function", "--function-name", "awscli-life")
        message = self.expect_error("ResourceNotFoundException", "get-function", "--function-name", "awscli-life")
        self.assertIn("Function not found: " + created["FunctionArn"], message)

    def test_lists(self):
        names = [f"awscli-list-{number}" for number in range(5)]
        for name in names:
            self.create(name)
        listed = aws("list-functions", "--page-size", "2")["Functions"]
        listed = [function["FunctionName"] for function in listed]
        self.assertEqual([name for name in listed if name.startswith("awscli-list-")], names)
        page = aws("list-functions", "--max-items", "2")
        self.assertEqual(len(page["Functions"]), 2)
        self.assertIn("NextToken", page)

    def test_failure_of_a_function(self):
        code = "fileb://" + self.file("bad.zip", support.zip_bytes({"app.py": "def handler(e, c):\n    return 1 / 0\n"}))
        self.create("awscli-fails")
        aws("update-function-code", "--function-name", "awscli-fails", "--zip-file", code)
        result, payload = self.invoke("awscli-fails", {})
        self.assertEqual((result["StatusCode"], result["FunctionError"]), (200, "Unhandled"))
        self.assertEqual(payload["errorType"], "ZeroDivisionError")

    def test_errors_are_named(self):
        self.create("awscli-errors")
        name = ("--function-name", "awscli-errors")
        bad = "fileb://" + self.file("evil.zip", support.zip_bytes({"../evil.py": ""}))
        self.expect_error("InvalidParameterValueException", "update-function-code", *name, "--zip-file", bad)
        self.expect_error("InvalidParameterValueException", "update-function-configuration", *name, "--timeout", "901")
        no_json = "fileb://" + self.file("event.txt", b"{not json")
        output = str(self.folder / "output")
        self.expect_error("InvalidRequestContentException", "invoke", *name, "--payload", no_json, output)
        self.expect_error("ResourceConflictException", "create-function", *name, "--runtime", support.python_runtime(),
                          "--handler", "a.b", "--role", support.ROLE, "--zip-file", self.package("again"))  # fmt: skip


if __name__ == "__main__":
    unittest.main()
