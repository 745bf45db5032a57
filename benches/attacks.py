#!/usr/bin/env python3
"""Attacks on the program and on other proxies; prints a table in Markdown.

benches/attacks.py PROGRAM [--old PROGRAM] [--only WORDS]: PROGRAM is "now", that of --old is
"before". nginx, HAProxy and Caddy are attacked if they are installed, each with one thread, kept
upstream connections and heads of 64 KiB allowed. Everything is on loopback. A dash marks an
attack for which a proxy has no setting. CPU is that of the attacked process, from the scheduler's
statistics; where it is compared, the least of several runs counts. Network paths that lose
packets are made in network namespaces with iptables, as root; without root, their rows say that
they were not measured.
"""

import argparse
import collections
import contextlib
import ctypes
import os
import random
import re
import resource
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The longest wait, in seconds.
PATIENCE = 20
LIMIT = 64
GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
UPGRADE = (b"GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
SWITCHING = (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DASH = "—"

# Further fields of a head with a costly field.
SHORT_FIELDS = b"".join(b"f%d: b\r\n" % n for n in range(120))

folder = Path(tempfile.mkdtemp(prefix="simple-proxy-attacks-"))


# ---- Both ends of connections.

class Ended(Exception):
    """A connection ended although more was expected."""


class Wire:
    """One end of a connection, with the bytes that were read and not yet used."""

    def __init__(self, sock):
        self.sock = sock
        self.ahead = b""
        sock.settimeout(PATIENCE)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        self.sock.sendall(data)

    def more(self):
        data = self.sock.recv(65536)
        if not data:
            raise Ended("the connection ended")
        self.ahead += data

    def until(self, end):
        while end not in self.ahead:
            self.more()
        found, self.ahead = self.ahead.split(end, 1)
        return found + end

    def exactly(self, count):
        while len(self.ahead) < count:
            self.more()
        found, self.ahead = self.ahead[:count], self.ahead[count:]
        return found

    def response(self):
        """The status, the head and the body."""
        head = self.until(b"\r\n\r\n")
        length = field(head, b"content-length")
        if length is not None:
            body = self.exactly(int(length))
        elif field(head, b"transfer-encoding"):
            body = b""
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size + 2)[:-2]
            self.until(b"\r\n")
        else:
            body = b""
        return int(head[9:12]), head, body

    def rest(self):
        with contextlib.suppress(Ended):
            while True:
                self.more()
        return self.ahead

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()


def field(head, name):
    found = re.search(rb"(?im)^" + name + rb":[ \t]*(.*?)[ \t]*\r$", head)
    return found and found[1]


def serve(script, tls=None):
    """Runs the script for each connection, in a thread. Returns the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def one(sock):
        with contextlib.suppress(OSError, Ended, ValueError):
            script(Wire(tls.wrap_socket(sock, server_side=True) if tls else sock))
        with contextlib.suppress(OSError):
            sock.close()

    def accept():
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def answering(wire):
    """An upstream that answers every request with two bytes."""
    while True:
        wire.until(b"\r\n\r\n")
        wire.send(OK)


def acceptor():
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    if not key.exists():
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj",
                        "/CN=a.example", "-keyout", key, "-out", certificate], check=True,
                       stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# ---- The attacked programs.

class Running:
    """A process that listens on a port."""

    def __init__(self, command, port=None, extra=None):
        self.log = tempfile.TemporaryFile(dir=folder)
        limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GOMAXPROCS": "1"}
        # In a new session and so without a terminal, like a service.
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, preexec_fn=limit, env=environment,
                                        start_new_session=True)
        self.pid = self.process.pid
        self.port = port
        self.metrics = None
        deadline = time.monotonic() + PATIENCE
        while not self.listens():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{command[0]} does not start: {self.said()}")
            time.sleep(0.02)

    def said(self):
        return os.pread(self.log.fileno(), 1 << 16, 0).decode(errors="replace")

    def listens(self):
        ports = re.findall(r"127\.0\.0\.1:(\d+)", self.said())
        if self.port is None and ports:
            self.port = int(ports[0])
        metrics = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", self.said())
        self.metrics = metrics and int(metrics[1])
        with contextlib.suppress(OSError, TypeError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def connect(self, port=None):
        return Wire(socket.create_connection(("127.0.0.1", port or self.port), timeout=PATIENCE))

    def cpu(self):
        """The CPU time so far, in seconds."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


class SimpleProxy:
    is_ours = True

    def __init__(self, path):
        self.path = path

    def start(self, upstream, tls=False, limit=None, port=None, extra=(), reloads=False):
        command = [self.path, "-b", "127.0.0.1", "-p", str(port or 0), "--threads", "1", "-u",
                   upstream if isinstance(upstream, str) else f"127.0.0.1:{upstream}"]
        if tls:
            command += ["--tls", "on"]
        if limit:
            command += ["--max-connections", str(limit)]
        return Running(command + list(extra), port)


class Nginx:
    is_ours = False

    def start(self, upstream, tls=False, limit=None, port=None, extra=(), reloads=False):
        port = port or free_port()
        scheme = "https" if tls else "http"
        conf = folder / f"nginx-{port}.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        # Connections to the upstream count too.
        master = "on" if reloads else "off"
        conf.write_text(f"""daemon off; master_process {master}; {user}
pid {folder}/nginx-{port}.pid;
error_log stderr crit; events {{ worker_connections {limit or 1000}; }}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  large_client_header_buffers 4 64k; keepalive_requests 1000000;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{ listen 127.0.0.1:{port}; location = /healthz {{ return 200; }}
    location / {{ proxy_pass {scheme}://up;
    proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_read_timeout 300s;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade; }} }} }}
""")
        command = shutil.which("nginx") or "/usr/sbin/nginx"
        return Running([command, "-e", "stderr", "-c", str(conf)], port)


class HAProxy:
    is_ours = False

    def start(self, upstream, tls=False, limit=None, port=None, extra=(), reloads=False):
        port = port or free_port()
        conf = folder / f"haproxy-{port}.cfg"
        secure = " ssl verify none" if tls else ""
        conf.write_text(f"""global
  nbthread 1
  tune.bufsize 65536
  tune.http.maxhdr 256
  maxconn {limit or 400}
defaults
  mode http
  timeout connect 10s
  timeout client 75s
  timeout server 300s
  timeout http-request 30s
  timeout http-keep-alive 75s
frontend f
  bind 127.0.0.1:{port}
  monitor-uri /healthz
  default_backend b
backend b
  http-reuse safe
  server s 127.0.0.1:{upstream}{secure}
""")
        command = shutil.which("haproxy") or "/usr/sbin/haproxy"
        mode = "-W" if reloads else "-db"
        return Running([command, mode, "-q", "-f", str(conf)], port)


class Caddy:
    is_ours = False

    def start(self, upstream, tls=False, limit=None, port=None, extra=(), reloads=False):
        if limit:
            raise NotImplementedError("it has no limit")
        port = port or free_port()
        conf = folder / f"caddy-{port}"
        secure = "tls\n tls_insecure_skip_verify" if tls else ""
        conf.write_text(f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port}, http://a.example:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{upstream} {{
    transport http {{
      {secure}
    }}
  }}
}}
""")
        return Running(["caddy", "run", "--adapter", "caddyfile", "--config", str(conf)], port)


# ---- The attacks: each takes a program and returns the result as text.

def seconds(taken, patience=PATIENCE):
    if taken is None:
        return f"over {patience} s"
    return f"{taken:.1f} s" if taken >= 0.1 else f"{max(1, round(taken * 1000))} ms"


def timed(action):
    """How long an action takes, or None if it takes too long."""
    began = time.monotonic()
    try:
        action()
    except (TimeoutError, socket.timeout):
        return None
    return time.monotonic() - began


def identity(peer):
    """Strangers who are served as a user who logged in by NTLM on a kept upstream connection."""
    def upstream(wire):
        user = b""
        while True:
            said = field(wire.until(b"\r\n\r\n"), b"authorization") or b""
            if said == b"NTLM alice":
                user = b"alice"
            if user:
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalice")
            else:
                challenge = b"NTLM challenge" if said else b"NTLM"
                wire.send(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: " + challenge
                          + b"\r\nContent-Length: 0\r\n\r\n")

    with peer.start(serve(upstream)) as running:
        alice = running.connect()
        for step in (b"begin", b"alice"):
            alice.send(GET[:-2] + b"Authorization: NTLM " + step + b"\r\n\r\n")
            status, _, _ = alice.response()
        works = status == 200
        served = 0
        for _ in range(20):
            stranger = running.connect()
            stranger.send(GET)
            served += stranger.response()[0] == 200
            stranger.close()
        return f"{served} of 20" + ("" if works else ", login fails")


def surplus(peer):
    """An upstream that sends a surplus response: strangers who get it."""
    def upstream(wire):
        while True:
            wire.until(b"\r\n\r\n")
            wire.send(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    with peer.start(serve(upstream)) as running:
        got = 0
        for _ in range(20):
            stranger = running.connect()
            stranger.send(GET)
            got += stranger.response()[2] == b"evil"
            stranger.close()
        return f"{got} of 20"


POST = b"POST /%d HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi"


class Posts:
    """Numbered POSTs, from clients that repeat one if their kept connection was closed without a
    response, as curl and browsers do (RFC 9112 section 9.3.1)."""

    def __init__(self):
        self.arrived = collections.Counter()
        self.refused = self.silent = 0
        self.lock = threading.Lock()

    def arrive(self, wire, head):
        """Reads the body of a POST in the upstream. Returns whether the POST had arrived before."""
        wire.exactly(2)
        with self.lock:
            self.arrived[head.split()[1]] += 1
            return self.arrived[head.split()[1]] > 1

    def send(self, running, wire, number):
        """Sends a POST, over a kept connection if there is one. Returns the connection if it is
        kept."""
        is_kept = wire is not None
        wire = wire or running.connect()
        try:
            wire.send(POST % number)
            status, head, _ = wire.response()
        except (OSError, Ended):
            if not is_kept:
                raise
            with self.lock:
                self.silent += 1
            return self.send(running, None, number)
        with self.lock:
            self.refused += status != 200
        return None if (field(head, b"connection") or b"").lower() == b"close" else wire

    def told(self):
        twice = sum(count > 1 for count in self.arrived.values())
        return f"{self.refused}, {self.silent}, {twice}"


def at_work(work):
    def attack(peer):
        """50 POSTs on kept connections, which the upstream closes after processing them."""
        posts = Posts()
        # Each has its own connection, which has served two requests before.
        meeting = threading.Barrier(50)

        def upstream(wire):
            while True:
                head = wire.until(b"\r\n\r\n")
                if not head.startswith(b"POST"):
                    meeting.wait(PATIENCE)
                elif not posts.arrive(wire, head):
                    time.sleep(work)
                    return
                wire.send(OK)

        with peer.start(serve(upstream)) as running:
            def client(number):
                wire = running.connect()
                for _ in range(2):
                    wire.send(GET)
                    wire.response()
                posts.send(running, wire, number)

            together(client, 50)
        return posts.told()
    return attack


def unannounced(peer):
    """8 clients with 100 POSTs each; the upstream closes up to 10 ms after each response."""
    posts = Posts()

    def upstream(wire):
        posts.arrive(wire, wire.until(b"\r\n\r\n"))
        wire.send(OK)
        time.sleep(random.uniform(0, 0.01))

    with peer.start(serve(upstream)) as running:
        def client(client):
            wire = None
            for number in range(100):
                wire = posts.send(running, wire, 100 * client + number)
                time.sleep(random.uniform(0, 0.01))

        together(client, 8)
    return posts.told()


def in_namespace(action):
    """Runs the action in a new network namespace, which its threads and processes share."""
    def inside():
        if ctypes.CDLL(None).unshare(0x4000_0000):  # CLONE_NEWNET
            raise PermissionError("root is needed, for a network namespace")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return action()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(inside).result()


def forget(ends):
    """Drops all packets of an upstream connection from now on, as a NAT that has forgotten it
    does. `ends` are its two addresses as the upstream sees them."""
    for sender, receiver in (ends, ends[::-1]):
        subprocess.run(["iptables", "-A", "INPUT", "-p", "tcp", "--sport", str(sender[1]),
                        "--dport", str(receiver[1]), "-j", "DROP"], check=True)


def dead_kept(peer):
    """A path dies while a kept connection is idle for 6 s: how long the next GET takes."""
    def inside():
        ends = []

        def upstream(wire):
            ends.append((wire.sock.getpeername(), wire.sock.getsockname()))
            wire.sock.settimeout(None)
            answering(wire)

        with peer.start(serve(upstream)) as running:
            wire = running.connect()
            wire.send(GET)
            wire.response()
            time.sleep(6)
            forget(ends[0])
            statuses = []

            def ask():
                wire.send(GET)
                statuses.append(wire.response()[0])

            taken = seconds(timed(ask))
            return taken if statuses in ([], [200]) else f"{statuses[0]} after {taken}"
    return in_namespace(inside)


# The longest wait for the end of a WebSocket on a dead path, in seconds.
LONGEST = 150


def dead_tunnel(peer):
    """The path of a WebSocket dies: the time from a lost message to the end."""
    def inside():
        ends = []

        def upstream(wire):
            wire.until(b"\r\n\r\n")
            ends.append((wire.sock.getpeername(), wire.sock.getsockname()))
            wire.send(SWITCHING)
            wire.sock.settimeout(None)
            wire.rest()

        with peer.start(serve(upstream)) as running:
            wire = running.connect()
            wire.send(UPGRADE)
            wire.until(b"\r\n\r\n")
            forget(ends[0])
            wire.sock.settimeout(LONGEST)
            wire.send(b"\x82\x80\0\0\0\0")

            def end():
                with contextlib.suppress(ConnectionError):
                    wire.rest()

            return seconds(timed(end), LONGEST)
    return in_namespace(inside)


def urgent(peer):
    """Urgent data (MSG_OOB) in a WebSocket, in both directions: the time until the bytes after it
    arrive."""
    opened = []

    def upstream(wire):
        wire.until(b"\r\n\r\n")
        wire.send(SWITCHING)
        opened.append(wire)
        time.sleep(3 * PATIENCE)

    with peer.start(serve(upstream)) as running:
        client = running.connect()
        client.send(UPGRADE)
        client.until(b"\r\n\r\n")
        longest = 0
        for sender, receiver in ((client, opened[0]), (opened[0], client)):
            # The program is stopped, so that everything has arrived when it reads the first byte.
            os.kill(running.pid, signal.SIGSTOP)
            time.sleep(0.1)
            sender.send(b"before")
            sender.sock.send(b"!", socket.MSG_OOB)
            sender.send(b"behind")
            os.kill(running.pid, signal.SIGCONT)
            taken = timed(lambda: receiver.until(b"behind"))
            if taken is None:
                return seconds(None)
            longest = max(longest, taken)
        return seconds(longest)


def head_cost(running, head):
    """The CPU time of one head in microseconds, the least of five runs, and the status."""
    wire = running.connect()
    costs = []
    for _ in range(5):
        before = running.cpu()
        for _ in range(60):
            wire.send(head)
            status, _, _ = wire.response()
            if status != 200:
                return None, status
        costs.append((running.cpu() - before) / 60 * 1e6)
    return min(costs), 200


def heads(value_of):
    def attack(peer):
        """A head of 32 KB that is costly to interpret, and a harmless one of the same size."""
        start = b"GET / HTTP/1.1\r\nHost: a.example\r\n"
        name, value = value_of
        worst = start + SHORT_FIELDS + name + b": " + value + b"\r\n\r\n"
        other = b"X-Other: " + b"x" * (len(name) + len(value) - 7)
        harmless = start + SHORT_FIELDS + other + b"\r\n\r\n"
        with peer.start(serve(answering)) as running:
            costs = []
            for head in (worst, harmless):
                cost, status = head_cost(running, head)
                if cost is None:
                    return f"refused ({status})"
                costs.append(cost)
        return f"{costs[0]:.0f} µs, {costs[0] / costs[1]:.1f} times"
    return attack


# Fields that proxies interpret, with 31 KB each and as costly as possible.
INTERPRETED = {
    "Connection with commas": b"Connection: zz" + b"," * 31_000,
    "Connection with options": b"Connection: " + b"a," * 15_500 + b"a",
    "Upgrade with commas": b"Connection: upgrade\r\nUpgrade: a" + b",a" * 15_500,
    "Transfer-Encoding with commas": b"Transfer-Encoding: chunked" + b"," * 31_000,
    "Content-Length as a list": b"Content-Length: 0" + b",0" * 15_500,
    "TE with commas": b"Connection: te\r\nTE: trailers" + b"," * 31_000,
    "Host of dots": b"Host: " + b"." * 31_000,
    "Expect": b"Expect: " + b"," * 31_000,
    "fields of three bytes": b"\r\n".join([b"a:b"] * 6_200),
    "a folded field": b"X: a" + b"\r\n b" * 7_700,
    "X-Forwarded-For with commas": b"X-Forwarded-For: a" + b"," * 31_000,
}


def with_field(line):
    """A request with this field."""
    host = b"" if line.startswith(b"Host") else b"Host: a.example\r\n"
    return b"GET / HTTP/1.1\r\n" + host + SHORT_FIELDS + line + b"\r\n\r\n"


COSTLY = {
    **{name: with_field(line) for name, line in INTERPRETED.items()},
    "empty lines before it": b"\r\n" * 15_500 + with_field(b"X-Other: x"),
    "a trailer section": b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
                         b"0\r\n" + b"a:b\r\n" * 6_200 + b"\r\n",
}


def any_head(peer):
    """The costliest of these requests, refused or not, and a harmless one; each on a new
    connection."""
    with peer.start(serve(answering)) as running:
        def cost(head):
            costs = []
            for _ in range(3):
                before = running.cpu()
                for _ in range(40):
                    wire = running.connect()
                    # A proxy that refuses the request may close before all of it is sent.
                    with contextlib.suppress(OSError, Ended):
                        wire.send(head)
                        wire.until(b"\r\n\r\n")
                    wire.close()
                costs.append((running.cpu() - before) / 40 * 1e6)
            return min(costs)

        harmless = cost(with_field(b"X-Other: " + b"x" * 31_000))
        worst = max((cost(head) / harmless, name) for name, head in COSTLY.items())
        return f"{worst[0]:.1f} times ({worst[1]})"


def idle(silent, path=b"/"):
    def attack(peer):
        """Idle clients occupy every slot: how long a new client waits."""
        extra = ["--health-path", "/healthz"]
        with peer.start(serve(answering), limit=LIMIT, extra=extra) as running:
            held = []
            for _ in range(LIMIT):
                wire = running.connect()
                if not silent:
                    wire.send(GET)
                    with contextlib.suppress(OSError, Ended):
                        wire.response()
                held.append(wire)

            def new():
                end = time.monotonic() + PATIENCE
                while time.monotonic() < end:
                    # A client whose connection is closed tries again.
                    with contextlib.suppress(ConnectionError, Ended):
                        wire = running.connect()
                        wire.send(GET.replace(b"/", path, 1))
                        assert wire.response()[0] == 200
                        return
                    time.sleep(0.05)
                raise TimeoutError

            return seconds(timed(new))
    return attack


def load(running, clients, duration):
    """Clients that send requests for a while: how many requests, and how many of them failed."""
    end = time.monotonic() + duration
    done, failed = [0] * clients, [0] * clients

    def client(number):
        wire = None
        while time.monotonic() < end:
            done[number] += 1
            try:
                wire = wire or running.connect()
                wire.send(GET)
                status, head, _ = wire.response()
                failed[number] += status != 200
                if (field(head, b"connection") or b"").lower() == b"close":
                    wire = None
            except (OSError, Ended):
                failed[number] += 1
                wire = None
            time.sleep(0.02)

    together(client, clients)
    return sum(done), sum(failed)


def together(client, count):
    """Runs `count` clients, each with its number, and waits for all."""
    threads = [threading.Thread(target=client, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def busy(peer):
    """More busy clients than slots: requests that failed."""
    with peer.start(serve(answering), limit=LIMIT) as running:
        done, failed = load(running, 100, 4)
        return f"{failed / done:.0%} of {done}"


def hang_up(peer):
    """SIGHUP to a process without a terminal, under load."""
    def upstream(wire):
        while True:
            wire.until(b"\r\n\r\n")
            time.sleep(0.05)
            wire.send(OK)

    with peer.start(serve(upstream), reloads=True) as running:
        signalling = threading.Timer(0.7, running.process.send_signal, [signal.SIGHUP])
        signalling.start()
        done, failed = load(running, 16, 2)
        signalling.join()
        goes_on = running.process.poll() is None
        return f"{failed} of {done}, " + ("goes on" if goes_on else "has ended")


def leaves(begun, request=GET):
    def attack(peer):
        """A client closes while the upstream is silent: the time until the upstream sees it."""
        arrived, noticed = threading.Event(), threading.Event()

        def upstream(wire):
            wire.until(b"\r\n\r\n")
            wire.send(begun)
            arrived.set()
            wire.sock.settimeout(None)
            with contextlib.suppress(OSError):
                wire.rest()
            noticed.set()

        with peer.start(serve(upstream)) as running:
            wire = running.connect()
            wire.send(request)
            arrived.wait(PATIENCE)
            if begun:
                wire.until(b"\r\n\r\n")
            wire.close()
            began = time.monotonic()
            return seconds(time.monotonic() - began if noticed.wait(PATIENCE) else None)
    return attack


def half_closed(peer):
    """A client ends only its sending side, as nc -N does; the upstream answers 0.2 s later."""
    def upstream(wire):
        wire.until(b"\r\n\r\n")
        time.sleep(0.2)
        wire.send(OK)

    with peer.start(serve(upstream)) as running:
        wire = running.connect()
        wire.send(GET)
        wire.sock.shutdown(socket.SHUT_WR)
        return "gets its answer" if wire.rest().endswith(b"ok") else "gets nothing"


def given_up(peer):
    """100 clients give up while a SOCKS proxy does not reply: descriptors 2 s later."""
    if not peer.is_ours:
        raise NotImplementedError
    proxy = serve(lambda wire: wire.rest())
    extra = ["-s", f"socks5://127.0.0.1:{proxy}"]
    with peer.start(9, extra=extra) as running:
        before = running.descriptors()
        clients = [running.connect() for _ in range(100)]
        for wire in clients:
            wire.send(GET)
        deadline = time.monotonic() + PATIENCE
        while running.descriptors() < before + 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        for wire in clients:
            wire.close()
        time.sleep(2)
        return str(max(0, running.descriptors() - before))


def gone_in_dial(peer):
    """A client resets while the connection for its POST is made: whether the POST is sent."""
    if not peer.is_ours:
        raise NotImplementedError
    got = []
    dialled = threading.Event()

    def upstream(wire):
        got.append(wire.until(b"\r\n\r\n"))

    origin = serve(upstream)

    def proxy(wire):
        wire.exactly(wire.exactly(2)[1])
        wire.send(b"\5\0")
        wire.exactly(10)
        dialled.set()
        time.sleep(0.9)
        to = Wire(socket.create_connection(("127.0.0.1", origin)))
        wire.send(b"\5\0\0\1\0\0\0\0\0\0")
        while True:
            wire.more()
            to.send(wire.exactly(len(wire.ahead)))

    extra = ["-s", f"socks5://127.0.0.1:{serve(proxy)}"]
    with peer.start(origin, extra=extra) as running:
        wire = running.connect()
        wire.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi")
        dialled.wait(PATIENCE)
        wire.reset()
        time.sleep(3)
        return "sent" if got else "never sent"


def tunnel(peer):
    """A client resets a WebSocket that receives frames continuously: the time until the upstream
    sees it."""
    noticed = threading.Event()

    def upstream(wire):
        wire.until(b"\r\n\r\n")
        wire.send(SWITCHING)
        try:
            while True:
                wire.send(b"\x82\x04frame"[:6])
                time.sleep(0.0001)
        except OSError:
            noticed.set()

    with peer.start(serve(upstream)) as running:
        wire = running.connect()
        wire.send(UPGRADE)
        wire.until(b"\r\n\r\n")
        wire.exactly(600)
        wire.reset()
        began = time.monotonic()
        return seconds(time.monotonic() - began if noticed.wait(PATIENCE) else None)


def tls_flood(peer):
    """8 clients reset during a flood over TLS, on one thread: the longest wait of another
    client."""
    def upstream(wire):
        while True:
            head = wire.until(b"\r\n\r\n")
            if not field(head, b"upgrade"):
                wire.send(OK)
                continue
            wire.send(SWITCHING)
            flood = bytes(256 * 1024)
            while True:
                wire.send(flood)

    with peer.start(serve(upstream, acceptor()), tls=True) as running:
        other = running.connect()
        other.send(GET)
        other.response()
        clients = [running.connect() for _ in range(8)]
        for wire in clients:
            wire.send(UPGRADE)
            wire.until(b"\r\n\r\n")
        time.sleep(0.5)
        for wire in clients:
            wire.reset()
        longest, end = 0, time.monotonic() + 3
        while time.monotonic() < end:
            other.send(GET)
            taken = timed(other.response)
            if taken is None:
                return seconds(None)
            longest = max(longest, taken)
        return seconds(longest)


def loop(peer):
    """The upstream is the proxy itself."""
    port = free_port()
    upstream = f"localhost:{port}" if peer.is_ours else port
    with peer.start(upstream, port=port) as running:
        wire = running.connect()
        answer = []

        def ask():
            wire.send(GET)
            answer.append(wire.response()[0])

        taken = timed(ask)
        held = running.descriptors()
        return f"{answer[0]} after {seconds(taken)}" if answer else f"none, {held} descriptors"


def metrics(peer):
    """16 silent connections to the metrics port: how long the 17th waits."""
    if not peer.is_ours:
        raise NotImplementedError
    with peer.start(serve(answering), extra=["--metrics-listen", "127.0.0.1:0"]) as running:
        silent = [running.connect(running.metrics) for _ in range(16)]

        def read():
            wire = running.connect(running.metrics)
            wire.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            assert wire.response()[0] == 200

        time.sleep(0.2)
        taken = timed(read)
        del silent
        return seconds(taken)


def small_chunks(version):
    def attack(peer):
        """A body in chunks of one byte: CPU time per byte."""
        size = 300_000
        body = b"1\r\nx\r\n" * size + b"0\r\n\r\n"

        def upstream(wire):
            while True:
                wire.until(b"\r\n\r\n")
                wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

        with peer.start(serve(upstream)) as running:
            costs = []
            for _ in range(5):
                wire = running.connect()
                before = running.cpu()
                wire.send(GET[:-2].replace(b"1.1", version) + b"Connection: close\r\n\r\n")
                got = wire.rest()
                if len(got) < size:
                    return "fails"
                costs.append((running.cpu() - before) / size * 1e9)
                wire.close()
        return f"{min(costs):.0f} ns"
    return attack


def uploads(peer):
    """An upload in chunks of one byte, each with an extension: CPU time per byte of the body."""
    size = 20_000
    body = b"1;" + b"e" * 60 + b"\r\nx\r\n"
    request = (b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
               + body * size + b"0\r\n\r\n")

    def upstream(wire):
        while True:
            head = wire.until(b"\r\n\r\n")
            length = field(head, b"content-length")
            if length:
                wire.exactly(int(length))
            else:
                while size := int(wire.until(b"\r\n").split(b";")[0], 16):
                    wire.exactly(size + 2)
                wire.until(b"\r\n")
            wire.send(OK)

    with peer.start(serve(upstream)) as running:
        costs = []
        for _ in range(3):
            wire = running.connect()
            before = running.cpu()
            wire.send(request)
            status, _, _ = wire.response()
            if status != 200:
                return f"refused ({status})"
            costs.append((running.cpu() - before) / size * 1e9)
            wire.close()
    return f"{min(costs):.0f} ns"


ATTACKS = [
    ("A client logs in by NTLM; strangers who are then served as that user", identity),
    ("An upstream sends a second response right after its own: strangers who get it", surplus),
    ("50 POSTs on kept connections; the upstream reads each, works for a second and closes: "
     "answered 502, closed in silence, run twice because clients repeat the latter", at_work(1)),
    ("The same, where the upstream closes at once", at_work(0)),
    ("800 POSTs; the upstream closes within 10 ms after each response, unannounced: the same "
     "counts", unannounced),
    ("Head of 32 KB, `Connection` with 31,000 commas: CPU, and compared with a harmless head",
     heads((b"Connection", b"zz" + b"," * 31_000))),
    ("The same with 31,000 blanks", heads((b"Connection", b"zz" + b" " * 31_000 + b"y"))),
    (f"The costliest of {len(COSTLY)} such requests, refused or not", any_head),
    ("Chunks of one byte, HTTP/1.1 client: CPU for each byte", small_chunks(b"1.1")),
    ("The same, HTTP/1.0 client", small_chunks(b"1.0")),
    ("Upload of one-byte chunks with extensions of 60 bytes: CPU for each byte", uploads),
    (f"{LIMIT} clients idle after an answer, {LIMIT} allowed: wait of a new client", idle(False)),
    (f"{LIMIT} silent clients, {LIMIT} allowed: wait of a new client", idle(True)),
    ("The same: wait of a health check", idle(True, b"/healthz")),
    (f"100 busy clients, {LIMIT} allowed: requests that failed", busy),
    ("A client leaves while the upstream is silent: until the upstream sees it", leaves(b"")),
    ("The same while a 101 is awaited", leaves(b"", UPGRADE)),
    ("The same in the middle of a response that has stalled",
     leaves(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")),
    ("A client that only closes its sending side (`nc -N`); the upstream answers after 0.2 s",
     half_closed),
    ("A client resets a WebSocket that receives frames: until the upstream sees it", tunnel),
    ("Urgent data in a WebSocket, in either direction: until the data after it arrives", urgent),
    ("A NAT has forgotten a kept connection that was idle for 6 s: wait of the next GET",
     dead_kept),
    ("A NAT has forgotten the connection of a WebSocket: until the WebSocket is closed", dead_tunnel),
    ("8 clients reset under floods over TLS, one thread: longest wait of another client",
     tls_flood),
    ("100 clients give up on a silent SOCKS proxy: descriptors held 2 s later", given_up),
    ("A client resets while the connection for its POST is being made", gone_in_dial),
    ("The upstream is the proxy itself: the answer", loop),
    ("SIGHUP without a terminal, under load: requests that failed, and the process", hang_up),
    ("16 silent connections to the metrics: wait of the next reader", metrics),
]


# These mostly wait, so all programs are attacked at once.
AT_ONCE = [dead_kept, dead_tunnel]


def circumstances():
    """The date, the machine and the versions of the other proxies."""
    versions = []
    path = os.environ["PATH"] + ":/usr/sbin"
    for command in (["nginx", "-v"], ["haproxy", "-v"], ["caddy", "version"]):
        if program := shutil.which(command[0], path=path):
            said = subprocess.run([program, *command[1:]], capture_output=True, text=True)
            number = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
            versions.append(f"{command[0]} {number[0] if number else ''}".strip())
    machine = f"{os.cpu_count()} cores, Linux {os.uname().release.split('-')[0]}"
    return ", ".join([time.strftime("%Y-%m-%d"), machine, *versions])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--old", help="another build, in the column before")
    parser.add_argument("--only", default="", help="attacks whose description has these words")
    given = parser.parse_args()
    peers = {}
    if given.old:
        peers["before"] = SimpleProxy(given.old)
    peers["now"] = SimpleProxy(given.program)
    for peer in (Nginx(), HAProxy(), Caddy()):
        name = type(peer).__name__
        if shutil.which(name.lower(), path=os.environ["PATH"] + ":/usr/sbin"):
            peers["nginx" if name == "Nginx" else name] = peer
        else:
            print(f"{name} is not installed and is left out", file=sys.stderr)
    print(circumstances(), end="\n\n")
    print("| attack | " + " | ".join(peers) + " |")
    print("| --- |" + " --- |" * len(peers), flush=True)
    for words, attack in ATTACKS:
        if given.only not in words:
            continue

        def cell(named):
            name, peer = named
            try:
                return attack(peer)
            except NotImplementedError:
                return DASH
            except Exception as error:  # An attack that fails must not end the others.
                print(f"{words}: {name}: {error!r}", file=sys.stderr)
                return "not measured"

        with ThreadPoolExecutor(len(peers) if attack in AT_ONCE else 1) as pool:
            cells = list(pool.map(cell, peers.items()))
        print("| " + " | ".join([words, *cells]) + " |", flush=True)


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
