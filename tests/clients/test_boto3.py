"""boto3, unmodified: functions from creation to deletion, invocations, paging, waiters, typed exceptions."""

import base64
import functools
import hashlib
import json
import unittest
import urllib.error
import urllib.request

import botocore.exceptions

import support

SOURCE = """
import os

def handler(event, context):
    if event == "fail":
        raise ValueError("asked to fail")
    client = context.client_context
    return {
        "event": event,
        "custom": client.custom if client else None,
        "setting": os.environ.get("SETTING"),
        "region": os.environ["AWS_REGION"],
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
    }
"""


class Functions(unittest.TestCase):
    """From creation to deletion."""

    @classmethod
    def setUpClass(cls):
        cls.client = support.lambda_client()
        cls.runtime = support.python_runtime()

    def create(self, name, **changes):
        request = {
            "FunctionName": name,
            "Runtime": self.runtime,
            "Handler": "app.handler",
            "Role": support.ROLE,
            "Code": {"ZipFile": support.zip_bytes({"app.py": SOURCE})},
            **changes,
        }
        created = self.client.create_function(**{key: value for key, value in request.items() if value is not None})
        self.addCleanup(self.delete_if_there, name)
        return created

    def delete_if_there(self, name):
        try:
            self.client.delete_function(FunctionName=name)
        except self.client.exceptions.ResourceNotFoundException:
            pass

    def invoke(self, name, event=None):
        result = self.client.invoke(FunctionName=name, Payload=json.dumps(event).encode())
        self.assertNotIn("FunctionError", result)
        return json.loads(result["Payload"].read())

    def test_life_of_a_function(self):
        package = support.zip_bytes({"app.py": SOURCE})
        created = self.create(
            "boto3-life",
            Code={"ZipFile": package},
            Description="a function",
            MemorySize=192,
            Timeout=20,
            Environment={"Variables": {"SETTING": "first"}},
            EphemeralStorage={"Size": 600},
            Architectures=["x86_64"],
            PackageType="Zip",
            Publish=False,
            Tags={"team": "blue"},
            TracingConfig={"Mode": "PassThrough"},
        )
        self.assertEqual(created["ResponseMetadata"]["HTTPStatusCode"], 201)
        expected = {
            "FunctionName": "boto3-life",
            "Runtime": self.runtime,
            "Handler": "app.handler",
            "Role": support.ROLE,
            "Description": "a function",
            "MemorySize": 192,
            "Timeout": 20,
            "Version": "$LATEST",
            "CodeSize": len(package),
            "CodeSha256": base64.b64encode(hashlib.sha256(package).digest()).decode(),
            "Environment": {"Variables": {"SETTING": "first"}},
            "EphemeralStorage": {"Size": 600},
            "Architectures": ["x86_64"],
            "PackageType": "Zip",
            "TracingConfig": {"Mode": "PassThrough"},
        }
        self.assertEqual({name: created.get(name) for name in expected}, expected)
        self.assertRegex(created["LastModified"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000$")
        for waiter in ("function_exists", "function_active", "function_active_v2", "function_updated_v2"):
            self.client.get_waiter(waiter).wait(FunctionName="boto3-life")

        shown = self.client.get_function(FunctionName="boto3-life")
        self.assertEqual(shown["Configuration"]["RevisionId"], created["RevisionId"])
        self.assertEqual(shown["Tags"], {"team": "blue"})
        answer = self.invoke("boto3-life", {"a": [1, "ä"]})
        self.assertEqual(answer["event"], {"a": [1, "ä"]})
        self.assertEqual((answer["setting"], int(answer["memory"])), ("first", 192))
        self.assertEqual(answer["region"], self.client.meta.region_name)

        updated = self.client.update_function_configuration(
            FunctionName="boto3-life", MemorySize=256, Environment={"Variables": {"SETTING": "second"}}
        )
        self.client.get_waiter("function_updated").wait(FunctionName="boto3-life")
        self.assertEqual((updated["MemorySize"], updated["Timeout"]), (256, 20))
        self.assertNotEqual(updated["RevisionId"], created["RevisionId"])
        answer = self.invoke("boto3-life")
        self.assertEqual((answer["setting"], int(answer["memory"])), ("second", 256))

        code = support.zip_bytes({"app.py": "def handler(event, context):\n    return 'new code'\n"})
        dry = self.client.update_function_code(FunctionName="boto3-life", ZipFile=code, DryRun=True)
        self.assertEqual(dry["CodeSize"], len(code))
        self.assertEqual(self.invoke("boto3-life")["setting"], "second")
        self.client.update_function_code(FunctionName="boto3-life", ZipFile=code)
        self.client.get_waiter("function_updated_v2").wait(FunctionName="boto3-life")
        self.assertEqual(self.invoke("boto3-life"), "new code")

        self.client.delete_function(FunctionName="boto3-life")
        for call in (self.client.get_function, self.client.delete_function, self.client.invoke):
            with self.assertRaises(self.client.exceptions.ResourceNotFoundException):
                call(FunctionName="boto3-life")

    def test_code_can_be_downloaded(self):
        package = support.zip_bytes({"app.py": SOURCE})
        self.create("boto3-download", Code={"ZipFile": package})
        location = self.client.get_function(FunctionName="boto3-download")["Code"]["Location"]
        with urllib.request.urlopen(location, timeout=10) as response:
            self.assertEqual(response.read(), package)
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(location.split("?")[0], timeout=10)
        with caught.exception as response:
            self.assertEqual(response.code, 403)

    def test_every_form_of_a_name(self):
        arn = self.create("boto3-names")["FunctionArn"]
        account = arn.split(":")[4]
        for name in ("boto3-names", arn, f"{account}:function:boto3-names"):
            self.assertEqual(self.invoke(name)["arn"], arn)
            shown = self.client.get_function_configuration(FunctionName=name)
            self.assertEqual(shown["FunctionArn"], arn)
        for arguments in (
            {"FunctionName": "boto3-names:$LATEST"},
            {"FunctionName": f"{arn}:$LATEST"},
            {"FunctionName": "boto3-names", "Qualifier": "$LATEST"},
        ):
            shown = self.client.get_function_configuration(**arguments)
            self.assertEqual(shown["FunctionArn"], f"{arn}:$LATEST")
            result = self.client.invoke(**arguments, Payload=b"{}")
            self.assertEqual(result["ExecutedVersion"], "$LATEST")
        with self.assertRaises(self.client.exceptions.ResourceNotFoundException):
            self.client.invoke(FunctionName="boto3-names", Qualifier="7")

    def test_lists_have_pages(self):
        names = [f"boto3-page-{number:02}" for number in range(12)]
        for name in names:
            self.create(name)
        pages = list(self.client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 5}))
        self.assertTrue(all(len(page["Functions"]) <= 5 for page in pages))
        listed = [function["FunctionName"] for page in pages for function in page["Functions"]]
        self.assertEqual([name for name in listed if name.startswith("boto3-page-")], names)
        self.assertEqual(len(listed), len(set(listed)))

    def test_revisions_guard_changes(self):
        old = self.create("boto3-revision")["RevisionId"]
        self.client.update_function_configuration(FunctionName="boto3-revision", Timeout=9, RevisionId=old)
        with self.assertRaises(self.client.exceptions.PreconditionFailedException):
            self.client.update_function_configuration(FunctionName="boto3-revision", Timeout=10, RevisionId=old)
        code = support.zip_bytes({"app.py": "other"})
        with self.assertRaises(self.client.exceptions.PreconditionFailedException):
            self.client.update_function_code(FunctionName="boto3-revision", ZipFile=code, RevisionId=old)
        self.assertEqual(self.client.get_function_configuration(FunctionName="boto3-revision")["Timeout"], 9)

    def test_a_name_is_taken_once(self):
        self.create("boto3-taken")
        with self.assertRaises(self.client.exceptions.ResourceConflictException):
            self.create("boto3-taken")

    def test_refused_parameters(self):
        layer = "arn:aws:lambda:us-east-1:123456789012:layer:l:1"
        for changes, part in (
            ({"MemorySize": 10241}, "memorySize"),
            ({"Timeout": 901}, "timeout"),
            ({"Runtime": "cobol85"}, "cobol85"),
            ({"Runtime": None}, "Runtime and Handler are mandatory"),
            ({"Handler": "a b"}, "handler"),
            ({"Role": "arn:aws:iam::123456789012:user/me"}, "role"),
            ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "AWS_REGION"),
            ({"Environment": {"Variables": {"LONG": "x" * 5000}}}, "4KB"),
            ({"Architectures": ["arm64"]}, "arm64"),
            ({"PackageType": "Image"}, "Image"),
            ({"Publish": True}, "Publish"),
            ({"Layers": [layer]}, "Layers"),
            ({"VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}}, "VpcConfig"),
            ({"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:123456789012:q"}}, "DeadLetterConfig"),
            ({"TracingConfig": {"Mode": "Active"}}, "TracingConfig"),
            ({"Code": {"S3Bucket": "bucket", "S3Key": "key"}}, "Code.S3Bucket"),
            ({"Code": {"ZipFile": b"no zip file"}}, "Could not unzip"),
        ):
            with self.subTest(part), self.assertRaises(self.client.exceptions.InvalidParameterValueException) as caught:
                self.create("boto3-refused", **changes)
            self.assertIn(part, caught.exception.response["Error"]["Message"])
        with self.assertRaises(self.client.exceptions.ResourceNotFoundException):
            self.client.get_function(FunctionName="boto3-refused")


    def test_errors_have_the_models_codes_and_members(self):
        """Status, name and spelling of the text are those of botocore's service model."""
        self.create("boto3-model")
        name = {"FunctionName": "boto3-model"}
        invoke = functools.partial(self.client.invoke, **name)
        change = functools.partial(self.client.update_function_configuration, **name)
        for expected, call in (
            ("InvalidParameterValueException", functools.partial(change, Timeout=901)),
            ("InvalidRequestContentException", functools.partial(invoke, Payload=b"{")),
            ("PreconditionFailedException", functools.partial(change, RevisionId="other")),
            ("RequestTooLargeException", functools.partial(invoke, Payload=b"1" * (6 * 1024 * 1024 + 1))),
            ("ResourceConflictException", functools.partial(self.create, "boto3-model")),
            ("ResourceNotFoundException", functools.partial(self.client.get_function, FunctionName="boto3-none")),
        ):
            with self.subTest(expected), self.assertRaises(getattr(self.client.exceptions, expected)) as caught:
                call()
            response = caught.exception.response
            shape = self.client.meta.service_model.shape_for(expected)
            self.assertEqual(response["ResponseMetadata"]["HTTPStatusCode"], shape.metadata["error"]["httpStatusCode"])
            self.assertEqual(response["Type"], "User")
            text = "message" if "message" in shape.members else "Message"
            self.assertIn(text, response)


