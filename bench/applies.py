"""Which cases a metric belongs to: the predicates that several metrics share."""

from bench.model import Case, DeviceKind, Timed, Workload


def workload(case: Case, _device: DeviceKind) -> bool:
    """Every case with one timed call."""
    return isinstance(case.stimulus, Timed)


def layer_workload(case: Case, _device: DeviceKind) -> bool:
    """Timed calls of a layer or its core."""
    return isinstance(case.stimulus, Workload)


def workload_on_cpu(case: Case, device: DeviceKind) -> bool:
    """The same on a CPU."""
    return device == "cpu" and workload(case, device)


def workload_on_cuda(case: Case, device: DeviceKind) -> bool:
    """The same on a GPU."""
    return device == "cuda" and workload(case, device)


def backward(case: Case, _device: DeviceKind) -> bool:
    """Timed calls with a backward pass."""
    return isinstance(case.stimulus, Timed) and case.stimulus.passes == "forward_backward"


def frontier(case: Case, _device: DeviceKind) -> bool:
    """Searches for the largest size."""
    return case.stimulus.kind == "frontier"


def task(case: Case, _device: DeviceKind) -> bool:
    """Accuracy tasks."""
    return case.stimulus.kind == "task"


def workload_or_task(case: Case, device: DeviceKind) -> bool:
    """Whatever has a module with parameters of a fixed number."""
    return workload(case, device) or task(case, device)
