"""What the counters cannot see is no count: fvcore's metric says so instead of a number."""

import pytest
import tiny

from bench.call import call_of
from bench.counting import FvcoreCount
from bench.metrics import flops_fvcore
from bench.model import Measured, Protocol, Unavailable
from bench.subject import shape_of, subject_of


@pytest.fixture
def subject():
    found = subject_of(tiny.case("softmax", 64), "cpu")
    found.prepared = call_of(found.blueprint, shape_of(found.case.stimulus, 1))
    return found


def test_fvcore_counts_what_the_formula_says(subject) -> None:
    formula = subject.blueprint.spec.flops(subject.call.shape, subject.blueprint.options)
    expected = Measured(metric="flops_fvcore", rounds=((formula,),))
    assert flops_fvcore.METRIC.measure(subject, Protocol()) == expected


def test_an_operator_without_a_handle_makes_the_count_unavailable(subject, monkeypatch) -> None:
    blind = FvcoreCount(flops=1, unseen=frozenset({"cdist", "linalg_inv"}))
    monkeypatch.setattr(flops_fvcore, "fvcore_flops", lambda *_: blind)
    found = flops_fvcore.METRIC.measure(subject, Protocol())
    assert isinstance(found, Unavailable)
    assert "cdist, linalg_inv" in found.reasons[0]
