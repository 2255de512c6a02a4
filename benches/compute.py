"""Prints how long some work takes, a line each: name, seconds. The argument scales it."""
import hashlib
import json
import re
import sys
import time

scale = int(sys.argv[1])


def loop():
    total = 0
    for i in range(150_000 * scale):
        total += i * i % 7


def digest():
    h = hashlib.sha256()
    block = bytes(1_000_000)
    for _ in range(10 * scale):
        h.update(block)


def allocation():
    keep = [{} for _ in range(15_000 * scale)]
    table = {str(i): i for i in range(15_000 * scale)}
    del keep, table


def documents():
    record = {"name": "x" * 50, "values": list(range(200)), "nested": {"a": [1.5, None, True]}}
    for _ in range(150 * scale):
        json.loads(json.dumps(record))


def matching():
    text = "the quick brown fox jumps over the lazy dog 12345 " * 200
    for _ in range(3 * scale):
        re.findall(r"\b[a-z]+o[a-z]*\b|\d+", text)


def sorting():
    values = [(i * 7919) % 100_003 for i in range(15_000 * scale)]
    values.sort(key=lambda value: -value)


for work in (loop, digest, allocation, documents, matching, sorting):
    started = time.perf_counter()
    work()
    print(work.__name__, time.perf_counter() - started)
