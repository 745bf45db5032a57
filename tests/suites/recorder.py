# A plugin for pytest, loaded by run.py: runs the tests that the file SUITES_ONLY lists, if it is
# set, and writes what becomes of each to SUITES_RESULTS. A test passes if none of its parts fails.
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


def pytest_runtest_logreport(report):
    good = report.passed and not hasattr(report, "wasxfail")
    if report.when != "call" and good:
        return
    with open(os.environ["SUITES_RESULTS"], "a") as results:
        results.write(f"{'pass' if good else 'fail'}\t{report.nodeid}\n")


# A test that failed may have left a thread, for which Python would wait.
@pytest.hookimpl(trylast=True)
def pytest_unconfigure():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
