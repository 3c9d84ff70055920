"""A process that has imported everything, and forks the processes of the tests: importing takes
longer than their work.

It reads requests from stdin, one JSON document a line, and answers each with a line: the number of
the process that it started, or the exit status of the one that it waited for.
"""

import importlib.util
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import hypothesis  # noqa: F401 -- what the files of tests import
import timm  # noqa: F401
import torch

import swa_tools.cli
import swa_tools.cli.commands.finetune
import swa_tools.cli.commands.plane
import swa_tools.landscape.plane
import swa_tools.training.loop
from swa_tools.distributed import distributed

SECONDS = 120
"""How long a process may take: it hangs otherwise."""


def wait(pid):
    deadline = time.monotonic() + SECONDS
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)


def call(file, name, folder):
    """Call a function of a test file as one of the ranks; keep its result in the folder."""
    spec = importlib.util.spec_from_file_location("functions_of_a_test", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with distributed("cpu") as context:
        torch.save(getattr(module, name)(context), Path(folder) / f"{context.rank}.pt")


def run(request):
    os.setsid()
    with open(request["log"], "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(request["environment"])
    if request["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    if request["function"]:
        call(*request["function"])
        sys.exit(0)
    sys.argv = ["swa-tools", *request["arguments"]]
    swa_tools.cli.main(request["arguments"])


def fork(request):
    pid = os.fork()
    if pid:
        return pid
    try:
        run(request)
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        traceback.print_exc()
    os._exit(99)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        answer = wait(request["wait"]) if "wait" in request else fork(request)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
