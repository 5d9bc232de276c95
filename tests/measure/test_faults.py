"""Every way in which a case can go wrong becomes the right outcome, and the next one runs."""

import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from bench.launch import Workers
from bench.model import Crashed, Incorrect, Measured, Ok, OutOfMemory, TimedOut, Unsupported

pytestmark = pytest.mark.usefixtures("faulty")
GROUP = "test"


def outcome(workers: Workers, variant: str, protocol=tiny.PROTOCOL, round_=1, **sizes):
    return workers.visit(tiny.case(variant, **sizes), round_, protocol, GROUP).outcome


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("not_finite", "not finite"),
        ("wrong_shape", r"shape is \(1, 15, 8\), must be \(1, 16, 8\)"),
        ("wrong_dtype", "dtype is torch.float64"),
        ("slightly_wrong", "differs from the float64 reference by"),
        ("mutates", "input 0 was changed"),
        ("aliases", "in the memory of an input"),
        ("caches", "different inputs gave the same output"),
        ("caches_by_address", "new values in the same memory"),
        ("tires", "a timed call gave another result"),
    ],
)
def test_a_wrong_variant_is_incorrect_and_carries_no_number(workers, variant, reason):
    found = outcome(workers, variant)
    assert isinstance(found, Incorrect), found
    assert re.search(reason, found.reason)


def test_what_is_slightly_wrong_says_by_how_much(workers):
    found = outcome(workers, "slightly_wrong")
    assert isinstance(found, Incorrect)
    assert found.error is not None
    assert found.allowed is not None
    assert found.error > found.allowed > 0


@pytest.mark.parametrize("variant", ["fine", "babbles"])
def test_a_right_variant_passes_even_if_it_prints_garbage(workers, variant):
    found = outcome(workers, variant, round_=0)
    assert isinstance(found, Ok), found
    metrics = {m.metric for m in found.measurements if isinstance(m, Measured)}
    assert {"latency", "latency_cold", "peak_memory", "error", "flops"} <= metrics


def test_a_segfault_is_a_crash_with_its_signal(workers):
    found = outcome(workers, "segfaults")
    assert isinstance(found, Crashed)
    assert found.exit_code == -signal.SIGSEGV
    assert "SIGSEGV" in found.reason


def test_leaving_with_status_0_and_no_result_is_a_crash(workers):
    found = outcome(workers, "exits")
    assert isinstance(found, Crashed)
    assert found.exit_code == 0
    assert "no result" in found.reason


def test_an_error_is_a_crash_without_paths_and_tags(workers):
    found = outcome(workers, "raises")
    assert isinstance(found, Crashed)
    assert "RuntimeError: cannot read weights.bin" in found.reason
    for private in ("/home", "somebody", "secret", "<", ">"):
        assert private not in found.reason


def test_a_hang_is_killed_in_time_and_leaves_no_process(workers, pid_file):
    pid_file.unlink(missing_ok=True)
    start = time.monotonic()
    found = outcome(workers, "hangs", tiny.with_timeout(2.0))
    assert found == TimedOut(limit_s=2.0)
    assert time.monotonic() - start < 30, "it would hang for a minute and more"
    assert not is_alive(int(pid_file.read_text()))


def test_a_real_allocation_failure_is_out_of_memory_with_its_size(workers):
    limit = 512 << 20
    protocol = replace(tiny.PROTOCOL, memory_limit_bytes=limit)
    found = outcome(workers, "hungry", protocol)
    assert isinstance(found, OutOfMemory), found
    assert found.requested_bytes == 1 << 33
    assert found.limit_bytes == limit
    assert isinstance(outcome(workers, "fine", protocol), Ok)


def test_what_the_variant_refuses_is_unsupported_with_its_reason(workers):
    causal = tiny.case("soft")
    causal = replace(causal, stimulus=replace(causal.stimulus, causal=True))
    found = workers.visit(causal, 0, tiny.PROTOCOL, GROUP).outcome
    assert isinstance(found, Unsupported)
    assert "no causal form" in found.reasons[0]


def test_an_unknown_backend_names_the_nearest(workers):
    found = outcome(workers, "softmax", backend="compil")
    assert isinstance(found, Crashed)
    assert "Did you mean 'compile'" in found.reason


def test_one_worker_does_not_see_the_wreck_of_another(workers):
    for variant in ("segfaults", "hungry", "raises"):
        outcome(workers, variant, replace(tiny.PROTOCOL, memory_limit_bytes=512 << 20))
        assert isinstance(outcome(workers, "fine"), Ok)


def test_no_worker_outlives_a_launcher_that_is_killed(tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("HANGS_PID_FILE", str(pid_file))
    launcher = os.fork()
    if launcher == 0:
        try:
            with Workers("cpu", 1) as own:
                own.visit(tiny.case("hangs"), 0, tiny.PROTOCOL, GROUP)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline, "the worker never started"
        time.sleep(0.02)
    worker = int(pid_file.read_text())
    assert is_alive(worker)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    deadline = time.monotonic() + 30
    while is_alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its launcher"
        time.sleep(0.02)
