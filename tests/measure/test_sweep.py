"""The local executor: goes on after failures, resumes after signal 9, stops cleanly on Ctrl-C."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import tiny

from bench import load, merge
from bench.executor import Commission
from bench.executors import local
from bench.journal import Journal
from bench.model import Measured, NotRun, Ok
from bench.schedule import visits

ROOT = Path(__file__).parents[2]
EXACT = {"flops", "parameters", "peak_memory", "predicted_memory", "state_floats", "error"}
"""Metrics that cannot vary between two runs on one machine."""
PLAN = tiny.plan(
    tiny.case("softmax", 16),
    tiny.case("linear_relu", 16, passes="forward_backward"),
    noise=(tiny.case("softmax", 16),),
)
LAUNCHER = """
import sys
from pathlib import Path
import tiny
from bench.executors import local
from bench.journal import Journal
from test_sweep import PLAN, Silent
path = Path(sys.argv[1])
journal = Journal.open(path) if path.exists() else Journal.create(path, tiny.header(PLAN))
print("ready", flush=True)
with journal:
    local.run(PLAN, journal, "cpu", Silent())
"""


class Silent:
    """Remembers what it is told."""

    def __init__(self):
        self.notes, self.seen = [], []

    def started(self, case, done, total):
        assert 0 <= done < total

    def finished(self, case, outcome):
        self.seen.append((case.variant, outcome.kind))

    def trained(self, epoch):
        pass

    def slots(self, doing):
        pass

    def note(self, text):
        self.notes.append(text)


def exact(records):
    """What must be equal between two runs: cases, kinds, and the metrics that cannot vary."""
    found = {}
    for record in records:
        assert isinstance(record.outcome, Ok), record
        found[record.case.id] = {
            m.metric: m.rounds
            for m in record.outcome.measurements
            if isinstance(m, Measured) and m.metric in EXACT
        }
        assert set(found[record.case.id]) == EXACT
    return found


def swept(path, plan, progress=None):
    with Journal.create(path, tiny.header(plan)) as journal:
        local.run(plan, journal, "cpu", progress or Silent())
        return merge.records(plan, journal), merge.conditions(plan, journal), journal.entries


def heed_ctrl_c() -> None:
    """A suite started in the background of a script is deaf to Ctrl-C, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(path: Path) -> "subprocess.Popen[bytes]":
    folders = [ROOT, ROOT / "tests", ROOT / "tests" / "measure"]
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - this process has one thread
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(path: Path, wanted: int, process: "subprocess.Popen[bytes]") -> None:
    while lines(path) < wanted and process.poll() is None:
        time.sleep(0.005)


def interrupt(path: Path, wanted: int, how: signal.Signals, pause_s: float) -> bytes:
    """Start or go on with the sweep, stop it at a random moment; return what it said."""
    process = start(path)
    wait_for(path, wanted, process)
    time.sleep(pause_s)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family, "there is a fork server at least"
    os.kill(process.pid, how)
    _, errors = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, "a worker outlived its launcher"
    return errors


def test_stopped_at_random_and_resumed_gives_the_records_of_an_undisturbed_run(tmp_path):
    """Once by Ctrl-C, once by signal 9."""
    expected, _, entries = swept(tmp_path / "whole", PLAN)
    assert {e.visit for e in entries} == {t.visit for t in visits(PLAN, "cpu")}
    path = tmp_path / "stopped"
    chance = random.Random(5)
    said = interrupt(path, 2, signal.SIGINT, 0.3 * chance.random())
    assert b"KeyboardInterrupt" in said
    interrupt(path, lines(path) + 2, signal.SIGKILL, 0.3 * chance.random())
    with Journal.open(path) as journal:
        assert 0 < len(journal.entries) < len(entries), "nothing was interrupted"
        local.run(PLAN, journal, "cpu", Silent())
        seen = [entry.visit for entry in journal.entries]
        assert len(seen) == len(set(seen)), "a visit is there twice"
        assert set(seen) == {entry.visit for entry in entries}, "a visit is lost"
        records = merge.records(PLAN, journal)
    assert exact(records) == exact(expected)
    for record in records:
        latency = next(m for m in record.outcome.measurements if m.metric == "latency")
        assert len(latency.rounds) == PLAN.protocol.rounds


@pytest.mark.usefixtures("faulty")
def test_the_sweep_goes_on_after_every_fault(tmp_path):
    names = ("segfaults", "exits", "raises", "not_finite", "hungry", "fine")
    protocol = replace(tiny.PROTOCOL, memory_limit_bytes=512 << 20)
    larger = tiny.case("hungry", 32)
    plan = tiny.plan(*(tiny.case(name) for name in names), larger, protocol=protocol)
    progress = Silent()
    records, conditions, entries = swept(tmp_path / "faults", plan, progress)
    (spared,) = (record.outcome for record in records if record.case == larger)
    assert isinstance(spared, NotRun)
    assert tiny.case("hungry").id in spared.reason
    kinds = {r.case.variant: r.outcome.kind for r in records if r.case != larger}
    assert kinds == {
        "segfaults": "crashed",
        "exits": "crashed",
        "raises": "crashed",
        "not_finite": "incorrect",
        "hungry": "out_of_memory",
        "fine": "ok",
    }
    tries = [entry.case_id for entry in entries]
    for record in records:
        ok = isinstance(record.outcome, Ok)
        assert tries.count(record.case.id) == (plan.protocol.rounds if ok else 1)
    assert 0 < conditions.measured_s < conditions.wall_s
    assert len(progress.seen) == len(entries)


def test_a_busy_machine_is_said_before_the_first_case(monkeypatch):
    plan = tiny.plan(tiny.case("softmax"))
    monkeypatch.setattr(local, "Workers", lambda *_: nullcontext())
    for foreign, notes in ((0.0, 0), (1.5, 1)):
        monkeypatch.setattr(load, "foreign_load", lambda _s, value=foreign: value)
        progress = Silent()
        commission = Commission(plan=plan, device="cpu", threads=1, only=None)
        alone = local.Alone(commission, progress, tiny.header(plan))
        assert alone.wait(0.0)
        assert len(progress.notes) == notes


def test_foreign_load_sees_others_and_not_ourselves():
    ours = load.own_seconds()
    deadline = time.process_time() + 0.2
    while time.process_time() < deadline:
        pass
    assert load.own_seconds() - ours >= 0.17  # counted in ticks of 10 ms
    before = load.busy_seconds()
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        foreign = load.foreign_load(1.0)
    finally:
        burner.kill()
        burner.wait()
    assert foreign > 0.3
    assert load.busy_seconds() - before > 0.3
