"""A real Ray of several nodes on this machine: killed at random, the records of a local run."""

import importlib.util
import platform
import random
import re
import sys
import time

import psutil
import pytest
import tiny
from chaos import Nodes, compared, disturbed, undisturbed
from driven import TRAININGS, attempts, each_visit_once, exact, journals, start
from overhead import actor, plan_of, swept
from simulated import SimulatedPool, Told

from bench.devices import usable
from bench.executor import Commission, PoolError, executor

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(platform.system() != "Linux", reason="raylets are started on Linux only"),
    pytest.mark.skipif(
        psutil.virtual_memory().available < 3 << 30, reason="three nodes need 3 GiB of memory"
    ),
]


@pytest.fixture(scope="module")
def nodes():
    with Nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "run")


def test_worker_node_and_driver_are_killed_and_the_records_are_the_same(nodes, expected, tmp_path):
    for _ in range(2):
        nodes.add(fake=1)
    run = disturbed(tmp_path / "run", nodes, random.Random(4), ["worker", "driver", "node"], 20.0)
    compared(tmp_path / "run", expected)
    assert run.killed, "nothing was disturbed"
    assert run.during_a_visit, "no visit was disturbed"
    for name in list(nodes.names):
        nodes.end(name)


@pytest.mark.skipif(len(usable()) < 2, reason="two kinds differ by their CPUs, here is one")
def test_two_kinds_make_a_run_each_and_do_not_mix(nodes, expected, tmp_path):
    """One node has a GPU and all CPUs, the other two GPUs with a share of the CPUs each."""
    nodes.add(gpus=1, h100=1)
    nodes.add(gpus=2, a100=2)
    wish = start(tmp_path / "run", "ray", resume=False, address=nodes.address, gpus="h100:1,a100:2")
    assert wish.wait(600) == 0, (tmp_path / "run" / "said.txt").read_text()
    ((alone, records),) = expected.items()
    found = exact(tmp_path / "run")
    assert len(found) == 2, "a run folder a hardware id"
    assert alone in found
    for kind in found.values():
        assert kind == records
    for journal in journals(tmp_path / "run"):
        each_visit_once(journal)
        assert attempts(journal) == []
    said = (tmp_path / "run" / "said.txt").read_text()
    far = r"slots .*\w+ \w{6}, gpu \d: softmax/reference: digits, seed 0: epoch \d+/10, loss"
    assert re.search(far, said), "how far the training is, by node and GPU"


@pytest.mark.skipif(len(usable()) < 2, reason="two processes that train need a CPU each")
def test_two_gpus_of_one_node_train_together_and_a_killed_pair_goes_on(nodes, tmp_path):
    """Two nodes of one GPU each cannot; the records are those of two processes without Ray."""
    alone = start(tmp_path / "local", "local", resume=False, together="2")
    assert alone.wait(400) == 0, (tmp_path / "local" / "said.txt").read_text()
    for _ in range(2):
        nodes.add(gpus=1, pair=1)
    nodes.add(gpus=2, pair=2)
    run = tmp_path / "ray"
    wish = start(run, "ray", resume=False, address=nodes.address, gpus="pair:2", together="2")
    said, killed = run / "said.txt", False
    deadline = time.monotonic() + 400
    while wish.poll() is None and time.monotonic() < deadline:
        if not killed and "\nepoch 2\n" in said.read_text():
            pairs = [one for one in nodes.processes() if "bench.together_process" in one.cmdline()]
            assert len(pairs) == 2
            (server,) = nodes.at_work()
            server.kill()
            killed = True
        time.sleep(0.2)
    assert wish.wait(10) == 0, said.read_text()
    assert killed, said.read_text()
    (journal,) = journals(run)
    each_visit_once(journal, TRAININGS)
    assert len(attempts(journal)) == 1
    (id_,) = exact(run)
    assert id_.endswith("-x2")
    assert exact(run) == exact(tmp_path / "local")


def test_a_difference_would_be_noticed(expected, tmp_path):
    """Negative control: one changed metric, one lost visit, one made twice."""
    ((alone, records),) = expected.items()
    case = next(iter(records))
    metrics, *rest = records[case]
    spoiled = {alone: {**records, case: ({**metrics, "flops": ((1.0,),)}, *rest)}}
    assert spoiled != expected
    journal = tmp_path / "j.jsonl"
    line = '{"case_id":"a","round":0,"repetition":0}'
    journal.write_text(f"header\n{line}\n{line}\n")
    with pytest.raises(AssertionError):
        each_visit_once(journal)


def test_an_actor_costs_a_visit_less_than_100_ms():
    plan = plan_of(80)
    with actor(plan) as pool:
        seconds, visits = swept(plan, pool)
    assert seconds / visits < 0.1


def test_ten_thousand_cases_are_scheduled_and_journalled_on_64_slots_within_a_minute():
    """CPU time: what others do on this machine is not the sweep's fault."""
    plan = plan_of(10_000)
    began = time.process_time()
    _, visits = swept(plan, SimulatedPool([tiny.header(plan)] * 64))
    assert visits > 10_000
    assert time.process_time() - began < 60


def test_an_address_where_nothing_listens_is_said(tmp_path):
    began = time.monotonic()
    wish = start(tmp_path / "run", "ray", resume=False, address="127.0.0.1:1")
    assert wish.wait(120) == 1
    assert "no Ray cluster at 127.0.0.1:1" in (tmp_path / "run" / "said.txt").read_text()
    assert time.monotonic() - began < 110


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    commission = Commission(plan=plan_of(8), device="cpu", threads=1, only=None)
    with pytest.raises(PoolError, match=r"pip install 'attnbench\[ray\]'"):
        executor("ray").pool(commission, Told())


def test_nothing_of_the_cluster_outlives_it():
    """Negative control of the fixture: its processes are found, and gone afterwards."""
    with Nodes() as cluster:
        family = psutil.Process(cluster.pid).children(recursive=True)
        assert any("raylet" in " ".join(process.cmdline()) for process in family)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
