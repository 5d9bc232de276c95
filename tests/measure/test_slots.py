"""One sweep over many slots: the records of one, whatever happens to the slots."""

import itertools
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import simulated
import tiny

from bench import gpu_health, merge, sweep
from bench.devices import Device, devices, in_groups, shared
from bench.dispatch import Dispatch
from bench.executor import Commission, Joined, Lost, Made, PoolError, Slot, Trained
from bench.executors import local
from bench.forecast import forecast
from bench.journal import Journal, JournalError
from bench.journal_lines import Arrival, VariantSource
from bench.model import Crashed, Ok, Visit
from bench.ray.actor import Spoken
from bench.ray.options import kinds
from bench.schedule import visits
from bench.slot import SlotServer
from bench.sweep import Sweep, TimeIsUp
from bench.task import Epoch

CASES = tuple(tiny.case(v, n) for v in ("softmax", "linear_relu") for n in (16, 32))
PLAN = tiny.plan(*CASES, noise=(CASES[0],))
HEADER = tiny.header(PLAN)
MANY = [HEADER] * 8


def swept(folder, pool, *, limits_again=True):
    """Sweep; return the journals by hardware id, and what was told."""
    folder.mkdir(exist_ok=True)
    opened, told = {}, simulated.Told()

    def journal_of(header):
        id_ = header.environment.hardware_id
        opened[id_] = Journal.create(folder / f"{id_}.jsonl", header)
        return opened[id_]

    try:
        Sweep(PLAN, "cpu", journal_of, told, limits_again=limits_again).go(pool)
    finally:
        for journal in opened.values():
            journal.close()
    return opened, told


def one_run(folder, pool):
    opened, told = swept(folder, pool)
    (journal,) = opened.values()
    return journal, told


def test_many_slots_give_the_records_of_one(tmp_path):
    alone, _ = one_run(tmp_path / "alone", simulated.SimulatedPool([HEADER]))
    expected = merge.records(PLAN, alone)
    for seed in range(5):
        pool = simulated.SimulatedPool(MANY, losses=0.3, seed=seed)
        journal, _ = one_run(tmp_path / str(seed), pool)
        assert merge.records(PLAN, journal) == expected
        made = [entry.visit for entry in journal.entries]
        assert sorted(made, key=str) == sorted((t.visit for t in visits(PLAN, "cpu")), key=str)


def test_when_the_time_is_up_no_visit_is_cut_off_and_the_rest_can_be_made_later(
    tmp_path, monkeypatch
):
    clock = itertools.count()
    monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    alone, _ = one_run(tmp_path / "alone", simulated.SimulatedPool([HEADER]))
    total = len(alone.entries)
    with Journal.create(tmp_path / "journal.jsonl", HEADER) as journal:

        def go(until_s):
            """Return how many visits were begun, and how many ended."""
            pool, before = simulated.SimulatedPool(MANY), len(journal.entries)
            stopped = mock.Mock()
            try:
                Sweep(PLAN, "cpu", lambda _: journal, stopped, until_s=until_s).go(pool)
            except TimeIsUp:
                assert len(journal.entries) < total
            return pool.busy_s, len(journal.entries) - before

        assert go(0.0) == (0, 0)
        begun, ended = go(next(clock) + 40.0)
        assert 0 < begun == ended < total
        go(next(clock) + 1000.0)
        assert merge.records(PLAN, journal) == merge.records(PLAN, alone)
        # a run that holds every visit ends, however late it is
        go(0.0)


class Queue:
    """Devices that stand in a queue, some of them by name."""

    def __init__(self, awaited=(), pool=None):
        self.looks, self._awaited, self._pool = 0, awaited, pool

    def __getattr__(self, name):
        return getattr(self._pool, name)

    def wait(self, timeout_s):
        self.looks += 1
        assert self.looks < 1000, "waits for ever"
        return self._pool.wait(timeout_s) if self._pool else ()

    def awaited(self):
        return self._awaited

    def may_grow(self):
        return True


