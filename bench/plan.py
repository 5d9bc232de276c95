"""How plans are found, what they are given, and parts of them: one file each in bench/plans."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from attention_impls.registry import names, names_in, outside_names, unknown
from bench.derived import LEAST_NOISE_PAIRS
from bench.model import (
    REPRODUCTION,
    Case,
    DeviceKind,
    DType,
    Images,
    Plan,
    Protocol,
    Timed,
    Workload,
)

_FOLDER = Path(__file__).parent / "plans"
_PAIRS = 4
"""Noise pairs of a plan that prefers too few: one more than a noise floor needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a plan may draw on: the variants there are and the device it is for."""

    variants: tuple[str, ...]
    device: DeviceKind
    dtypes: tuple[DType, ...] | None
    """dtypes asked for on the command line; None leaves the choice to the plan."""
    asked: tuple[str, ...] = ()
    """Variants that the user named or brought; a plan that measures a choice measures them too."""

    def choose(self, *few: str) -> "Scope":
        """The scope of those of `few` that there are, and of every variant asked for."""
        kept = (v for v in self.variants if v in few or v in self.asked)
        return replace(self, variants=tuple(kept))

    def dtypes_or(self, *default: DType) -> tuple[DType, ...]:
        """The dtypes asked for, else the plan's own."""
        return self.dtypes or default


def plan_names() -> tuple[str, ...]:
    """Return the names of all plans, sorted."""
    return names_in(_FOLDER)


def load_plan(name: str, scope: Scope) -> Plan:
    """Build plan `name` for `scope`.

    Raises:
        UnknownName: no such file.
        TypeError: the file builds a plan with another name.
    """
    if name not in plan_names():
        raise unknown("plan", name, plan_names())
    plan: Plan = importlib.import_module(f"bench.plans.{name}").plan(scope)
    if plan.name != name:
        raise TypeError(f"bench/plans/{name}.py builds a plan named {plan.name!r}")
    return plan


def everything(
    device: DeviceKind, dtypes: tuple[DType, ...] | None = None, pattern: str | None = None
) -> Scope:
    """Scope of all variants known now.

    Args:
        device: what the plan is for.
        dtypes: those asked for, None for the plan's own.
        pattern: `--only`; the variants that it names, up to its first slash, count as asked for.
    """
    known = names()
    wanted = [alternative.partition("/")[0] for alternative in (pattern or "").split()]
    named = (name for name in known if any(fnmatchcase(name, one) for one in wanted))
    asked = dict.fromkeys((*named, *outside_names()))
    return Scope(variants=known, device=device, dtypes=dtypes, asked=tuple(asked))


def only(plan: Plan, pattern: str) -> Plan:
    """Keep the cases whose id or variant matches one of the shell patterns in `pattern`.

    Patterns stand apart by spaces.

    The anchor stays, and noise pairs are chosen among what is kept (`noise_pairs`), so that a
    partial run knows its noise floor too.

    Raises:
        ValueError: nothing matches.
    """
    kept = tuple(c for c in plan.cases if _matches(c, pattern))
    if not kept:
        raise ValueError(_no_match(plan, pattern))
    pairs = noise_pairs(kept, plan.noise_pairs)
    minutes = plan.expected_minutes * len(kept) / len(plan.cases)
    return replace(plan, cases=kept, noise_pairs=pairs, expected_minutes=minutes)


def refuse_idle(plan: Plan, pattern: str) -> None:
    """Refuse a slip in one of several patterns, which `only` alone would pass over in silence.

    Raises:
        ValueError: names the patterns that match no case of `plan`.
    """
    idle = [one for one in pattern.split() if not any(_matches(c, one) for c in plan.cases)]
    if idle:
        raise ValueError(_no_match(plan, " ".join(idle)))


def _no_match(plan: Plan, pattern: str) -> str:
    variants = sorted({c.variant for c in plan.cases})
    near = [
        one
        for wanted in pattern.split()
        for one in get_close_matches(wanted.partition("/")[0], variants, n=1)
    ]
    hint = f" Did you mean {' '.join(near)!r}?" if near else ""
    return (
        f"--only {pattern!r} matches none of the {len(plan.cases)} cases of plan {plan.name}."
        f"{hint} It is compared with case ids and variant names: {', '.join(variants)}"
    )


def noise_pairs(cases: Iterable[Case], preferred: Iterable[Case]) -> tuple[Case, ...]:
    """Choose the cases of a plan that run twice a round.

    Those of `preferred` that the plan holds; where these are too few for a noise floor, the
    smallest timed cases of the plan join them, because they cost least and vary most.
    """
    held = {case.id: case for case in cases}
    chosen = {case.id: case for case in preferred if case.id in held}
    if len(chosen) < LEAST_NOISE_PAIRS:
        sizes = {id_: size for id_, case in held.items() if (size := _size(case)) is not None}
        others = sorted(sizes.keys() - chosen.keys(), key=lambda id_: (sizes[id_], id_))
        chosen |= {id_: held[id_] for id_ in others[: _PAIRS - len(chosen)]}
    return tuple(chosen.values())


def _size(case: Case) -> int | None:
    """Work of one call by its sizes alone; None where nothing is timed or the batch is sought."""
    match case.stimulus:
        case Workload(batch=int(batch)) as workload:
            passes = 1 if workload.passes == "forward" else 3
            return passes * batch * workload.tokens * workload.heads * workload.head_dim
        case Images(batch=int(batch)) as images:
            return (1 if images.passes == "forward" else 3) * batch * images.resolution_px**2
        case _:
            return None


def repeating(case: Case, protocol: Protocol, *, anchor: Case) -> Plan:
    """Return the plan of a reproduction: one published case by the protocol of its run.

    The digest follows from case, protocol and anchor alone, so that it can be checked.
    """
    return Plan(
        name=REPRODUCTION,
        purpose="Repeats one published row.",
        expected_minutes=1.0,
        protocol=protocol,
        cases=(case,),
        noise_pairs=(case,) if isinstance(case.stimulus, Timed) else (),
        anchor=anchor,
    )


def _matches(case: Case, patterns: str) -> bool:
    names_of_case = (case.variant, f"{case.variant}/{case.backend}")
    return any(
        fnmatchcase(case.id, f"*{pattern}*") or any(fnmatchcase(n, pattern) for n in names_of_case)
        for pattern in patterns.split()
    )
