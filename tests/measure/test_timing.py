"""The clock sees what is put in front of it: on CPU for real, on CUDA through fakes."""

import time
from contextlib import nullcontext
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import tiny
import torch

from bench import timing, timing_cuda
from bench.memory import NotMeasurable
from bench.metric import metric
from bench.nvml import Reading, Sensor
from bench.timing import is_stable, time_calls

SLEEP_S = 0.004


class Call:
    """Something to time that records the input sets it was given; `spend` is what takes long."""

    sets = 3

    def __init__(self, spend=lambda: None):
        self.spend = spend
        self.indices = []

    def __call__(self, index):
        self.indices.append(index)
        self.spend()
        return (torch.tensor(float(index % self.sets)),)

    def mode(self):
        return nullcontext()


def sleeper(seconds):
    return Call(lambda: time.sleep(seconds))


@pytest.fixture
def lasting(monkeypatch):
    """Calls of exactly known lengths: the clock stands still but for them, whatever the load."""
    now_ns = 0

    def lasting(*lengths_s):
        """The calls last so long one after the other, the later ones as long as the last."""
        rest = list(lengths_s)

        def spend():
            nonlocal now_ns
            now_ns += round(1e9 * (rest.pop(0) if len(rest) > 1 else rest[0]))

        return Call(spend)

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter_ns=lambda: now_ns))
    return lasting


@pytest.mark.parametrize("seconds", [SLEEP_S, 2 * SLEEP_S])
def test_the_timer_sees_a_known_sleep(seconds):
    found = time_calls(sleeper(seconds), tiny.PROTOCOL)
    assert min(found.seconds) >= seconds
    assert min(found.seconds) < 1.9 * seconds


def test_the_timer_does_not_see_a_sleep_that_is_not_there():
    found = time_calls(Call(), tiny.PROTOCOL)
    assert min(found.seconds) < SLEEP_S / 10


@pytest.mark.parametrize("seconds", [2e-6, 1e-4, 0.02])
def test_samples_are_the_length_of_one_call(lasting, seconds):
    found = time_calls(lasting(seconds), tiny.PROTOCOL)
    assert found.seconds == pytest.approx([seconds] * len(found.seconds))
    assert found.spent_s == pytest.approx(seconds * found.calls)


def test_short_calls_are_timed_in_blocks_and_long_ones_alone(lasting):
    protocol = replace(tiny.PROTOCOL, sample_s=0.05, most_samples=5)
    short, long = time_calls(lasting(1e-5), protocol), time_calls(lasting(0.02), protocol)
    assert (short.calls, len(short.seconds)) == (5000, 5)
    assert long.calls == len(long.seconds)
    assert short.spent_s == pytest.approx(protocol.sample_s)


def test_warm_up_goes_on_until_calls_are_steady_and_is_no_sample(lasting):
    protocol = replace(tiny.PROTOCOL, warmup_s=0.01, warmup_cap_s=10.0)
    steady = time_calls(lasting(0.01), protocol)
    falling = time_calls(lasting(*(0.1 / step for step in range(1, 9)), 0.01), protocol)
    assert steady.warmup_calls == 10, "two windows of five"
    assert falling.warmup_calls > steady.warmup_calls
    assert max(falling.seconds) == pytest.approx(0.01)
    capped = time_calls(lasting(*(0.1 / step for step in range(1, 9)), 0.01),
                        replace(protocol, warmup_cap_s=0.15))  # fmt: skip
    assert capped.warmup_calls == 3, "the least, though 0.1 + 0.05 s reach the cap before"


def test_samples_keep_to_the_protocol(lasting):
    found = time_calls(lasting(0.02), replace(tiny.PROTOCOL, sample_cap_s=0.05))
    assert len(found.seconds) == 3
    assert found.warmup_calls >= 3
    assert len(time_calls(lasting(1e-6), tiny.PROTOCOL).seconds) <= tiny.PROTOCOL.most_samples


@pytest.mark.parametrize("seconds", [1e-6, SLEEP_S])
def test_inputs_rotate_and_the_kept_result_is_of_the_first_set(lasting, seconds):
    call = lasting(seconds)
    found = time_calls(call, tiny.PROTOCOL)
    assert {index % call.sets for index in call.indices} == {0, 1, 2}
    assert float(found.kept[0]) == 0


