"""The examples of CONTRIBUTING.md are run as a contributor would run them."""

import json
from pathlib import Path
from typing import Any

import pytest
from copied_tree import copied, examples, run_in

CONTRACT = """
import json
from attention_impls import load
from contract.checks import failing
print(json.dumps(failing(load('content_lambda'))))
"""

AROUND = """
import json
from attention_impls import load
from bench.learning import learn
from bench.model import Protocol, to_json
from bench.cases import image, workload_case
from bench.plan import everything, load_plan
from bench.task import Assignment, task
from bench.visit import visit

plan = load_plan('lengths', everything('cpu'))
quick = Protocol(warmup_s=0.001, warmup_cap_s=0.01, sample_s=0.001, least_samples=3)

def outcome(backend, passes):
    case = workload_case('content_lambda', backend, image(224), dtype='float32', passes=passes)
    return to_json(visit(case, 0, quick, 'cpu').outcome)

from bench.executors import local, patient

loads, told, ran = [2.0, 0.9, 0.0], [], []
patient.foreign_load = lambda seconds: loads.pop(0)
patient.time.sleep = lambda seconds: None
local.pool = lambda *given: ran.append(given)

class Told:
    def note(self, text):
        told.append(text)

patient.EXECUTOR.pool('commission', Told())

from dataclasses import replace
from bench.analysis import Study, analysis

asked = analysis('self_weight')
numbers = asked.run(Study(variants=('softmax',), note=lambda text: None)).quantities

def concluded(factor):
    changed = [replace(q, value=factor * q.value) if q.name == 'weight of the own token' else q
               for q in numbers]
    said = asked.conclude(changed)
    return [said.finding, said.agrees]

print(json.dumps({
    'analysis': [[q.value for q in numbers], concluded(1.0), concluded(0.01)],
    'waits': [told, len(ran), loads],
    'forward': {b: outcome(b, 'forward') for b in ('reference', 'inplace')},
    'training': {b: outcome(b, 'forward_backward') for b in ('reference', 'inplace')},
    'accuracy': learn(
        task('brighter_half'), Assignment(spec=load('content_lambda'), seed=0, device='cpu')
    ).result.accuracy,
    'cases': len({c.id for c in plan.cases if c.variant == 'content_lambda'}),
}))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree with every example in its place and the variant's vector written."""
    target = copied(tmp_path_factory.mktemp("examples"))
    for path, code in examples().items():
        (target / path).write_text(code, encoding="utf-8")
    done = run_in(target, "-m", "bench.vector", "content_lambda")
    assert done.returncode == 0, done.stderr
    assert (target / "tests" / "vectors" / "content_lambda.json").is_file()
    return target


@pytest.fixture(scope="module")
def around(tree: Path) -> Any:
    done = run_in(tree, "-c", AROUND)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def failures(tree: Path) -> dict[str, str]:
    done = run_in(tree, "-c", CONTRACT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_kind_has_an_example() -> None:
    assert set(examples()) == {
        "attention_impls/variants/content_lambda.py",
        "attention_impls/backends/content_lambda_inplace.py",
        "attention_impls/backbones/vit_fine.py",
        "bench/metrics/input_memory.py",
        "bench/tasks/brighter_half.py",
        "bench/analyses/self_weight.py",
        "bench/plans/lengths.py",
        "bench/executors/patient.py",
        "site/leaderboard/pages/plans.py",
    }


def test_the_variant_passes_the_whole_contract(tree: Path) -> None:
    assert failures(tree) == {}


def test_a_slip_in_the_example_would_be_found(tree: Path) -> None:
    """Negative control: half the FLOPs, and the counters disagree."""
    path = tree / "attention_impls" / "variants" / "content_lambda.py"
    right = path.read_text(encoding="utf-8")
    path.write_text(right.replace("return 4 * shape.batch", "return 2 * shape.batch"), "utf-8")
    try:
        assert "flops_equal_both_counters" in failures(tree)
    finally:
        path.write_text(right, encoding="utf-8")


def measurements(outcome: Any) -> dict[str, Any]:
    assert outcome["kind"] == "ok", outcome
    return {m["metric"]: m for m in outcome["measurements"]}


@pytest.mark.parametrize("backend", ["reference", "inplace"])
def test_both_executions_pass_the_gate_and_are_timed(around: Any, backend: str) -> None:
    found = measurements(around["forward"][backend])
    assert 0 < found["error"]["rounds"][0][0] < 1e-5
    assert min(found["latency_cold"]["rounds"][0]) > 0


def test_the_backend_refuses_training(around: Any) -> None:
    assert around["training"]["reference"]["kind"] == "ok"
    assert around["training"]["inplace"]["kind"] == "unsupported"
    assert "use the reference for training" in around["training"]["inplace"]["reasons"][0]


def test_the_metric_counts_the_input(around: Any) -> None:
    size = 14 * 14 * 192 * 4
    assert measurements(around["forward"]["reference"])["input_memory"]["rounds"] == [[size]]


def test_the_task_is_learned(around: Any) -> None:
    assert around["accuracy"] > 0.8


def test_the_analysis_concludes_from_its_numbers(around: Any) -> None:
    numbers, said, of_less = around["analysis"]
    assert len(numbers) == 4
    assert all(0 < value < 1 for value in numbers)
    assert said[0].startswith("Weight of a token for itself in the first layer: Softmax")
    assert of_less[0] != said[0]
    assert of_less[1] is False


def test_the_executor_waits_while_others_use_the_machine(around: Any) -> None:
    notes, runs, loads_left = around["waits"]
    assert notes == ["waiting: others use 2.0 CPUs", "waiting: others use 0.9 CPUs"]
    assert (runs, loads_left) == (1, [])


def test_the_plan_has_five_lengths_of_both_executions(around: Any) -> None:
    assert around["cases"] == 10
