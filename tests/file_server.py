"""A web server that sends files by ranges, and fails as real ones do.

As a script it serves a folder until its standard input ends:
`python tests/file_server.py FOLDER SECONDS_OF_LATENCY BYTES_PER_SECOND` prints its address.
"""

import collections
import http.server
import json
import re
import sys
import threading
import time
import urllib.parse
from pathlib import Path


class FileServer(http.server.ThreadingHTTPServer):
    """Serves the files of a folder by ranges, with an ETag.

    Attributes:
        latency: Seconds before each answer.
        rate: Bytes per second of all answers together; 0 for no limit.
        failures: How often each file answers "503", or, if negative, closes the connection, before
            it is sent; by its name.
        has_ranges: Whether it sends parts of files; otherwise always the whole.
        status: What is answered instead of a file, by its name.
        n_requests: How many ranges were asked for, by name of the file.
        sizes: The sizes of these ranges.
        most_at_once: The most answers under way at the same time.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, *, latency: float = 0.0, rate: float = 0.0) -> None:
        self.folder, self.latency, self.rate = folder, latency, rate
        self.free_at = 0.0
        self.failures: collections.Counter[str] = collections.Counter()
        self.status: dict[str, int] = {}
        self.n_requests: collections.Counter[str] = collections.Counter()
        self.sizes: list[int] = []
        self.has_ranges = True
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def url(self, name: str = "") -> str:
        """Return the address of a file."""
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request, client_address):
        """Say nothing: clients may close."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        server = self.server
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self.answer(with_body=True)
        finally:
            with server.lock:
                server.at_once -= 1

    def answer(self, *, with_body):
        server = self.server
        time.sleep(server.latency)
        name = urllib.parse.unquote(self.path.partition("?")[0].lstrip("/"))
        if name.startswith("api/models/org/repo"):
            return self.describe_repository(name)
        name = name.removeprefix("org/repo/resolve/main/")
        path = server.folder / name
        if name in server.status:
            return self.refuse(server.status[name])
        if path.is_dir():
            return self.list(path)
        if not path.is_file():
            return self.refuse(404)
        if with_body and server.failures[name]:
            if server.failures[name] < 0:
                server.failures[name] += 1
                self.close_connection = True
                return None
            server.failures[name] -= 1
            return self.refuse(503)
        status = path.stat()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = 0, status.st_size
        if found and server.has_ranges:
            start, end = int(found[1]), min(int(found[2]) + 1, status.st_size)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
            server.n_requests[name] += 1
            server.sizes.append(end - start)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{status.st_mtime_ns:x}-{status.st_size:x}"')
        self.end_headers()
        self.wfile.flush()
        if with_body:
            with path.open("rb") as file:
                step = 1 << 18 if server.rate else end - start
                for position in range(start, end, step):
                    n_bytes = min(step, end - position)
                    self.wait_for_the_line(n_bytes)
                    self.connection.sendfile(file, position, n_bytes)
        return None

    def wait_for_the_line(self, n_bytes):
        """Wait until as many bytes fit into what all answers share."""
        server = self.server
        if server.rate:
            with server.lock:
                begin = max(server.free_at, time.monotonic())
                server.free_at = begin + n_bytes / server.rate
            time.sleep(max(0, begin - time.monotonic()))

    def describe_repository(self, name):
        """Answer as the Hub of Hugging Face, which has the files as `org/repo`."""
        files = [
            {"type": "file", "path": one.name, "size": one.stat().st_size, "oid": "0" * 40}
            for one in self.server.folder.iterdir()
        ]
        model = {"id": "org/repo", "sha": "a" * 40, "siblings": [], "tags": [], "private": False}
        is_list = "/tree/" in name or "/paths-info/" in name
        self.send(json.dumps(files if is_list else model).encode(), "application/json")

    def refuse(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def list(self, folder):
        links = "".join(f'<a href="{one.name}">{one.name}</a>\n' for one in folder.iterdir())
        self.send(f"<html>{links}</html>".encode(), "text/html")

    def send(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    with FileServer(
        Path(sys.argv[1]), latency=float(sys.argv[2]), rate=float(sys.argv[3])
    ) as file_server:
        print(file_server.url(), flush=True)  # noqa: T201  # its answer
        sys.stdin.read()
