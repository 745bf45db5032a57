#!/usr/bin/env python3
"""Runs third-party test suites through the proxy: run.py PROGRAM WORK [SUITE]...

Each suite is fetched by its package's name into the directory WORK, where it is kept for the next
run, and runs twice: directly, and with each connection to a loopback server redirected through
PROGRAM, one process for each server. Only tests count that connect to a server without TLS and
pass directly. Those that fail through the proxy three times out of three are compared with
differences.txt in this directory. A difference that is not explained there, or that is explained
but no longer occurs, is printed and makes the exit status 1. The output of a suite is in
WORK/SUITE.log.

interposer.c, a preloaded library, redirects the connections; for Go, whose programs do not use the
C library for system calls, an overlay of its package net does. Needs Debian 12 with python3-venv,
a C compiler, and package lists (apt-get update).
"""

import collections
import concurrent.futures
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = "hop-by-hop", "strict on purpose", "fault"
# The kind of a test that is not counted.
LEFT_OUT = "left out"
PYTEST = ["pytest==9.1.1", "pytest-timeout==2.4.0"]
# Time limits in seconds, for one test and for one run of one suite.
TEST_TIME, SUITE_TIME = 20, 1800
# The number of proxies that keep running; a suite's servers rarely live longer than one test.
PROXIES = 16


