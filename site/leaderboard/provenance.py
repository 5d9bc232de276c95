"""What stands behind one result: how to repeat it, where it comes from, what to beware of."""

from collections.abc import Iterable

from leaderboard.blocks import Badge, Code, Detail, Inline, Link, Muted, Piece
from leaderboard.contexts import slug
from leaderboard.format import Quantity, count_of, day, measure, percent, whole
from leaderboard.results import OUTCOME_WORDS, Result, View


def flags(result: Result) -> list[Piece]:
    """Return the badges of a result: what must not be overlooked."""
    found: list[Piece] = []
    if result.stale:
        found += [" ", Badge("stale", "warning", "Measured with an older version; not ranked.")]
    if result.busy:
        found += [" ", Badge("busy machine", "warning", "The machine was not quiet.")]
    if any(n.implausible for n in result.numbers.values()):
        found += [" ", Badge("implausible", "failure",
                             "Faster than the machine's own ceilings allow; not "
                             "ranked.")]  # fmt: skip
    return found


def failure_words(result: Result) -> str:
    """Return what became of a failed case, in words."""
    return OUTCOME_WORDS.get(result.outcome, result.outcome)


def case_slug(result: Result) -> str:
    """Return the stable short name of a case: the digest at the end of its id."""
    return slug(result.case_id.rpartition("#")[2])


def detail(view: View, result: Result, *, id_: str) -> Detail:
    """Return everything that is needed to check or repeat one result."""
    pairs: list[tuple[str, Inline]] = [
        ("Case", (Code(result.case_id),)),
        ("Repeat it", (Code(f"attnbench repro '{result.case_id}'"),)),
    ]
    if not result.ok:
        pairs.append(("Outcome", (failure_words(result),)))
        pairs.append(("Reason", (result.reason or "none given",)))
    latency = result.numbers.get("latency")
    if latency is not None:
        pairs.append(("Latency", (measure("s", latency.value),)))
        if latency.low is not None and latency.high is not None:
            low, high = measure("s", latency.low), measure("s", latency.high)
            pairs.append(("95 % interval", (f"{low} to {high}",)))
        if latency.p10 is not None and latency.p90 is not None:
            low, high = measure("s", latency.p10), measure("s", latency.p90)
            pairs.append(("10 % to 90 %", (f"{low} to {high}, of all samples",)))
        rounds = count_of(latency.rounds, "round")
        pairs.append(("Samples", (f"{whole(latency.samples)} in {rounds}",)))
    pairs += _secondary_pairs(result)
    if result.executed:
        pairs.append(("What ran", (result.executed,)))
    entry = view.runs.get(result.run_id)
    machine = f"machines/{slug(result.hardware_id)}.html"
    if entry is not None:
        commit = entry.run.commit[:12] if entry.run.commit else "none: not a git checkout"
        dirty = " with uncommitted changes" if entry.run.dirty else ""
        pairs.append(("Commit", (Code(commit), dirty)))
    pairs += [
        ("Run", (Link(result.run_id, f"{machine}#run-{slug(result.run_id)}"),)),
        ("Measured", (f"{day(result.created)}, plan {result.plan}",)),
        ("Revision", (f"{result.revision} of the variant{', stale' if result.stale else ''}",)),
    ]
    title = f"{view.title(result.variant)}{', ' + result.detail if result.detail else ''}"
    return Detail(id_, title, tuple(pairs))


_SECONDARY: tuple[tuple[str, str, Quantity], ...] = (
    ("latency_cold", "Latency, cold", "s"),
    ("host_latency", "Host time", "s"),
    ("latency_sustained", "Sustained", "s"),
    ("throughput", "Throughput", "token/s"),
    ("flop_rate", "FLOP rate", "flop/s"),
    ("peak_memory", "Peak memory", "byte"),
    ("energy", "Energy", "j"),
    ("error", "Error", "relative"),
    ("gradient_error", "Gradient error", "relative"),
)


def _secondary_pairs(result: Result) -> Iterable[tuple[str, Inline]]:
    for metric, title, quantity in _SECONDARY:
        number = result.numbers.get(metric)
        if number is not None:
            yield title, (measure(quantity, number.value),)
        elif metric in result.unavailable:
            yield title, (Muted(result.unavailable[metric]),)
    efficiency = result.numbers.get("efficiency")
    if efficiency is not None:
        bound = f", bound by {efficiency.bound}" if efficiency.bound else ""
        yield "Efficiency", (f"{percent(efficiency.value)}{bound}",)
