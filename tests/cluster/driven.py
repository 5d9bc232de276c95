"""A small plan as the command runs it, for processes that are killed, and what must come out.

    python driven.py FOLDER EXECUTOR {fresh|resume} [OPTION=VALUE ...]

measures into FOLDER/results and prints what a person would be told. `together=2` trains the
network of TRAININGS on two devices; without it PLAN is run.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import tiny

from bench.cases import task_cases
from bench.executor import Executor, executor
from bench.measure import Order, measure, unfinished
from bench.model import Measured, Ok, Plan, VariantRecords, from_json
from bench.schedule import visits

ROOT = Path(__file__).parents[2]
EXACT = ("accuracy", "error", "flops", "gradient_error", "loss", "parameters", "peak_memory",
         "predicted_memory", "receipt", "saved_memory", "state_floats")  # fmt: skip
"""Metrics that cannot vary between two runs on one machine."""
PLAN = tiny.plan(
    tiny.case("softmax", 16),
    tiny.case("softmax", 32),
    tiny.case("linear_relu", 16, passes="forward_backward"),
    tiny.case("linear_relu", 32),
    *task_cases("softmax", "digits", seeds=1),
    noise=(tiny.case("softmax", 16),),
    # visits of about a second: whoever is killed at random is killed during one
    protocol=replace(tiny.PROTOCOL, rounds=3, sample_s=0.15, sample_cap_s=0.3, timeout_s=300.0),
)
TRAININGS = tiny.plan(
    *task_cases("softmax", "digits", seeds=1), protocol=replace(PLAN.protocol, rounds=1)
)
"""What several devices can do together."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Printed:
    """Prints what it is told."""

    def started(self, case, done, total):
        say(f"visit {done}/{total} {case.id}")

    def finished(self, case, outcome):
        say(f"ended {case.id} {outcome.kind}")

    def trained(self, epoch):
        say(f"epoch {epoch.number}")

    def slots(self, doing):
        say("slots " + "; ".join(f"{slot.words}: {words}" for slot, words in doing.items()))

    def note(self, text):
        say(text)


def order(
    folder: Path, name: str, *, resume: bool, together: int, options: dict[str, str]
) -> Order:
    return Order(
        plan=PLAN if together == 1 else TRAININGS,
        device="cpu",
        threads=together,
        together=together,
        results=folder / "results",
        resume=resume,
        only=None,
        submitted_by="anonymous",
        executor=name,
        options=options,
    )


def start(folder: Path, name: str, *, resume: bool, **options: str) -> "subprocess.Popen[bytes]":
    """Start the command in a process of its own; what it says is in FOLDER/said.txt."""
    folder.mkdir(exist_ok=True)
    given = [f"{option}={value}" for option, value in options.items()]
    paths = [ROOT, ROOT / "tests", Path(__file__).parent]
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, __file__, str(folder), name, "resume" if resume else "fresh", *given],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def can_resume(folder: Path) -> bool:
    """Whether a journal with a whole header is there; one without is removed."""
    found = False
    for path in unfinished(folder):
        if b"\n" in path.read_bytes():
            found = True
        else:
            path.unlink()
    return found


def journals(folder: Path) -> list[Path]:
    return sorted((folder / ".attnbench").rglob("*.jsonl"))


def exact(folder: Path) -> dict[str, dict[str, object]]:
    """Everything of the records of the folder's runs that must not differ between two runs.

    Keyed by run: two runs are two kinds of devices. Rounds of timed metrics are counted.
    """
    found: dict[str, dict[str, object]] = {}
    for run in sorted((folder / "results").glob("*/*/run.json")):
        records: dict[str, object] = {}
        for path in sorted(run.parent.glob("*.json")):
            if path.name == "run.json":
                continue
            for record in from_json(VariantRecords, json.loads(path.read_text())).records:
                assert isinstance(record.outcome, Ok), record
                metrics = [m for m in record.outcome.measurements if isinstance(m, Measured)]
                training = record.outcome.training
                records[record.case.id] = (
                    {m.metric: m.rounds for m in metrics if m.metric in EXACT},
                    {m.metric: len(m.rounds) for m in metrics},
                    (record.outcome.executed, record.outcome.batch, record.variant_revision),
                    training and (training.losses, training.gradient_norms, training.accuracies),
                )
        found[run.parent.parent.name] = records
    return found


def each_visit_once(path: Path, plan: Plan = PLAN) -> None:
    """Refuse a journal in which a visit is lost or there twice."""
    entries = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    made = [(e["case_id"], e["round"], e["repetition"]) for e in entries if "case_id" in e]
    wanted = [(t.visit.case_id, t.visit.round, t.visit.repetition) for t in visits(plan, "cpu")]
    assert sorted(made) == sorted(wanted)


def attempts(path: Path) -> list[str]:
    """Reasons of the attempts that were lost with their slots."""
    entries = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [one["reason"] for entry in entries for one in entry.get("attempts", [])]


def main() -> None:
    folder, name, how, *given = sys.argv[1:]
    options = dict(one.split("=", 1) for one in given)
    together = int(options.pop("together", "1"))
    chosen: Executor = executor(name)
    assert options.keys() <= {option.name for option in chosen.options}
    resume = how == "resume"
    wish = order(Path(folder), name, resume=resume, together=together, options=options)
    for finished in measure(wish, Printed()):
        say(f"finished {finished.folder}")


if __name__ == "__main__":
    main()