def test_stability_is_about_the_last_two_windows():
    assert is_stable([9.0] * 5 + [1.0] * 5 + [1.005] * 5)
    assert not is_stable([1.0] * 5 + [1.1] * 5)
    assert not is_stable([1.0] * 9)


class FakeDevice:
    """A GPU whose queue takes a known time for each call, and a clock that runs with it."""

    def __init__(self, monkeypatch, call_s):
        self.call_s = call_s
        self.device_s = 0.0
        self.synchronised = 0
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing
                self.at = None

            def record(self):
                self.at = device.device_s

            def elapsed_time(self, other):
                return (other.at - self.at) * 1e3

        def synchronize():
            device.synchronised += 1

        def sleep(cycles):
            assert cycles > 0
            device.device_s += 1.0

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        monkeypatch.setattr(torch.cuda, "_sleep", sleep)

    sets = 3

    def __call__(self, index):
        self.device_s += self.call_s
        time.sleep(1e-4)
        return (torch.tensor(float(index % 3)),)

    def mode(self):
        return nullcontext()


class FakeLibrary:
    """NVML with a counter of millijoules and fixed readings."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.millijoules = 0

    def _energy(self, _handle):
        self.millijoules += 5000
        return self.millijoules

    def _missing(self, *_arguments):
        raise self.NVMLError

    def __getattr__(self, name):
        known = {
            "nvmlDeviceGetTotalEnergyConsumption": self._energy,
            "nvmlDeviceGetClockInfo": lambda _handle, _kind: 1500,
            "nvmlDeviceGetPowerUsage": lambda _handle: 250_000,
            "nvmlDeviceGetTemperature": lambda _handle, _kind: 61,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _handle: 0x4,
        }
        return known[name]


class LibraryOfTheBlind(FakeLibrary):
    """NVML of a GPU that has no sensor."""

    def __getattr__(self, name):
        return self._missing


def device_timed(monkeypatch, call_s, sensor):
    device = FakeDevice(monkeypatch, call_s)
    return timing_cuda.time_on_device(device, tiny.PROTOCOL, sensor), device


def test_device_time_is_the_events_and_not_the_sleeping_kernel(monkeypatch):
    found, device = device_timed(monkeypatch, 3e-3, "no sensor")
    assert found.burst_s == pytest.approx([3e-3] * len(found.burst_s))
    assert found.sustained_s == pytest.approx([3e-3] * len(found.sustained_s))
    assert tiny.PROTOCOL.least_samples <= len(found.burst_s) <= tiny.PROTOCOL.most_samples
    assert device.synchronised < device.device_s / 3e-3, "fewer synchronisations than calls"
    assert float(found.kept[0]) == 0


def test_host_time_is_the_waiting_program_s(monkeypatch):
    found, _ = device_timed(monkeypatch, 3e-3, "no sensor")
    assert min(found.host_s) >= 1e-4
    assert min(found.host_s) < 3e-3, "the fake queue takes no host time"


@pytest.mark.parametrize(("call_s", "bound"), [(3e-3, 0.0), (1e-6, 1.0)])
def test_a_call_that_is_issued_more_slowly_than_it_runs_is_launch_bound(monkeypatch, call_s, bound):
    found, device = device_timed(monkeypatch, call_s, "no sensor")
    assert min(found.issued_s) >= 1e-4, "the fake call keeps the host busy so long"
    subject = SimpleNamespace(call=device, once=lambda _name, _make: found)
    measured = metric("launch_bound").measure(subject, tiny.PROTOCOL)
    assert set(measured.rounds[0]) == {bound}


class FakeGraphs:
    """CUDA graphs that note the calls between the begin and the end of a capture."""

    def __init__(self, monkeypatch, device, refuses=""):
        graphs = self
        self.captured = []

        class Graph:
            def __init__(self):
                self.calls = 0

            def replay(self):
                device.device_s += self.calls * device.call_s

        class Capture:
            def __init__(self, graph):
                self.graph = graph

            def __enter__(self):
                self.before = device.device_s

            def __exit__(self, *_failure):
                if refuses:
                    raise RuntimeError(refuses)
                self.graph.calls = round((device.device_s - self.before) / device.call_s)
                device.device_s = self.before
                graphs.captured.append(self.graph.calls)

        stream = SimpleNamespace(wait_stream=lambda _other: None)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capture)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())


def test_a_graph_holds_a_call_on_each_input_set_and_is_timed_without_them(monkeypatch):
    device = FakeDevice(monkeypatch, 2e-3)
    graphs = FakeGraphs(monkeypatch, device)
    seconds = timing_cuda.time_graph(device, tiny.PROTOCOL)
    assert graphs.captured == [device.sets]
    assert seconds == pytest.approx([2e-3] * len(seconds))
    assert tiny.PROTOCOL.least_samples <= len(seconds) <= tiny.PROTOCOL.most_samples


def test_what_cannot_be_captured_says_so_and_has_no_number(monkeypatch):
    device = FakeDevice(monkeypatch, 2e-3)
    FakeGraphs(
        monkeypatch, device, refuses="operation not permitted when stream is capturing\nmore"
    )
    with pytest.raises(
        NotMeasurable, match="CUDA graph: operation not permitted when stream is ca"
    ):
        timing_cuda.time_graph(device, tiny.PROTOCOL)


def test_the_reason_is_what_broke_the_capture_and_not_what_ended_it(monkeypatch):
    class Waits(FakeDevice):
        def __call__(self, index):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > timing_cuda._LEAST_WARMUP_CALLS:
                raise RuntimeError("operation not permitted when stream is capturing")
            return super().__call__(index)

    device = Waits(monkeypatch, 2e-3)
    FakeGraphs(monkeypatch, device, refuses="operation failed due to a previous error")
    with pytest.raises(NotMeasurable, match="graph: operation not permitted"):
        timing_cuda.time_graph(device, tiny.PROTOCOL)


def test_sensors_are_read_beside_the_sustained_run(monkeypatch):
    found, _ = device_timed(monkeypatch, 3e-3, Sensor(FakeLibrary(), object()))
    assert set(found.readings) == {
        Reading(clock_hz=1.5e9, power_w=250.0, temperature_c=61.0, throttled=True)
    }
    assert found.energy_j is not None
    assert found.energy_j > 0
    assert found.no_sensor is None


def test_readings_of_a_round_are_as_few_as_the_protocol_keeps(monkeypatch):
    monkeypatch.setattr(timing_cuda, "_SUSTAINED_BLOCK_S", 1e-6)
    few = replace(tiny.PROTOCOL, most_samples=10, sample_cap_s=0.05)
    found = timing_cuda.time_on_device(
        FakeDevice(monkeypatch, 3e-3), few, Sensor(FakeLibrary(), object())
    )
    assert 1 <= len(found.readings) <= few.most_samples, "blocks shorter than planned are many"


SENSED = {"clock": 1.5e9, "power": 250.0, "temperature": 61.0, "throttled": 1.0}


@pytest.mark.parametrize("name", SENSED)
def test_every_reading_is_a_metric(monkeypatch, name):
    def measured(library):
        found, _ = device_timed(monkeypatch, 3e-3, Sensor(library, object()))
        subject = SimpleNamespace(call=None, once=lambda _name, _make: found)
        return metric(name).measure(subject, tiny.PROTOCOL)

    seen = measured(FakeLibrary())
    assert set(seen.rounds[0]) == {SENSED[name]}
    blind = measured(LibraryOfTheBlind())
    assert blind.reasons == ("this GPU does not show it",)
    assert len(fields(Reading)) == len(SENSED), "nothing is read that is not reported"


def test_without_a_sensor_there_is_a_reason_and_no_number(monkeypatch):
    found, _ = device_timed(monkeypatch, 3e-3, "NVML cannot be used")
    assert found.energy_j is None
    assert found.readings == ()
    assert found.no_sensor == "NVML cannot be used"


def test_a_machine_without_driver_says_why_there_is_no_sensor():
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    assert isinstance(Sensor.of_current_device(), str)
