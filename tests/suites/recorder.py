# A pytest plugin, loaded by run.py: runs only the tests listed in the file SUITES_ONLY, if set,
# and writes the result of each to SUITES_RESULTS. A test passes if none of its parts fails.
import gc
import os
import sys

import pytest


def pytest_collection_modifyitems(config, items):
    only = os.environ.get("SUITES_ONLY")
    if only:
        with open(only) as lines:
            wanted = set(lines.read().split("\n"))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in wanted])
        items[:] = [item for item in items if item.nodeid in wanted]


failed = False


def pytest_runtest_logreport(report):
    global failed
    failed |= report.failed
    good = report.passed and not hasattr(report, "wasxfail")
    if report.when != "call" and good:
        return
    with open(os.environ["SUITES_RESULTS"], "a") as results:
        results.write(f"{'pass' if good else 'fail'}\t{report.nodeid}\n")


# Collects the objects that a failed test has left, so that Python's warnings about them do not
# fail a later test.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol():
    global failed
    yield
    if not failed:
        return
    failed = False
    for name in "last_type", "last_value", "last_traceback", "last_exc":
        if hasattr(sys, name):
            delattr(sys, name)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    gc.collect()
    sys.unraisablehook = hook


# Exits without waiting for threads that a failed test may have left.
@pytest.hookimpl(trylast=True)
def pytest_unconfigure():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