def test_when_the_time_is_up_nobody_is_waited_for_any_more(tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with pytest.raises(TimeIsUp):
        Sweep(PLAN, "cpu", mock.Mock(), simulated.Told(), until_s=5.0).go(Queue())
    with Journal.create(tmp_path / "journal.jsonl", HEADER) as journal:
        there = Queue(("h100",), simulated.SimulatedPool([HEADER]))
        until_s = next(clock) + 1000.0
        with pytest.raises(TimeIsUp):
            Sweep(PLAN, "cpu", lambda _: journal, simulated.Told(), until_s=until_s).go(there)
        assert len({entry.visit for entry in journal.entries}) == len(visits(PLAN, "cpu"))


def test_a_device_that_was_refused_is_the_reason_however_late_it_is():
    def refuse(_header):
        raise JournalError("other code")

    with pytest.raises(JournalError, match="other code"):
        Sweep(PLAN, "cpu", refuse, simulated.Told(), until_s=0.0).go(
            simulated.SimulatedPool([HEADER])
        )


def test_lost_attempts_are_kept_beside_the_visit_that_was_made(tmp_path):
    journal, told = one_run(tmp_path, simulated.SimulatedPool(MANY, losses=0.4, seed=3))
    tried = [attempt for entry in journal.entries for attempt in entry.attempts]
    assert tried
    assert {attempt.reason for attempt in tried} == {"preempted"}
    assert sum("is lost: preempted" in note for note in told.notes) == len(tried)
    with Journal.open(journal.path) as read:
        assert read.entries == journal.entries


def test_a_case_that_takes_every_slot_with_it_is_a_crash_and_the_others_go_on(tmp_path):
    pool = simulated.SimulatedPool(MANY, poison=CASES[3])
    journal, _ = one_run(tmp_path, pool)
    outcomes = {record.case.id: record.outcome for record in merge.records(PLAN, journal)}
    crashed = outcomes.pop(CASES[3].id)
    assert isinstance(crashed, Crashed)
    assert "lost in each of 5 attempts" in crashed.reason
    assert all(isinstance(outcome, Ok) for outcome in outcomes.values())


def test_a_slot_that_was_set_aside_comes_back_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_ASIDE_S", 0.0)
    journal, told = one_run(tmp_path, simulated.SimulatedPool([HEADER] * 2, asides=3))
    assert sum("is set aside: 1 foreign process" in note for note in told.notes) == 3
    assert len(journal.entries) == len(visits(PLAN, "cpu"))
    assert not [entry for entry in journal.entries if entry.attempts], "no attempt was begun"


def test_each_kind_of_device_makes_the_whole_plan_in_a_run_of_its_own(tmp_path):
    a, b = simulated.on(HEADER, "nvidia-a-1g"), simulated.on(HEADER, "nvidia-b-1g")
    pool = simulated.SimulatedPool([a, b, b, a, b], losses=0.2, seed=2)
    opened, _ = swept(tmp_path, pool)
    assert set(opened) == {"nvidia-a-1g", "nvidia-b-1g"}
    wanted = {turn.visit for turn in visits(PLAN, "cpu")}
    for id_, journal in opened.items():
        assert {entry.visit for entry in journal.entries} == wanted
        assert journal.header.environment.hardware_id == id_
    words = {id_: {e.slot for e in journal.entries} for id_, journal in opened.items()}
    assert not words["nvidia-a-1g"] & words["nvidia-b-1g"], "a slot has one kind"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"commit": "1" * 40}, "commit was None, is 1111"),
        ({"variants": {"softmax": VariantSource(revision=9, source_sha256="1" * 64)}}, "variant"),
        ({"plan": replace(PLAN, protocol=replace(PLAN.protocol, sample_s=9.0))}, "sample_s"),
        ({"plan": replace(PLAN, cases=CASES[:1])}, "plan was tiny"),
    ],
)
def test_a_slot_with_other_code_plan_or_protocol_is_refused_by_name(tmp_path, change, named):
    pool = simulated.SimulatedPool([HEADER, replace(HEADER, **change), HEADER])
    journal, told = one_run(tmp_path, pool)
    (refusal,) = (note for note in told.notes if "cannot take part" in note)
    assert named in refusal
    assert "node0, gpu 1" not in {entry.slot for entry in journal.entries}
    assert len(journal.entries) == len(visits(PLAN, "cpu"))


