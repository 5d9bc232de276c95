"""The driver of a run as a program, so that tests can kill it: `python slurm_driver.py WISHES`.

WISHES is JSON: the folder, the executor, its options, whether to resume.
"""

import json
import sys
from pathlib import Path

from executors.slurm_plan import PLAN, TRAININGS

from bench.measure import Order, measure


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Printed:
    """Prints what happens, a line each."""

    def started(self, case, done, total):
        _say(f"started {done}/{total} {case.id}")

    def finished(self, case, outcome):
        _say(f"finished {case.id} {outcome.kind}")

    def trained(self, epoch):
        _say(f"epoch {epoch.number}/{epoch.epochs}")

    def slots(self, doing):
        _say("slots " + "; ".join(f"{slot.words}: {what}" for slot, what in doing.items()))

    def note(self, text):
        _say(f"note {text}")


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    order = Order(
        plan=PLAN if asked["together"] == 1 else TRAININGS,
        device="cpu",
        threads=asked["together"],
        together=asked["together"],
        results=Path(asked["folder"]) / "results",
        resume=asked["resume"],
        only=None,
        submitted_by="anonymous",
        executor=asked["executor"],
        options=asked["options"],
    )
    for finished in measure(order, Printed()):
        _say(f"run {finished.folder}")