class Invocations(unittest.TestCase):
    """One function, invoked in every way."""

    @classmethod
    def setUpClass(cls):
        cls.client = support.lambda_client()
        files = {"app.py": SOURCE}
        cls.function = support.Function(cls.client, "boto3-invoke", support.python_runtime(), files, "app.handler")

    @classmethod
    def tearDownClass(cls):
        cls.function.delete()

    def invoke(self, **arguments):
        return self.client.invoke(FunctionName="boto3-invoke", **arguments)

    def test_result(self):
        result = self.invoke(Payload=b'{"a": 1}')
        self.assertEqual((result["StatusCode"], result["ExecutedVersion"]), (200, "$LATEST"))
        self.assertNotIn("LogResult", result)
        self.assertEqual(json.loads(result["Payload"].read())["event"], {"a": 1})
        headers = result["ResponseMetadata"]["HTTPHeaders"]
        self.assertIn(headers["x-calypte-placement"], ("boot", "reuse"))
        self.assertGreater(float(headers["x-calypte-duration-ms"]), 0)

    def test_a_second_call_reuses_the_environment(self):
        self.invoke(Payload=b"{}")
        second = self.invoke(Payload=b"{}")
        self.assertEqual(second["ResponseMetadata"]["HTTPHeaders"]["x-calypte-placement"], "reuse")

    def test_no_payload_is_an_empty_event(self):
        self.assertEqual(json.loads(self.invoke()["Payload"].read())["event"], {})

    def test_a_profile_of_exits_is_logged_for_those_who_ask(self):
        environment = {"Variables": {"CALYPTE_PROFILE": "1"}}
        files = {"app.py": "def handler(event, context):\n    return 1\n"}
        runtime = support.python_runtime()
        with support.Function(self.client, "profile", runtime, files, "app.handler", Environment=environment) as function:
            function.invoke()
            log = function.invoke()["log"]
        profile = next(line for line in log.splitlines() if line.startswith("PROFILE Exits: ")).split("\t")
        # The two of the Runtime API, and what chance adds.
        self.assertIn("sendto: 1", profile)
        self.assertIn("recvfrom: 1", profile)
        self.assertLessEqual(int(profile[0].removeprefix("PROFILE Exits: ")), 8)

    def test_log_tail(self):
        result = self.invoke(Payload=b"{}", LogType="Tail")
        log = base64.b64decode(result["LogResult"]).decode()
        request_id = result["ResponseMetadata"]["RequestId"]
        for line in (f"START RequestId: {request_id} Version: $LATEST", f"END RequestId: {request_id}"):
            self.assertIn(line, log)
        self.assertRegex(log, rf"REPORT RequestId: {request_id}\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\t")

    def test_client_context(self):
        context = base64.b64encode(json.dumps({"custom": {"key": "value"}}).encode()).decode()
        result = self.invoke(Payload=b"{}", ClientContext=context)
        self.assertEqual(json.loads(result["Payload"].read())["custom"], {"key": "value"})
        with self.assertRaises(self.client.exceptions.InvalidRequestContentException):
            self.invoke(Payload=b"{}", ClientContext="***")

    def test_failure_of_the_function(self):
        result = self.invoke(Payload=b'"fail"')
        self.assertEqual((result["StatusCode"], result["FunctionError"]), (200, "Unhandled"))
        error = json.loads(result["Payload"].read())
        self.assertEqual((error["errorType"], error["errorMessage"]), ("ValueError", "asked to fail"))

    def test_dry_run(self):
        self.assertEqual(self.invoke(InvocationType="DryRun")["StatusCode"], 204)

    def test_asynchronous_invocation_is_refused_by_name(self):
        with self.assertRaises(self.client.exceptions.InvalidParameterValueException) as caught:
            self.invoke(InvocationType="Event", Payload=b"{}")
        self.assertIn("InvocationType=Event", str(caught.exception))

    def test_payload_that_is_no_json(self):
        with self.assertRaises(self.client.exceptions.InvalidRequestContentException):
            self.invoke(Payload=b"{not json")

    def test_large_payload(self):
        text = "x" * (6 * 1024 * 1024 - 4096)
        handler = "def handler(event, context):\n    return len(event)\n"
        with support.Function(
            self.client, "boto3-large", support.python_runtime(), {"app.py": handler}, "app.handler", Timeout=30
        ) as function:
            self.assertEqual(function.invoke(text)["payload"], len(text))
        with self.assertRaises(self.client.exceptions.RequestTooLargeException):
            self.invoke(Payload=json.dumps("x" * (6 * 1024 * 1024)).encode())