def test_a_slot_of_another_environment_is_refused_by_name(tmp_path):
    other = replace(HEADER, environment=replace(HEADER.environment, driver="9.9", os="newer"))
    _, told = one_run(tmp_path, simulated.SimulatedPool([HEADER, other]))
    (refusal,) = (note for note in told.notes if "cannot take part" in note)
    assert "driver is 9.9, not None" in refusal
    assert "os is newer, not test" in refusal


def test_when_every_slot_is_gone_the_sweep_says_how_to_go_on(tmp_path):
    pool = simulated.SimulatedPool([HEADER] * 2, losses=1.0, returns=False)
    with pytest.raises(PoolError, match="--resume"):
        one_run(tmp_path, pool)


def test_when_no_slot_may_take_part_the_reasons_are_the_error(tmp_path):
    def refuse(header):
        raise JournalError("other code: commit is b, not a")

    with pytest.raises(JournalError, match="node0, gpu 0 cannot take part: other code"):
        Sweep(PLAN, "cpu", refuse, simulated.Told()).go(simulated.SimulatedPool([HEADER]))


def test_every_slot_measures_its_limits_again_and_the_journal_keeps_them(tmp_path):
    pool = simulated.SimulatedPool([HEADER] * 3)
    journal, _ = one_run(tmp_path, pool)
    assert len(pool.measured) == 3
    assert len(journal.arrivals) == 3
    with Journal.open(journal.path) as read:
        assert read.arrivals == journal.arrivals
        assert isinstance(read.arrivals[0], Arrival)


