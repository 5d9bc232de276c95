"""The Ray executor without Ray: which actors are started, and when no more are."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import tiny

from bench.executor import Commission, Joined, PoolError, Said
from bench.executors import ray as executor
from bench.executors.ray import RayPool
from bench.model import to_json
from bench.ray.options import kinds

PLAN = tiny.plan(tiny.case())
HEADER = tiny.header(PLAN)


class RayError(Exception):
    """What Ray says of an actor that died."""


@dataclass(eq=False)
class Call:
    """A call of an actor on this GPU; without one it waits for its place."""

    gpu: int | None


class Ray:
    """A cluster of one node, some of whose GPUs kill whoever opens them."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, gpus, broken):
        self.gpus, self.broken = set(range(gpus)), broken
        self.started, self.ended = 0, False
        self.resources = {"GPU": gpus, "h100": gpus}

    def nodes(self):
        return [{"NodeID": "n", "Alive": True, "Resources": self.resources}]

    def put(self, value):
        return value

    def remote(self, **_groups):
        def options(**_wishes):
            return SimpleNamespace(remote=self.start)

        return lambda _served: SimpleNamespace(options=options)

    def start(self):
        self.started += 1
        gpu = min(self.gpus, default=None)
        self.gpus.discard(gpu)

        def opened(_request):
            return Call(gpu)

        return SimpleNamespace(gpu=gpu, open=SimpleNamespace(remote=opened))

    def opened(self, gpu):
        if gpu in self.broken:
            raise RayError("The actor died.\nMore words.")
        joined = {"kind": "joined", "header": to_json(HEADER)}
        return {"node": "n", "device": f"gpu {gpu}", "pid": 1, "answer": joined}

    def wait(self, calls, num_returns, timeout):
        return [call for call in calls if call.gpu is not None], []

    def get(self, call):
        return self.opened(call.gpu)

    def kill(self, handle):
        if handle.gpu is not None:
            self.gpus.add(handle.gpu)

    def shutdown(self):
        self.ended = True


def pool_of(ray, gpus=None):
    commission = Commission(plan=PLAN, device="cuda", threads=1, only=None)
    return RayPool(ray, commission, kinds(gpus))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(executor, "_LOOK_AGAIN_S", -1.0)
    monkeypatch.setattr(executor, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=print))


def test_a_broken_gpu_ends_no_run_that_has_others():
    ray, events = Ray(2, broken={1}), []
    with pool_of(ray) as pool:
        for _ in range(40):
            events += pool.wait(0.0)
        assert not pool.may_grow()
    assert [e.slot.device for e in events if isinstance(e, Joined)] == ["gpu 0"]
    said = [e.text for e in events if isinstance(e, Said)]
    assert said[0] == "an actor died before it joined: RayError: The actor died."
    assert said[-1] == "20 actors in a row died before they joined; no more are started"
    assert ray.started == 21, "started again without end"
    assert ray.ended


def test_where_every_gpu_is_broken_the_run_ends():
    with pool_of(Ray(1, broken={0})) as pool:
        for _ in range(19):
            pool.wait(0.0)
        with pytest.raises(PoolError, match="20 actors in a row"):
            pool.wait(0.0)


def test_a_kind_that_was_given_up_is_not_waited_for():
    ray = Ray(1, broken=set())
    ray.resources["a100"] = 0
    with pool_of(ray, "h100:1,a100:1") as pool:
        pool.wait(0.0)
        assert pool.awaited() == ("a100",)
        (waiting,) = (actor for actor in pool._actors if actor.slot is None)
        pool._failures = executor._MOST_FAILURES - 1
        pool._bury(waiting, "no such GPU")
        assert pool.awaited() == ()
        assert not pool.may_grow()


def test_ray_is_ended_where_its_nodes_cannot_be_seen():
    ray = Ray(1, broken=set())

    def refuse():
        raise RayError("the head is gone")

    ray.nodes = refuse
    with pytest.raises(RayError):
        pool_of(ray).__enter__()
    assert ray.ended


def test_a_cluster_without_gpus_is_refused():
    ray = Ray(0, broken=set())
    with pytest.raises(PoolError, match="no node of the Ray cluster has a GPU"):
        pool_of(ray).__enter__()
    assert ray.ended
