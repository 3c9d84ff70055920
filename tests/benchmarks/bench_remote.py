"""Averaging checkpoints on a web server against reading them alone, at 50 ms of latency.

The server (tests/file_server.py) runs on this machine. Three times are compared: `cat`, which asks
for the same ranges over as many connections of `http.client` and throws the bytes away; the same
through fsspec, whose driver the command uses; and the whole average, from open files to the output
on disk. The peak is that of the process which averages, drivers included.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from swa_tools.checkpoints import write_checkpoint

CAT = """
import http.client, queue, sys, threading, time, urllib.parse
import fsspec
from swa_tools.checkpoints.read_ahead import MAX_REQUESTS, REQUEST_BYTES
kind, *urls = sys.argv[1:]
fs = fsspec.filesystem("http")
sizes = {url: fs.info(url)["size"] for url in urls}
todo = queue.SimpleQueue()
for start in range(0, max(sizes.values()), REQUEST_BYTES):
    for url in urls:
        if start < sizes[url]:
            todo.put((url, start, min(start + REQUEST_BYTES, sizes[url])))

def take():
    while True:
        try:
            yield todo.get_nowait()
        except queue.Empty:
            return

def by_client():
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(urls[0]).netloc)
    buffer = bytearray(1 << 20)
    for url, start, end in take():
        headers = {"Range": f"bytes={start}-{end - 1}"}
        connection.request("GET", urllib.parse.urlsplit(url).path, headers=headers)
        answer = connection.getresponse()
        while answer.readinto(buffer):
            pass

def by_fsspec():
    for url, start, end in take():
        fs.cat_file(url, start=start, end=end)

begin = time.perf_counter()
threads = [
    threading.Thread(target={"client": by_client, "fsspec": by_fsspec}[kind])
    for _ in range(MAX_REQUESTS)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(time.perf_counter() - begin, 0)
"""
AVERAGE = """
import sys, time
from swa_tools.averaging import average_checkpoints
*urls, output = sys.argv[1:]
begin = time.perf_counter()
average_checkpoints(urls, output)
seconds = time.perf_counter() - begin
with open("/proc/self/status") as status:
    lines = dict(line.split(":", 1) for line in status)
print(seconds, int(lines["VmHWM"].split()[0]) * 1024)
"""


def run(script, *arguments):
    """Return the seconds and bytes that a script prints."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, n_bytes = finished.stdout.split()
    return float(seconds), int(n_bytes)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5, help="checkpoints")
    parser.add_argument("--megabytes", type=int, default=400, help="size of each")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    parser.add_argument(
        "--rate", type=float, default=0, help="MB/s of all connections together  [no limit]"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="where the files are made, such as /dev/shm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        n_tensors = max(1, arguments.megabytes // 16)
        for number in range(arguments.n):
            generator = np.random.default_rng(number)
            arrays = {
                f"layer.{i}.weight": generator.standard_normal((2000, 2000), np.float32)
                for i in range(n_tensors)
            }
            write_checkpoint(Path(folder, f"{number}.safetensors"), arrays, None)
        n_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        script = Path(__file__).parent.parent / "file_server.py"
        command = [sys.executable, script, folder, arguments.latency, arguments.rate * 1e6]
        with subprocess.Popen(
            [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            base = server.stdout.readline().strip()
            urls = [f"{base}{number}.safetensors" for number in range(arguments.n)]
            output = Path(folder, "out.safetensors")
            times = {"cat, http.client": [], "cat, fsspec": [], "average": []}
            peaks = []
            for _ in range(arguments.rounds):
                times["cat, http.client"].append(run(CAT, "client", *urls)[0])
                times["cat, fsspec"].append(run(CAT, "fsspec", *urls)[0])
                seconds, peak = run(AVERAGE, *urls, output)
                output.unlink()
                times["average"].append(seconds)
                peaks.append(peak)
            server.stdin.close()
    print(f"{arguments.n} files, {n_bytes / 1e9:.2f} GB, {arguments.latency * 1000:.0f} ms")
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, seconds in medians.items():
        ratio = medians["cat, http.client"] / seconds
        rate = n_bytes / seconds / 1e6
        print(f"{name:18} {seconds:7.3f} s  {rate:6.0f} MB/s  {ratio:.2f} of cat's throughput")
    print(f"peak of the average: {max(peaks) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