class Capacity(unittest.TestCase):
    """What happens when there is no more."""

    def test_too_many_requests(self):
        client = support.lambda_client()
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            memory_mib = int(meminfo.readline().split()[1]) // 1024
        # Each environment may use 10 GiB, so fewer than this many fit at the same time.
        calls = memory_mib // 10240 + 1
        source = "import time\ndef handler(event, context):\n    time.sleep(14)\n"
        with support.Function(
            client, "boto3-capacity", support.python_runtime(), {"app.py": source}, "app.handler", MemorySize=10240, Timeout=30
        ) as function:
            running = [support.in_background(lambda: function.invoke()) for _ in range(calls)]
            errors = [error for error in (call.exception(timeout=90) for call in running) if error]
        self.assertTrue(errors, f"{calls} environments of 10 GiB ran at the same time in {memory_mib} MiB")
        for error in errors:
            self.assertIsInstance(error, client.exceptions.TooManyRequestsException)
            self.assertEqual(error.response["Reason"], "ConcurrentInvocationLimitExceeded")


class Access(unittest.TestCase):
    """Who is let in."""

    def expect_refusal(self, code, **overrides):
        with self.assertRaises(botocore.exceptions.ClientError) as caught:
            support.lambda_client(**overrides).list_functions()
        self.assertEqual(caught.exception.response["Error"]["Code"], code)
        self.assertEqual(caught.exception.response["ResponseMetadata"]["HTTPStatusCode"], 403)

    def test_wrong_secret(self):
        self.expect_refusal("InvalidSignatureException", aws_secret_access_key="wrong" * 8)

    def test_unknown_key(self):
        self.expect_refusal("UnrecognizedClientException", aws_access_key_id="AKIAAAAAAAAAAAAAAAAA")

    def test_session_tokens_are_not_for_these_keys(self):
        self.expect_refusal("UnrecognizedClientException", aws_session_token="token")

    def test_presigned_request(self):
        client = support.lambda_client()
        url = client.generate_presigned_url("list_functions", ExpiresIn=60)
        with urllib.request.urlopen(url, timeout=10) as response:
            self.assertIn("Functions", json.load(response))
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url.replace("/functions", "/functions/other"), timeout=10)
        with caught.exception as response:
            self.assertEqual(response.code, 403)


if __name__ == "__main__":
    unittest.main()
