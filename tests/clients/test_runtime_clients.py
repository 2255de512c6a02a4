"""Existing Runtime API clients, unmodified: AWS's `lambda_runtime` crate and `awslambdaric`."""

import os
import unittest
from pathlib import Path

import support


class RuntimeClients(unittest.TestCase):
    def test_rust_function_on_the_lambda_runtime_crate(self):
        program = Path(os.environ["CALYPTE_RUST_EXAMPLE"], "bootstrap").read_bytes()
        archive = support.zip_executable("bootstrap", program)
        client = support.lambda_client()
        with support.Function(client, "rust-client", "provided.al2023", archive, "bootstrap") as function:
            for name in ("Ada", "Grace"):
                result = function.invoke({"name": name})
                self.assertNotIn("FunctionError", result, result)
                self.assertIn(name, str(result["payload"]))
            self.assertIn("REPORT RequestId:", result["log"])

    def test_awslambdaric_as_a_functions_own_bootstrap(self):
        """The function brings AWS's client and starts it with the runtime's interpreter."""
        runtime = support.python_runtime()
        files = {"app.py": "def handler(event, context):\n    return [event, context.function_name, context.aws_request_id]\n"}
        packages = Path(os.environ["CALYPTE_AWSLAMBDARIC"])
        for pattern in ("awslambdaric/**/*", "runtime_client*", "simplejson/**/*", "snapshot_restore_py/**/*"):
            for path in packages.glob(pattern):
                if path.is_file() and "__pycache__" not in path.parts:
                    files[str(path.relative_to(packages))] = path.read_bytes()
        self.assertIn("awslambdaric/__main__.py", files)
        # The managed bootstrap imports this module first; it hands the process over to AWS's client for good.
        files["takeover.py"] = (
            "import os, runpy, sys\n"
            "os.environ['_HANDLER'] = 'app.handler'\n"
            "sys.argv = ['awslambdaric', 'app.handler']\n"
            "runpy.run_module('awslambdaric', run_name='__main__')\n"
        )
        client = support.lambda_client()
        with support.Function(client, "awslambdaric", runtime, files, "takeover.handler", Timeout=30, MemorySize=256) as function:
            result = function.invoke({"n": 1})
            self.assertNotIn("FunctionError", result, result)
            event, name, request_id = result["payload"]
            self.assertEqual((event, name), ({"n": 1}, "awslambdaric"))
            self.assertEqual(request_id, result["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"])


if __name__ == "__main__":
    unittest.main()
