"""The Slurm executor on a real Slurm: whatever is killed, the records are those of a quiet run."""

import json

import pytest
from executors import slurm_cluster
from executors.slurm_cluster import SlurmCluster
from executors.slurm_runs import Runs, quick_interpreter

from bench.devices import usable
from bench.model import to_json
from bench.submission import read_results

pytestmark = [
    pytest.mark.skipif(
        slurm_cluster.missing() is not None, reason=slurm_cluster.missing() or "Slurm can run here"
    ),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """An undisturbed run on this machine."""
    runs = Runs(tmp_path_factory.mktemp("quiet"))
    runs.drive("local").end()
    return runs


@pytest.fixture
def runs(cluster, quiet, tmp_path):
    """A folder for runs on the cluster; their tasks know the machine from the quiet run."""
    (stored,), _ = read_results(quiet.folder / "results")
    machine = tmp_path / "machine.json"
    ceilings = [to_json(ceiling) for ceiling in stored.run.ceilings]
    environment = to_json(stored.run.environment)
    machine.write_text(json.dumps({"environment": environment, "ceilings": ceilings}))
    yield Runs(tmp_path / "runs", {**cluster.variables, "ATTNBENCH_TEST_MACHINE": str(machine)})
    cluster.settle()


def options(tmp_path, tasks: str) -> dict[str, str]:
    return {
        "tasks": tasks,
        "sbatch": "--gres=gpu:1",
        "venv": str(quick_interpreter(tmp_path / "venv")),
        "poll": "0.5",
    }


def test_cancelled_task_lost_node_and_killed_driver_leave_no_trace(cluster, quiet, runs, tmp_path):
    """Two kinds of hardware: one task cancelled, one node down, then the driver killed."""
    given = options(tmp_path, "red:2,blue:1")
    driver = runs.drive("slurm", given)
    driver.wait_until(lambda: len(cluster.running()) == 3, "three tasks run")
    red = next(key for key, node in cluster.running().items() if node != "n3")
    driver.finished(3)
    cluster.call("scancel", red)
    driver.wait_until(lambda: driver.said(f"note task {red} was cancelled"), "cancelled")
    cluster.call("scontrol", "update", "nodename=n3", "state=down", "reason=test")
    driver.wait_until(
        lambda: any("n3" in said and "is lost" in said for said in driver.said("note")), "lost"
    )
    cluster.hurry()
    driver.kill()
    again = runs.drive("slurm", given, resume=True)
    again.wait_until(lambda: again.said("note found"), "the array is found")
    again.wait_until(lambda: cluster.hurry() or again.process.poll() == 0, "the end")
    again.end()
    (expected,) = quiet.exact().values()
    found = runs.exact()
    assert len(found) == 2
    assert all(one == expected for one in found.values())
    assert runs.visits_twice_or_missing() == []
    assert cluster.jobs() == []


@pytest.mark.skipif(len(usable()) < 2, reason="two processes that train need a CPU each")
def test_two_processes_of_a_task_train_together_and_a_requeued_pair_goes_on(cluster, tmp_path):
    """The records are those of two processes without Slurm; the task is the real one."""
    quiet = Runs(tmp_path / "quiet", together=2)
    quiet.drive("local").end()
    runs = Runs(tmp_path / "runs", dict(cluster.variables), together=2)
    driver = runs.drive("slurm", {"tasks": "red:1", "sbatch": "--gres=gpu:2", "poll": "0.5"})
    driver.wait_until(lambda: driver.said("epoch 2"), "the second epoch")
    (task,) = cluster.running()
    cluster.call("scontrol", "requeue", task)
    driver.wait_until(lambda: cluster.hurry() or driver.process.poll() == 0, "the end")
    driver.end()
    assert any("is made again" in said for said in driver.said("note")), driver.log.read_text()
    found = runs.exact()
    assert found == quiet.exact()
    (id_,) = found
    assert id_.endswith("-x2")
    cluster.settle()
