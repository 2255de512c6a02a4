"""numpy from PyPI, unmodified, as a dependency in a function's zip: OpenBLAS with its threads, and its random numbers."""

import io
import os
import sys
import time
import unittest
import zipfile
from pathlib import Path

import support

# Every value is a whole number, exact in floating point, or comes with the residual that shows how good it is.
SOURCE = """
import os, threading
import numpy as np

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))

def handler(event, context):
    n = event["n"]
    whole = np.arange(n * n, dtype=np.float64).reshape(n, n) % 7
    random = np.random.default_rng(event["seed"])
    a, b = random.standard_normal((n, n)), random.standard_normal(n)
    x = np.linalg.solve(a, b)
    u, s, vt = np.linalg.svd(a)
    symmetric = a + a.T
    values = np.linalg.eigvalsh(symmetric)
    signal = random.standard_normal(1 << 14)
    return {
        "file": np.__file__,
        "version": np.__version__,
        "trace": int(np.trace(whole @ whole)),
        "expected_trace": int((whole * whole.T).sum()),
        "integers": (np.array([[1, 2], [3, 4]]) @ np.array([[5, 6], [7, 8]])).tolist(),
        "solve_residual": float(np.abs(a @ x - b).max()),
        "svd_residual": float(np.abs(u @ np.diag(s) @ vt - a).max()),
        "eigenvalues_residual": float(abs(values.sum() - np.trace(symmetric))),
        "fft_residual": float(np.abs(np.fft.irfft(np.fft.rfft(signal), len(signal)) - signal).max()),
        "seeded": np.random.default_rng(event["seed"]).integers(0, 1 << 62, 4).tolist(),
        "legacy": np.random.RandomState(event["seed"]).randint(0, 1 << 30, 4).tolist(),
        "unseeded": np.random.default_rng().integers(0, 1 << 62, 4).tolist(),
        "text": np.array2string(np.linspace(0, 1, 5)),
        "saved": roundtrip(np),
        "threads": status("Threads"),
        "processors": len(os.sched_getaffinity(0)),
    }

def roundtrip(np):
    array = np.arange(1 << 16, dtype=np.int32)
    np.save("/tmp/array.npy", array)
    mapped = np.load("/tmp/array.npy", mmap_mode="r")
    return bool((mapped == array).all())
"""

EVENT = {"n": 200, "seed": 20240607}


def host_answer():
    """What the same handler gives on this host: every value but those that chance decides must be the same."""
    sys.path.insert(0, os.environ["CALYPTE_NUMPY"])
    try:
        scope = {}
        exec(compile(SOURCE, "app.py", "exec"), scope)
        return scope["handler"](EVENT, None)
    finally:
        sys.path.pop(0)


def package():
    """The handler and numpy's installed folder, as `pip install --target` and `zip` make them."""
    buffer = io.BytesIO()
    folder = Path(os.environ["CALYPTE_NUMPY"])
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("app.py", SOURCE)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


class Numpy(unittest.TestCase):
    def test_numpy_as_a_functions_dependency(self):
        client = support.lambda_client()
        runtime = f"python3.{sys.version_info.minor}"
        expected = host_answer()
        # More memory than one processor is given for: OpenBLAS starts a thread for each.
        settings = {"MemorySize": 2 * 1769, "Timeout": 60}
        with support.Function(client, "numpy", runtime, package(), "app.handler", **settings) as function:
            answers = []
            for kind in ("cold", "warm"):
                began = time.monotonic()
                result = function.invoke(EVENT)
                print(f"numpy, {kind}: {1000 * (time.monotonic() - began):.0f} ms;", result["log"].splitlines()[-1])
                self.assertNotIn("FunctionError", result, result)
                answers.append(result["payload"])
        for answer in answers:
            self.assertEqual(answer["file"], "/var/task/numpy/__init__.py")
            self.assertEqual(answer["trace"], answer["expected_trace"])
            self.assertEqual(answer["integers"], [[19, 22], [43, 50]])
            for name in ("solve_residual", "svd_residual", "eigenvalues_residual", "fft_residual"):
                self.assertLess(answer[name], 1e-9, name)
            for name in ("version", "trace", "seeded", "legacy", "text", "saved"):
                self.assertEqual(answer[name], expected[name], name)
            self.assertTrue(answer["saved"])
            self.assertGreaterEqual(answer["threads"], answer["processors"])
            if min(2, os.cpu_count()) == 2:
                self.assertEqual(answer["processors"], 2)
        self.assertNotEqual(answers[0]["unseeded"], answers[1]["unseeded"])
        self.assertNotEqual(answers[0]["unseeded"], expected["unseeded"])


if __name__ == "__main__":
    unittest.main()
