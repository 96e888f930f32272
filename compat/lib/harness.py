"""A small test harness for the Python clients: one line for each test, each with a deadline, `done` at the end."""

import asyncio
import os
import signal
import sys
import time
import traceback

BOOTSTRAP = os.environ["BOOTSTRAP"]
RUN = os.environ["RUN"]
_tests = []
_names = 0


def test(function):
    """Marks a test; `a_b` is listed as `a-b`."""
    _tests.append(function)
    return function


class Skip(Exception):
    """Raised by a test that does not apply."""


def name(stem):
    """A topic or group of this run that nobody else uses."""
    global _names
    _names += 1
    return f"{RUN}-{stem}-{_names}"


def eventually(what, condition, seconds=20):
    """Waits until `condition()` is true; the value it gave."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def main(seconds=60):
    """Runs all tests, or those named on the command line."""
    only = set(sys.argv[1:])
    for function in _tests:
        title = function.__name__.replace("_", "-")
        if only and title not in only:
            continue
        began = time.monotonic()
        try:
            run(function, seconds)
            print(f"ok {title}", flush=True)
        except Skip as why:
            print(f"skip {title}: {why}", flush=True)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            where = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(where) if f.filename.endswith("tests.py")), 0)
            what = " ".join(f"{type(error).__name__} {error}".split())[:400]
            print(f"not ok {title}: line {line} after {time.monotonic() - began:.1f} s: {what}", flush=True)
    print("done", flush=True)
    # Clients of a failed test may still run threads; they must not keep the process.
    os._exit(0)


def run(function, seconds):
    if asyncio.iscoroutinefunction(function):
        asyncio.run(asyncio.wait_for(function(), seconds))
        return

    def late(*_):
        raise TimeoutError(f"not done within {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        function()
    finally:
        signal.alarm(0)