class Broker:
    """Answers the interposer: counts the connections of each test, and picks the proxy to use."""

    def __init__(self, program, directory):
        self.program, self.path = program, os.path.join(directory, "broker")
        self.log = open(os.path.join(directory, "proxies"), "wb")
        self.proxies = collections.OrderedDict()
        self.start(False)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(128)
        threading.Thread(target=self.serve, daemon=True).start()

    def start(self, through):
        """Begins a run, directly or through proxies."""
        self.through, self.connected, self.tls = through, collections.Counter(), collections.Counter()

    def plain(self, test):
        """Whether the test has made a connection without TLS."""
        return self.connected[test] > self.tls[test]

    def serve(self):
        while True:
            client, _ = self.listener.accept()
            with client:
                client.settimeout(5)
                try:
                    what, host, port, test = client.makefile().readline().rstrip("\n").split("\t")
                    port = int(port)
                    # pytest appends the running part of the test: "(call)".
                    test = re.sub(r" \((setup|call|teardown)\)$", "", test)
                    (self.tls if what == "tls" else self.connected)[test] += 1
                    redirect = what == "connect" and self.through and listens(port)
                    client.sendall(b"%d\n" % (self.proxy(host, port) if redirect else 0))
                except ConnectionError:
                    # The test has ended in the meantime.
                    pass
                except (OSError, ValueError) as error:
                    print(f"a connection could not be redirected: {error}", file=sys.stderr)

    def proxy(self, host, port):
        """The port of the proxy for a server; starts one if there is none."""
        if (host, port) in self.proxies:
            return self.proxies[host, port][1]
        while len(self.proxies) >= PROXIES:
            end(self.proxies.popitem(last=False)[1][0])
        address = f"[{host}]" if ":" in host else host
        process = subprocess.Popen(
            [self.program, "-b", host, "-p", "0", "-u", f"{address}:{port}", "-d", "--log-lang", "en"],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        first = process.stderr.readline()
        bound = re.search(rb"listening on .*:(\d+)", first)
        threading.Thread(target=shutil.copyfileobj, args=(process.stderr, self.log), daemon=True).start()
        if not bound:
            end(process)
            raise ValueError(f"the proxy did not start: {first!r}")
        self.proxies[host, port] = process, int(bound[1])
        return int(bound[1])

    def stop(self):
        for process, _ in self.proxies.values():
            end(process)


def end(process):
    process.kill()
    process.wait()


def listens(port):
    """Whether any server listens on the port; if not, the connection must be refused as before."""
    for table in "/proc/net/tcp", "/proc/net/tcp6":
        with open(table) as lines:
            next(lines)
            for line in lines:
                columns = line.split()
                # Listeners come first in the table; thousands of other sockets may follow.
                if columns[3] != "0A":
                    break
                if int(columns[1].rsplit(":", 1)[1], 16) == port:
                    return True
    return False


def run(command, log, **options):
    """Runs a command for at most SUITE_TIME, and then kills all processes that it has started."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                               start_new_session=True, **options)
    try:
        process.wait(SUITE_TIME)
    except subprocess.TimeoutExpired:
        print(f"{command[0]}: not done after {SUITE_TIME} s", file=sys.stderr)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    return process.returncode


def fetch(command, **options):
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **options)


def once(directory, prepare):
    """Prepares a directory unless it exists. It gets its name only if that succeeds."""
    if not os.path.exists(directory):
        part = directory + ".part"
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)
        prepare(part)
        os.rename(part, directory)


def debian(package, directory):
    """Unpacks a Debian package without installing it."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        fetch(["apt-get", "download", "-q", package], cwd=place)
        fetch(["dpkg-deb", "-x", os.path.join(place, os.listdir(place)[0]), directory])


class Pytest:
    """A suite that pytest runs."""

    def __init__(self, name, packages, arguments, source=None, debian=None):
        self.name, self.packages, self.arguments = name, packages, arguments
        self.source, self.debian = source, debian

    def prepare(self, work):
        """Fetches the suite and its dependencies, unless they are there."""
        self.work = work
        self.python = os.path.join(work, f"{self.name}-python")
        # A venv contains the path of its directory, so it cannot be renamed as in once().
        done = os.path.join(self.python, "done")
        if not os.path.exists(done):
            fetch(["/usr/bin/python3", "-m", "venv", "--clear", self.python])
            fetch([os.path.join(self.python, "bin/pip"), "install", "-q", *PYTEST, *self.packages])
            open(done, "w").close()
        self.tests = os.path.join(work, self.name)
        once(self.tests, self.fetch)
        self.preload = os.path.join(work, "interposer.so")
        fetch(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", self.preload,
               os.path.join(HERE, "interposer.c"), "-ldl"])

    def fetch(self, directory):
        pip = os.path.join(self.python, "bin/pip")
        if self.source:
            # --no-binary for this package only, not for its build dependencies.
            fetch([pip, "download", "-q", "--no-deps", "--no-binary", self.source.split("==")[0],
                   "-d", directory, self.source])
            archive = os.path.join(directory, os.listdir(directory)[0])
            fetch(["tar", "-xzf", archive, "--strip-components=1", "-C", directory])
            # Removes the package's source, so that the installed package, with its compiled parts,
            # is tested.
            shutil.rmtree(os.path.join(directory, self.source.split("==")[0]), ignore_errors=True)
        else:
            # The tests and their support files are in different Debian packages.
            version = f"python3.{sys.version_info[1]}" if sys.executable == "/usr/bin/python3" else \
                os.path.basename(os.path.realpath("/usr/bin/python3"))
            debian(self.debian % version, directory)
            for place in f"/usr/lib/{version}/test", f"{directory}/usr/lib/{version}/test":
                shutil.copytree(place, os.path.join(directory, "test"), dirs_exist_ok=True)

    def run(self, broker, only):
        """Runs the tests given, or all, and returns those that pass."""
        results = os.path.join(self.work, "results")
        open(results, "w").close()
        environment = dict(os.environ, PYTHONPATH=f"{HERE}{os.pathsep}{self.tests}",
                           PYTHONDONTWRITEBYTECODE="1", LD_PRELOAD=self.preload,
                           SUITES_BROKER=broker.path, SUITES_RESULTS=results)
        environment.pop("SUITES_ONLY", None)
        if only is not None:
            environment["SUITES_ONLY"] = os.path.join(self.work, "only")
            with open(environment["SUITES_ONLY"], "w") as names:
                names.write("\n".join(sorted(only)))
        with open(os.path.join(self.work, f"{self.name}.log"), "a") as log:
            run([os.path.join(self.python, "bin/pytest"), "-p", "recorder", "-p", "no:cacheprovider",
                 "-o", "addopts=", f"--timeout={TEST_TIME}", "--timeout-method=signal", "--tb=short",
                 "-rfE", f"--rootdir={self.tests}", *self.arguments],
                log, cwd=self.tests, env=environment)
        seen = collections.defaultdict(set)
        with open(results) as lines:
            for line in lines:
                result, test = line.rstrip("\n").split("\t", 1)
                seen[test].add(result)
        return {test for test, all_results in seen.items() if all_results == {"pass"}}


