"""What a result was held against before it was shown, a sentence each."""

from collections.abc import Iterator

from bench.table import Recorded
from leaderboard.format import measure, percent
from leaderboard.pieces import Inline
from leaderboard.results import Result, View


def checks_of(view: View, result: Result, found: Recorded | None) -> Iterator[Inline]:
    """Yield what passed, what failed and what is marked."""
    if result.ok and result.stimulus in ("workload", "images"):
        error = result.numbers.get("error")
        words = "passed: output agrees with the float64 reference"
        if error is not None:
            words += f", largest difference {measure('relative', error.value)} of its scale"
        if found is not None and found.checked:
            words += f", compared at {found.checked}"
        yield (f"{words}.",)
        gradient = result.numbers.get("gradient_error")
        if gradient is not None:
            value = measure("relative", gradient.value)
            yield (f"passed: gradients agree with the float64 reference, {value}.",)
    elif not result.ok:
        yield ("not timed: only what runs and agrees with the reference is.",)
    efficiency = result.numbers.get("efficiency")
    if efficiency is not None:
        share = percent(efficiency.value)
        fast = any(n.implausible for n in result.numbers.values())
        bound = f", bound by {efficiency.bound}" if efficiency.bound else ""
        yield (
            f"FAILED: {share} of what this machine can do{bound}: faster than its own ceilings; "
            "not ranked."
            if fast
            else f"passed: not faster than this machine can be; {share} of that{bound}.",
        )
    yield (
        "MARKED: other work kept the machine busy."
        if result.busy
        else "passed: the machine was quiet.",
    )
    yield (
        "MARKED: measured with an older revision or protocol; not ranked."
        if result.stale
        else f"passed: revision {result.revision} of the variant and the protocol are current.",
    )
    entry = view.runs.get(result.run_id)
    if entry is not None:
        yield (
            "MARKED: the code differed from the commit."
            if entry.run.dirty
            else "passed: the checkout was clean."
            if entry.run.commit
            else "MARKED: not measured in a git checkout.",
        )
        yield ("passed: the file is the one whose sha256 the run lists.",)
