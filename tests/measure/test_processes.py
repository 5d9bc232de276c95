"""Worker processes that die at the wrong moment: nobody is blamed for it, and nothing is left."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import tiny

from bench import processes
from bench.launch import LaunchError, Workers
from bench.model import Ok, to_json
from bench.processes import Spawned, bury

ROOT = Path(__file__).parents[2]
MARKS = """
from pathlib import Path
Path(__file__).with_suffix(".begun").touch()
raise RuntimeError("this is no variant")
"""
DIES = """
import json, os, sys
from bench.processes import Spawned
process = Spawned.start(1)
process.channel.sendall(sys.argv[1].encode() + b"\\n")
print(process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def open_files() -> set[str]:
    """Sockets and pipes of this process."""
    found = set[str]()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add(str(path.readlink()))
    return {one for one in found if one.startswith(("socket:", "pipe:"))}


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells of a parent's end on Linux")
@pytest.mark.parametrize("launcher_dies", [True, False])
def test_a_worker_whose_launcher_dies_while_it_starts_makes_no_visit(tmp_path, launcher_dies):
    """It imports torch for seconds, before it can ask to be told of that end."""
    variant = tmp_path / "marks.py"
    variant.write_text(MARKS)
    request = json.dumps(
        {
            "kind": "visit",
            "case": to_json(tiny.case("marks")),
            "round": 0,
            "protocol": to_json(tiny.PROTOCOL),
            "device": "cpu",
            "threads": 1,
            "together": 1,
            "checkpoints": None,
            "variant_files": [str(variant)],
        }
    )
    if launcher_dies:
        done = subprocess.run(
            [sys.executable, "-c", DIES, request],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert gone(int(done.stdout))
    else:
        process = Spawned.start(1)
        process.channel.sendall(request.encode() + b"\n")
        assert process.channel.recv(1)
        bury(process)
    assert variant.with_suffix(".begun").exists() != launcher_dies


@pytest.mark.parametrize("module", ["slot", "together_process"])
def test_a_process_whose_parent_is_another_serves_nothing(module):
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{module}", str(os.getpid() + 1)],
        input='{"kind": "limits"}\n',
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr


@pytest.mark.usefixtures("faulty")
def test_a_process_that_died_between_two_visits_is_no_fault_of_the_second(monkeypatch):
    common = Workers._common
    monkeypatch.setattr(Workers, "_common", lambda self: {**common(self), "device": "cpu"})
    with Workers("cuda", 1) as workers:
        outcomes = []
        for _ in range(2):
            visited = workers.visit(tiny.case("fine"), 1, tiny.PROTOCOL, "group")
            outcomes.append(visited.outcome)
            os.kill(workers._living["group"].pid, signal.SIGKILL)
            assert gone(workers._living["group"].pid)
        assert [type(one) for one in outcomes] == [Ok, Ok]


@pytest.mark.usefixtures("faulty")
def test_a_fork_server_that_dies_is_said_at_once_and_leaves_nothing_open():
    before = open_files()
    with Workers("cpu", 1) as workers:
        server = workers._server._process
        killer = threading.Timer(0.5, server.kill)
        killer.start()
        began = time.monotonic()
        with pytest.raises(LaunchError, match="fork server is gone"):
            workers.visit(tiny.case("hangs"), 1, tiny.with_timeout(300.0), "group")
        assert time.monotonic() - began < 120
        with pytest.raises(LaunchError, match="fork server is gone"):
            workers.visit(tiny.case("fine"), 1, tiny.PROTOCOL, "group")
    assert open_files() <= before


def test_a_worker_that_cannot_be_started_leaves_nothing_open(monkeypatch):
    def refuse(*_arguments, **_options):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(processes.subprocess, "Popen", refuse)
    before = open_files()
    with pytest.raises(BlockingIOError):
        Spawned.start(1)
    assert open_files() <= before


def test_a_process_that_takes_long_to_die_is_waited_for(monkeypatch):
    """The system takes seconds to take back the memory of a large one."""

    class Large:
        """Ends at the third look, long after it was killed."""

        pid, looks = 1 << 30, 0

        def __init__(self):
            self.channel, theirs = socket.socketpair()
            theirs.close()
            self.log = processes.Log(os.open(os.devnull, os.O_RDONLY))

        def descriptors(self):
            return []

        def end(self):
            self.looks += 1
            return processes.End(-9, None) if self.looks == 3 else None

    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(processes.time, "monotonic", lambda: float(next(clock)))
    large = Large()
    assert bury(large) == processes.End(-9, None)
    assert not large.log.open
