"""Rules about the plan: all of it ran, by its protocol; a reproduction is one case of it."""

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache

from bench.model import REPRODUCTION, DeviceKind, DType, Plan
from bench.plan import everything, load_plan, only, plan_names, repeating
from bench.rules.rule import Fault, RunRule, RunUnderTest


def _coverage(under: RunUnderTest) -> Iterator[Fault]:
    plan = _plan_that_ran(under)
    if plan is None:
        return
    present = {one.case.id for one in under.records}
    missing = [case.id for case in plan.cases if case.id not in present]
    if missing:
        yield Fault(
            "run.json",
            f"{len(missing)} of {len(plan.cases)} cases of plan {plan.name} are missing, e.g. "
            f"{missing[0]}: a case that failed is a result too",
        )
    planned = {case.id for case in plan.cases}
    for one in under.records:
        if one.case.id not in planned:
            yield one.fault(f"not a case of plan {plan.name}")


def _repeated_once(under: RunUnderTest) -> Iterator[Fault]:
    """A reproduction is one case by the protocol of what it repeats; its digest says so."""
    run = under.run
    if run.plan != REPRODUCTION:
        return
    if len(under.records) != 1:
        yield Fault("run.json", f"{len(under.records)} records in a reproduction: must be one")
        return
    drift = run.conditions.drift
    case = under.records[0].case
    expected = repeating(case, run.protocol, anchor=drift.case if drift else case)
    if run.plan_digest != expected.digest:
        yield Fault(
            "run.json",
            "plan_digest is not that of a reproduction of its case: write it with "
            "`attnbench repro ROW --submit`",
        )


def _plan_unknown(under: RunUnderTest) -> Iterator[Fault]:
    if under.run.plan in plan_names() and _plan_that_ran(under) is None:
        yield Fault(
            "run.json",
            f"plan_digest is not that of plan {under.run.plan} in this tree: whether cases are "
            "missing cannot be checked",
        )


def _other_protocol(under: RunUnderTest) -> Iterator[Fault]:
    """The digest of the plan holds protocol, anchor and A/A pairs: `run.json` must repeat them."""
    plan = _plan_that_ran(under)
    if plan is None:
        return
    run = under.run
    for field in fields(plan.protocol):
        planned, stated = (getattr(one, field.name) for one in (plan.protocol, run.protocol))
        if planned != stated:
            yield Fault(
                "run.json",
                f"protocol.{field.name} is {stated}, plan {plan.name} has {planned}: the protocol "
                "is the plan's; leave it as the run wrote it",
            )
    drift = run.conditions.drift
    if drift is not None and drift.case.id != plan.anchor.id:
        yield Fault(
            "run.json",
            f"conditions.drift is of {drift.case.id}, the plan's anchor is {plan.anchor.id}: leave "
            "it as the run wrote it",
        )
    measured = {one.case.id for one in under.records if one.ok}
    if drift is None and plan.anchor.id in measured:
        yield Fault("run.json", "conditions.drift is missing, but the anchor was measured")
    told = {pair.case.id for pair in run.conditions.noise}
    for case in plan.noise_pairs:
        if case.id in measured and case.id not in told:
            yield Fault(
                "run.json",
                f"conditions.noise lacks {case.id}, an A/A pair of plan {plan.name} that was "
                "measured: no pair is left out of the noise floor",
            )


def _plan_that_ran(under: RunUnderTest) -> Plan | None:
    """The plan of this tree with the run's digest, if there is one.

    A plan grows with every variant added to the tree, so it is tried as it is now and with the
    variants that the run knew.
    """
    run = under.run
    if run.plan not in plan_names():
        return None
    dtypes: list[DType] = sorted({one.workload.dtype for one in under.records if one.workload})
    asked: list[tuple[DType, ...]] = [(), tuple(dtypes)]
    asked.extend((dtype,) for dtype in dtypes)
    recorded = frozenset(one.record.case.variant for one in under.records)
    for choice, known in itertools.product(asked, (None, recorded)):
        plan, digest = _plan(run.plan, run.environment.device, choice, run.only, known)
        if plan is not None and digest == run.plan_digest:
            return plan
    return None


@cache
def _plan(
    name: str,
    device: DeviceKind,
    dtypes: tuple[DType, ...],
    pattern: str | None,
    known: frozenset[str] | None,
) -> tuple[Plan | None, str | None]:
    """Return a plan and its digest, which takes long for thousands of cases."""
    scope = everything(device, dtypes or None, pattern)
    if known is not None:
        scope = replace(scope, variants=tuple(v for v in scope.variants if v in known))
    plan = load_plan(name, scope)
    if pattern is not None:
        try:
            plan = only(plan, pattern)
        except ValueError:
            return None, None
    return plan, plan.digest


RULES = (
    RunRule(id="R311", severity="error", help="Cases missing or added.", find=_coverage),
    RunRule(id="R312", severity="review", help="Plan of another tree.", find=_plan_unknown),
    RunRule(id="R315", severity="error", help="Not a reproduction.", find=_repeated_once),
    RunRule(id="R316", severity="error", help="Not the plan's protocol.", find=_other_protocol),
)