def test_progress_says_what_every_slot_does(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_SHOW_S", 0.0)
    _, told = one_run(tmp_path, simulated.SimulatedPool(MANY))
    nodes = {slot.node for doing in told.doing for slot in doing}
    assert nodes == {"node0", "node1"}
    assert any("softmax/reference" in words for doing in told.doing for words in doing.values())
    assert told.done[-1][1] == len(visits(PLAN, "cpu"))


class Training:
    """Slots that say how far a training is before they end it."""

    def __init__(self, slots):
        self._slots, self._events = slots, [Joined(slot=slot, header=HEADER) for slot in slots]

    def visit(self, slot, turn, checkpoints):
        self._events += [
            Trained(slot=slot, epoch=Epoch(number=3, epochs=9, loss=0.5, accuracy=0.25)),
            Made(slot=slot, outcome=simulated.ok(turn.case, 0), wall_s=1.0, measured_s=1.0,
                 foreign_load=None),
        ]  # fmt: skip

    def release(self, slot):
        pass

    def wait(self, timeout_s):
        return (self._events.pop(0),)

    def awaited(self):
        return ()

    def may_grow(self):
        return False


@pytest.mark.parametrize("count", [1, 2])
def test_progress_says_how_far_the_training_of_each_slot_is(tmp_path, monkeypatch, count):
    monkeypatch.setattr(sweep, "_SHOW_S", 0.0)
    slots = [Slot(node="n", device=f"gpu {number}") for number in range(count)]
    told = simulated.Told()
    told.trained = lambda epoch: told.notes.append(f"epoch {epoch.number}")
    with Journal.create(tmp_path / "j.jsonl", HEADER) as journal:
        Sweep(PLAN, "cpu", lambda _: journal, told, limits_again=False).go(Training(slots))
    said = {slot for doing in told.doing for slot in doing if "epoch 3/9" in doing[slot]}
    if count == 1:
        assert "epoch 3" in told.notes
    else:
        assert said == set(slots)
        assert told.notes == [], "whose epoch it is would be left open"


class Taken(Training):
    """Slots of an earlier driver; the first one still makes what that asked for."""

    def __init__(self, slots, making, *, lost):
        super().__init__(slots)
        self._events[0] = replace(self._events[0], making=making)
        self.asked, self._making, self._lost = [], making, lost

    def visit(self, slot, turn, checkpoints):
        self.asked.append(turn.visit)
        super().visit(slot, turn, checkpoints)
        if self._making is not None and len(self.asked) == 3:
            answer = Lost(slot=Slot(node="n", device="gpu 0"), reason="preempted")
            if not self._lost:
                answer = replace(self._events[-1], slot=answer.slot)
            self._events.append(answer)
            self._making = None

    def measure(self, slot):
        raise AssertionError(slot)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("wanted", [True, False])
def test_what_a_slot_makes_for_an_earlier_driver_is_not_made_again(tmp_path, lost, wanted):
    making = visits(PLAN, "cpu")[1].visit if wanted else Visit("of-another-plan", 0, 0)
    slots = [Slot(node="n", device=f"gpu {number}") for number in range(2)]
    pool = Taken(slots, making, lost=lost)
    with Journal.create(tmp_path / "j.jsonl", HEADER) as journal:
        Sweep(PLAN, "cpu", lambda _: journal, simulated.Told(), limits_again=False).go(pool)
    made = [entry.visit for entry in journal.entries]
    assert sorted(made, key=str) == sorted((t.visit for t in visits(PLAN, "cpu")), key=str)
    assert (making in pool.asked) == (wanted and lost), "asked for again only if it was lost"


def test_what_a_training_says_is_heard_beside_its_answer():
    spoken, heard = Spoken(), []

    def listen():
        while messages := spoken.heard(2):
            heard.extend(messages)

    listener = threading.Thread(target=listen)
    listener.start()
    for number in (1, 2):
        spoken.begin(number)
        spoken.say({"said": number})
        while number == 2 and not heard:
            time.sleep(0.001)
        spoken.say({"later": number})
        spoken.end()
    listener.join(10)
    assert not listener.is_alive()
    assert heard == [{"said": 2}, {"later": 2}]
    assert spoken.heard(1) == [], "a request that is over long since"


# devices ------------------------------------------------------------------------------------------


def test_cpus_are_shared_by_socket_and_none_is_used_twice():
    left, right = frozenset(range(8)), frozenset(range(8, 16))
    found = shared(range(16), [left, right, left, right])
    assert found == ((0, 1, 2, 3), (8, 9, 10, 11), (4, 5, 6, 7), (12, 13, 14, 15))
    assert shared(range(6), [None] * 4) == ((0,), (1,), (2,), (3,))
    assert shared(range(3), [None] * 4) == ((), (), (), ()), "too few: none is pinned"
    overlapping = shared(range(8), [frozenset(range(6)), frozenset(range(2, 8))])
    assert overlapping == ((0, 1, 2, 3), (4, 5, 6, 7))


def test_gpus_come_from_the_option_or_from_what_is_visible(monkeypatch):
    monkeypatch.setattr("bench.devices.usable", lambda: tuple(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    told = []
    found = devices("cuda", None, told.append)
    assert [(one.visible, one.cpus) for one in found] == [
        ("2", (0, 1, 2, 3)),
        ("GPU-abc", (4, 5, 6, 7)),
    ]
    assert [one.visible for one in devices("cuda", "0, 3", told.append)] == ["0", "3"]
    for wrong in ("0,0", "0,,1"):
        with pytest.raises(ValueError, match="different GPUs"):
            devices("cuda", wrong, told.append)
    assert told == []


def test_where_no_gpu_is_visible_that_is_said(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match="no GPU is visible"):
        devices("cuda", None, print)


def test_all_slots_import_torch_at_the_same_time(monkeypatch):
    """A plan is larger than what a pipe holds: whoever asks waits until the process reads."""
    done = []

    class Process:
        def __init__(self, slot, _variables, _cpus):
            self.slot = slot
            done.append("start")

        def ask(self, _request):
            done.append("ask")

        def fileno(self):
            return 0

        def close(self):
            done.append("close")

    monkeypatch.setattr(local, "SlotProcess", Process)
    monkeypatch.setattr(local.selectors, "DefaultSelector", mock.MagicMock)
    commission = Commission(plan=PLAN, device="cpu", threads=1, only=None)
    found = [Device(words=f"cpus {n}-{n}", visible=None, cpus=(n,)) for n in range(3)]
    with local.Several(commission, found, simulated.Told()):
        assert done == ["start"] * 3 + ["ask"] * 3
    assert done[6:] == ["close"] * 3


def test_where_nobody_can_say_which_gpus_there_are_that_is_said(monkeypatch):
    silent = mock.Mock(NVMLError=OSError)
    silent.nvmlInit.side_effect = OSError("Driver Not Loaded")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", silent)
    told = []
    assert [one.visible for one in devices("cuda", None, told.append)] == ["0"]
    (note,) = told
    assert "Driver Not Loaded" in note
    assert "--devices" in note
    assert gpu_health.complaint(2) is None


def test_gpus_that_train_together_make_one_slot(monkeypatch):
    monkeypatch.setattr("bench.devices.usable", lambda: tuple(range(8)))
    found = in_groups(devices("cuda", "0,1,2,3", print), 2)
    assert [(one.words, one.visible, one.cpus) for one in found] == [
        ("gpus 0+1", "0,1", (0, 1, 2, 3)),
        ("gpus 2+3", "2,3", (4, 5, 6, 7)),
    ]
    alone = devices("cuda", "0,1", print)
    assert in_groups(alone, 1) == alone
    with pytest.raises(ValueError, match="--together 3: 4 GPUs cannot be put into groups of 3"):
        in_groups(devices("cuda", "0,1,2,3", print), 3)


def test_fewer_cpus_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr("bench.load.own_cpus", lambda: 2)
    commission = Commission(plan=PLAN, device="cpu", threads=None, only=None, together=3)
    with pytest.raises(ValueError, match="--together 3: fewer CPUs than processes"):
        local.pool(commission, simulated.Told())


@pytest.mark.parametrize("wrong", ["0", "9", "x"])
def test_cpus_cannot_be_split_into_more_parts_than_there_are(monkeypatch, wrong):
    monkeypatch.setattr("bench.devices.usable", lambda: tuple(range(8)))
    assert [one.cpus for one in devices("cpu", "2", print)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    with pytest.raises(ValueError, match="how many parts the 8 CPUs"):
        devices("cpu", wrong, print)


class Nvml:
    """A driver that says what it is told to."""

    def __init__(self, processes=(), reasons=0):
        self.nvmlDeviceGetComputeRunningProcesses = lambda _: [
            mock.Mock(usedGpuMemory=held) for held in processes
        ]
        self.nvmlDeviceGetCurrentClocksThrottleReasons = lambda _: reasons


def test_foreign_processes_and_throttling_are_complaints_and_idleness_is_not():
    assert gpu_health.judged(Nvml(), None) is None
    assert gpu_health.judged(Nvml(reasons=0x1 | 0x4), None) is None, "idle, or at its power cap"
    found = gpu_health.judged(Nvml(processes=(3 << 20, None)), None)
    assert found == "2 foreign processes on it, holding 3 MiB"
    assert gpu_health.judged(Nvml(reasons=0x40), None) == "throttling: hardware thermal slowdown"


def test_each_gpu_that_trains_is_asked_how_it_is(monkeypatch):
    library = mock.Mock(
        NVMLError=OSError,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda _: [],
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda index: 0x40 * (index == 6),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert gpu_health.complaint(2) is None
    assert gpu_health.complaint(3) == "throttling: hardware thermal slowdown"


def test_a_slot_that_complains_makes_nothing():
    asked = []
    server = SlotServer(health=lambda n: asked.append(n) or "throttling: hardware power brake")
    server._device, server._protocol = "cuda", PLAN.protocol
    server._workers, server._visitor = mock.Mock(busy=False, together=4), mock.Mock()
    answer = server.answer({"kind": "visit"}, lambda _: None)
    assert answer == {"kind": "aside", "reason": "throttling: hardware power brake"}
    server._visitor.visit.assert_not_called()
    assert asked == [4], "every GPU of the slot is looked at"


def test_what_goes_wrong_in_a_slot_is_told_and_not_swallowed():
    answer = SlotServer().answer({"kind": "visit"}, lambda _: None)
    assert answer["kind"] == "failed"
    assert "once it is open" in answer["reason"]


def test_kinds_of_gpu_are_read_and_nonsense_is_refused():
    assert [(k.name, k.count) for k in kinds("h100:4, a100:8")] == [("h100", 4), ("a100", 8)]
    assert [(k.name, k.count) for k in kinds(None)] == [(None, None)]
    assert [(k.name, k.count) for k in kinds("h100:4, a100:8", 4)] == [("h100", 1), ("a100", 2)]
    with pytest.raises(ValueError, match="groups of 3"):
        kinds("h100:4", 3)
    for wrong in ("h100", "h100:0", "h100:x", ":3", "h100:1,h100:2"):
        with pytest.raises(ValueError, match="--gpus"):
            kinds(wrong)


# how long ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3, 8, 64])
def test_the_forecast_holds_on_a_simulated_cluster(tmp_path, slots):
    def seconds(turn):
        return 0.5 + len(turn.case.id) % 7 + turn.case.stimulus.tokens / 8

    variants = ("softmax", "linear_relu", "linformer", "cosformer", "performer")
    cases = tuple(tiny.case(v, n) for v in variants for n in (8, 16, 32, 64))
    plan = tiny.plan(*cases, protocol=replace(tiny.PROTOCOL, rounds=3))
    header = tiny.header(plan)
    pool = simulated.SimulatedPool([header] * slots, seconds=seconds)
    with Journal.create(tmp_path / "j.jsonl", header) as journal:
        Sweep(plan, "cpu", lambda _: journal, simulated.Told()).go(pool)
    bounds = forecast(plan, "cpu", slots, seconds)
    assert bounds.least_s - 1e-6 <= pool.clock <= bounds.most_s + 1e-6
    if slots == 1:
        assert pool.clock == pytest.approx(bounds.least_s) == pytest.approx(bounds.most_s)


def test_a_sweep_that_uses_half_its_slots_breaks_the_forecast(tmp_path):
    """Negative control."""
    pool = simulated.SimulatedPool([HEADER] * 2)
    with Journal.create(tmp_path / "j.jsonl", HEADER) as journal:
        Sweep(PLAN, "cpu", lambda _: journal, simulated.Told()).go(pool)
    assert pool.clock > forecast(PLAN, "cpu", 16, lambda _: 1.0).least_s


def test_ten_thousand_cases_are_scheduled_within_a_minute():
    made = tuple(
        tiny.case(v, tokens, options={"number": number})
        for number in range(500)
        for v in ("softmax", "linear_relu", "linformer", "cosformer", "performer")
        for tokens in (8, 16, 32, 64)
    )
    plan = tiny.plan(*made, protocol=replace(tiny.PROTOCOL, rounds=1))
    began = time.process_time()
    dispatch, done = Dispatch(plan, "cpu", {}), 0
    while (turn := dispatch.take()) is not None:
        dispatch.settle(turn, simulated.ok(turn.case, 0))
        done += 1
    assert done > 10_000
    assert time.process_time() - began < 60
