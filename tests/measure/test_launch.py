"""Processes that serve several visits, as on CUDA; questions about the machine; stages."""

import time

import pytest
import tiny

from bench.launch import LaunchError, Workers, measure_machine
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
