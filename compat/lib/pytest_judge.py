"""A pytest plugin: one line for each test, as the judge reads them. `-p pytest_judge`, with this folder on PYTHONPATH.

COMPAT_PREFIX goes before the names, for clients that run several suites; a suite that is not the last one runs with
COMPAT_MORE set, and `done` is left to the last. COMPAT_SHARD=I/N runs every Nth test, from the Ith.
"""

import os

PREFIX = os.environ.get("COMPAT_PREFIX", "")
_passed = set()
_failed = {}


def name_of(nodeid):
    """`t/integration/test_x.py::test_Class::test_one[a b]` is `x/test_Class/test_one[a_b]`."""
    path, _, rest = nodeid.partition("::")
    module = os.path.basename(path).removesuffix(".py").removeprefix("test_")
    return f"{PREFIX}{module}/{rest.replace('::', '/')}".replace(": ", ":").replace(" ", "_")


def say(line):
    print(line, flush=True)


def pytest_collection_modifyitems(items):
    shard, _, of = os.environ.get("COMPAT_SHARD", "1/1").partition("/")
    items[:] = items[int(shard) - 1 :: int(of)]


def pytest_runtest_logreport(report):
    name = name_of(report.nodeid)
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        _failed.setdefault(name, " ".join(str(crash.message if crash else report.longrepr).split())[:300])
    if report.skipped:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
        say(f"skip {name}: {' '.join(str(why).split())[:200]}")
    elif report.when == "teardown" and name in _failed:
        say(f"not ok {name}: {report.when if report.failed else 'call'}: {_failed[name]}")
    elif report.when == "call" and report.passed:
        _passed.add(name)
    if report.when == "teardown" and name in _passed and name not in _failed:
        say(f"ok {name}")


def pytest_collectreport(report):
    if report.failed:
        say(f"not ok {name_of(report.nodeid)}: not collected: {' '.join(str(report.longrepr).split())[-300:]}")


def pytest_sessionfinish(exitstatus):
    # 0: all passed, 1: some failed. Anything else ended early.
    if int(exitstatus) in (0, 1) and not os.environ.get("COMPAT_MORE"):
        say("done")
