"""Processes that serve several visits, as on CUDA; questions about the machine; stages."""

import time
from dataclasses import replace

import pytest
import tiny
import torch

from bench import launch, worker
from bench.launch import LaunchError, Workers, measure_machine
from bench.metric import metrics
from bench.model import Crashed, Ok


@pytest.fixture
def persistent(monkeypatch):
    """Workers that keep processes as on CUDA, while what they run is on CPU."""
    common = Workers._common
    monkeypatch.setattr(Workers, "_common", lambda self: {**common(self), "device": "cpu"})
    with Workers("cuda", 1) as workers:
        yield workers


@pytest.mark.usefixtures("faulty")
def test_a_process_serves_its_group_until_an_ending_but_ok(persistent):
    def visit(variant):
        return persistent.visit(tiny.case(variant), 1, tiny.PROTOCOL, "group").outcome

    assert isinstance(visit("fine"), Ok)
    first = persistent._living["group"].pid
    assert isinstance(visit("babbles"), Ok)
    assert persistent._living["group"].pid == first
    assert isinstance(visit("raises"), Crashed)
    assert "group" not in persistent._living
    assert isinstance(visit("fine"), Ok)
    assert persistent._living["group"].pid != first
    persistent.dismiss("group")
    assert "group" not in persistent._living


@pytest.mark.usefixtures("faulty")
def test_a_process_that_a_visit_left_unusable_serves_no_other(persistent, monkeypatch):
    honest = launch._visited
    said = [False, True]
    monkeypatch.setattr(
        launch, "_visited", lambda *about: replace(honest(*about), reusable=said.pop(0))
    )
    outcomes = []
    for kept in (False, True):
        outcomes.append(persistent.visit(tiny.case("fine"), 1, tiny.PROTOCOL, "group").outcome)
        assert ("group" in persistent._living) == kept
    assert all(isinstance(outcome, Ok) for outcome in outcomes)


def test_a_spoilt_allocator_or_a_faulted_kernel_is_noticed(monkeypatch):
    """What torch says after a failed capture, and after an illegal access."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert worker.tidied()

    def refuse():
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    for call in ("empty_cache", "synchronize"):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, call, refuse)
            assert not worker.tidied()
    assert worker.tidied()


def test_graphs_are_captured_after_everything_that_asks_for_memory():
    order = [
        m.name for policy in ("default", "keeping") for m in metrics() if m.allocator == policy
    ]
    memory = {"peak_memory", "saved_memory", "predicted_memory", "gradient_error", "error"}
    assert memory <= set(order[: order.index("latency_graph")])


def test_a_machine_is_measured_in_a_process_of_its_own():
    environment, ceilings = measure_machine("cpu", 1)
    assert environment.device == "cpu"
    assert environment.threads == 1
    assert environment.settings["omp_num_threads"] == "1"
    assert {c.name for c in ceilings} >= {"matmul_float32", "copy_bandwidth", "call_overhead"}


def test_a_machine_that_cannot_be_measured_says_why(monkeypatch):
    monkeypatch.setattr("bench.launch._MACHINE_S", 0.0)
    monkeypatch.setattr("bench.launch.START_S", 0.05)
    with pytest.raises(LaunchError, match="could not be measured"):
        measure_machine("cpu", 1)


def test_workers_exist_only_inside_their_context():
    with pytest.raises(LaunchError, match="with Workers"):
        Workers("cpu", 1).visit(tiny.case(), 0, tiny.PROTOCOL, "group")


def test_the_stages_of_a_visit_add_up(workers):
    start = time.perf_counter()
    visited = workers.visit(tiny.case(), 1, tiny.PROTOCOL, "group")
    wall_s = time.perf_counter() - start
    assert {"build", "gate", "latency", "latency_cold", "confirm"} <= set(visited.spent)
    assert 0 < sum(visited.spent.values()) <= wall_s
    assert 0 < visited.measured_s < wall_s