class Go:
    """The tests of a package in Go's standard library, each run in a separate process."""

    def __init__(self, name, package, version):
        self.name, self.package, self.version = name, package, version

    def prepare(self, work):
        """Fetches Go, once, and builds the tests with the overlay."""
        self.work = work
        base = os.path.join(work, f"go-{self.version}")
        once(base, self.fetch)
        root = os.path.join(base, f"usr/lib/go-{self.version}")
        self.tests = os.path.join(root, "src", self.package)
        self.program = os.path.join(work, f"{self.name}.test")
        with open(os.path.join(root, "src/crypto/tls/tls.go")) as source:
            text = source.read()
        # The line that creates a listener that expects TLS.
        place = "\tl := new(listener)\n"
        assert text.count(place) == 1
        patched = os.path.join(work, "tls.go")
        with open(patched, "w") as source:
            source.write(text.replace(place, place + "\tnet.SuitesTLS(inner.Addr())\n"))
        overlay = os.path.join(work, "overlay.json")
        with open(overlay, "w") as names:
            json.dump({"Replace": {
                os.path.join(root, "src/crypto/tls/tls.go"): patched,
                os.path.join(root, "src/net/suites.go"): os.path.join(HERE, "interposer.go"),
            }}, names)
        environment = dict(os.environ, GOROOT=root, GOCACHE=os.path.join(work, "go-cache"),
                           GOPATH=os.path.join(work, "go-path"), GOPROXY="off", GOFLAGS="",
                           CGO_ENABLED="0")
        fetch([os.path.join(root, "bin/go"), "test", "-c", "-vet=off", "-overlay", overlay, "-o", self.program,
               self.package], env=environment, cwd=root)
        self.root = root

    def fetch(self, directory):
        for part in "go", "src":
            debian(f"golang-{self.version}-{part}", directory)

    def run(self, broker, only):
        """Runs the tests given, or all, and returns those that pass."""
        if only is None:
            listed = subprocess.check_output([self.program, "-test.list", "^Test"], cwd=self.tests, text=True)
            only = listed.split()
        # Most tests wait more than they compute.
        with concurrent.futures.ThreadPoolExecutor(2) as two:
            good = two.map(lambda test: self.passes(broker, test), sorted(only))
            return {test for test, passed in zip(sorted(only), good) if passed}

    def passes(self, broker, test):
        environment = dict(os.environ, SUITES_BROKER=broker.path, SUITES_TEST=test, GOROOT=self.root)
        with open(os.path.join(self.work, f"{self.name}.log"), "a") as log:
            return run([self.program, "-test.run", f"^{test}$", "-test.short",
                        f"-test.timeout={TEST_TIME}s"], log, cwd=self.tests, env=environment) == 0


SUITES = [
    Pytest("cpython", [], ["test/test_httplib.py", "test/test_httpservers.py"],
           debian="lib%s-testsuite"),
    Pytest("uvicorn", ["uvicorn[standard]==0.54.0", "a2wsgi", "cryptography", "httpx2", "pytest-mock",
                       "pytest-xdist", "trustme", "wsproto", "zttp"],
           ["tests", "--ignore=tests/benchmarks"], source="uvicorn==0.54.0"),
    Pytest("aiohttp", ["aiohttp==3.14.5", "aiodns", "backports.zstd", "blockbuster", "brotli",
                       "freezegun", "gunicorn", "isal", "proxy.py", "pytest-cov", "pytest-mock",
                       "pytest-xdist", "pytest_codspeed", "python-on-whales", "trustme", "uvloop",
                       "wheel", "zlib_ng"],
           # The files in which at least one test connects to a server.
           [*(f"tests/test_{name}.py" for name in (
               "client_functional", "client_middleware", "client_middleware_digest_auth",
               "client_session", "client_ws_functional", "connector", "formdata",
               "proxy_functional", "run_app", "test_utils", "web_app", "web_exceptions",
               "web_functional", "web_log", "web_middleware", "web_runner",
               "web_sendfile_functional", "web_server", "web_urldispatcher",
               "web_websocket_functional")),
            "-m", "not dev_mode and not autobahn and not internal"],
           source="aiohttp==3.14.5"),
    Go("go-http", "net/http", "1.19"),
    Go("go-httputil", "net/http/httputil", "1.19"),
]


def explanations():
    """Parses differences.txt: for each suite, the kind and text of each test's explanation."""
    explained, suite, words = collections.defaultdict(dict), None, None
    with open(os.path.join(HERE, "differences.txt")) as lines:
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\n")
            if not line or line.startswith("#"):
                continue
            if line.startswith("["):
                suite, words = line.strip("[]"), None
            elif line.startswith("    "):
                test, sometimes = re.subn(r" \(sometimes\)$", "", line[4:])
                if not words or test in explained[suite]:
                    sys.exit(f"differences.txt:{number}: a test has one explanation, above it")
                explained[suite][test] = *words, bool(sometimes)
            else:
                kind, _, text = line.partition(": ")
                if kind not in (*KINDS, LEFT_OUT) or not text:
                    sys.exit(f"differences.txt:{number}: an explanation is 'KIND: WORDS', of "
                             f"{(*KINDS, LEFT_OUT)}")
                words = kind, text
    return explained


def compare(suite, broker, explained):
    """Runs one suite; returns whether all differences are explained."""
    left_out = {test for test in explained if explained[test][0] == LEFT_OUT}
    explained = {test: explained[test] for test in explained.keys() - left_out}
    broker.start(False)
    passed = suite.run(broker, None)
    counted = {test for test in passed if broker.plain(test)} - left_out
    broker.start(True)
    failing = counted - suite.run(broker, counted)
    passing = counted - failing
    # A single failure may be a matter of timing.
    for _ in range(2):
        if failing:
            failing -= suite.run(broker, failing)
    gone = {test for test in explained if test in passing and not explained[test][2]}
    for _ in range(2):
        if gone:
            gone &= suite.run(broker, gone)
    unexplained = failing - explained.keys()
    kinds = collections.Counter(explained[test][0] for test in failing & explained.keys())
    print(f"{suite.name}: {len(counted)} tests pass directly, {len(counted) - len(failing)} through the proxy"
          + "".join(f"; {kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
          + (f"; {len(left_out)} {LEFT_OUT}" if left_out else ""))
    for test in sorted(unexplained):
        print(f"{suite.name}: not explained: {test}")
    for test in sorted(gone):
        print(f"{suite.name}: explained, but no longer differs: {test}")
    for test in sorted(explained.keys() - counted):
        print(f"{suite.name}: explained, but does not pass directly here: {test}")
    return not unexplained and not gone


def main(program, work, *names):
    suites = [suite for suite in SUITES if not names or suite.name in names]
    if len(suites) < len(names):
        sys.exit("the suites are " + ", ".join(suite.name for suite in SUITES))
    # Makes SIGTERM run the finally clauses, which kill the child processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    explained = explanations()
    work = os.path.abspath(work)
    os.makedirs(work, exist_ok=True)
    good = True
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(os.path.abspath(program), directory)
        try:
            for suite in suites:
                suite.prepare(work)
                open(os.path.join(work, f"{suite.name}.log"), "w").close()
                good = compare(suite, broker, explained[suite.name]) and good
        finally:
            broker.stop()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__.strip().split("\n")[0])
    main(*sys.argv[1:])
