"""The gate in this process: backends, gradients, sizes at which the reference is too costly."""

from dataclasses import replace

import pytest
import tiny
import torch
from torch import nn

from attention_impls.registry import load
from attention_impls.spec import Backend, Tolerance
from bench import gate
from bench.blueprint import CannotRun
from bench.call import call_of
from bench.gate import Wrong, admit, confirm
from bench.subject import shape_of, subject_of

TIGHT = {"float32": Tolerance(absolute=1e-5, relative=1e-4)}


class Altered(nn.Module):
    """The reference, with its output or the gradient of its input changed by a known share."""

    def __init__(self, layer, output, gradient):
        super().__init__()
        self.layer, self.output, self.gradient = layer, output, gradient

    def forward(self, x, grid):
        y = self.layer(x, grid) * self.output
        return y + (self.gradient - 1) * (y - y.detach())


def backend(output=1.0, gradient=1.0, tolerance=TIGHT):
    return Backend(
        variant="softmax",
        name="altered",
        title="altered",
        requires=(),
        unsupported=lambda _execution: (),
        adopt=lambda layer: Altered(layer, output, gradient),
        tolerance=tolerance,
    )


def prepared(case, with_backend=None):
    subject = subject_of(case, "cpu")
    blueprint = replace(subject.blueprint, backend=with_backend)
    return call_of(blueprint, shape_of(case.stimulus, case.stimulus.batch))


def judged(case, with_backend=None, flop_limit=1e9):
    return admit(prepared(case, with_backend), flop_limit=flop_limit)


FORWARD = tiny.case("softmax")
BACKWARD = tiny.case("softmax", passes="forward_backward")


@pytest.mark.parametrize("case", [FORWARD, BACKWARD, tiny.case("softmax", level="core")])
def test_a_right_call_passes_with_a_small_error(case):
    passed = judged(case)
    assert 0 < passed.error < 1e-5
    assert passed.checked is None
    assert (passed.gradient_error is None) == (case is not BACKWARD)


def test_a_backend_a_thousandth_off_is_refused_and_one_a_millionth_off_is_not():
    judged(FORWARD, backend(output=1 + 1e-6))
    with pytest.raises(Wrong, match="the output differs"):
        judged(FORWARD, backend(output=1 + 1e-3))


def test_a_wrong_gradient_is_refused_only_where_gradients_are_timed():
    wrong = backend(gradient=1.01)
    judged(FORWARD, wrong)
    with pytest.raises(Wrong, match="the gradient of x differs"):
        judged(BACKWARD, wrong)


def test_a_backend_without_tolerance_for_the_dtype_is_refused():
    with pytest.raises(CannotRun, match="states no tolerance"):
        judged(FORWARD, backend(tolerance={}))


class OneToken(nn.Module):
    """The reference, with the first tokens of each sequence a little too large."""

    def __init__(self, layer, tokens, factor):
        super().__init__()
        self.layer, self.tokens, self.factor = layer, tokens, factor

    def forward(self, x, grid):
        y = self.layer(x, grid)
        return torch.cat((self.factor * y[:, : self.tokens], y[:, self.tokens :]), 1)


def of_tokens(tokens, factor):
    return replace(backend(), adopt=lambda layer: OneToken(layer, tokens, factor))


def test_a_mechanism_that_is_not_continuous_is_judged_by_the_root_mean_square(monkeypatch):
    """One token of 64 may differ where rounding changes a choice; all of them may not."""
    case = tiny.case("softmax", 64)
    judged(case, of_tokens(1, 1 + 1e-6))
    with pytest.raises(Wrong, match="the output differs"):
        judged(case, of_tokens(1, 1 + 6e-4))
    spec = load("softmax")
    choosing = replace(spec, traits=replace(spec.traits, continuous=False))
    monkeypatch.setattr("bench.subject.load", lambda _name: choosing)
    judged(case, of_tokens(1, 1 + 6e-4))
    with pytest.raises(Wrong, match="the output differs"):
        judged(case, of_tokens(64, 1 + 6e-4))
    with pytest.raises(Wrong, match="the output differs"):
        judged(case, of_tokens(1, 1 + 6e-2))


def test_a_costly_case_is_checked_with_one_sequence_or_on_a_smaller_grid_that_is_named():
    case = tiny.case("softmax", 64, batch=4)
    spec, shape = load("softmax"), shape_of(case.stimulus, 4)
    one = spec.flops(shape.with_batch(1))
    assert judged(case, flop_limit=4 * one).checked is None
    assert judged(case, flop_limit=one).checked == "batch 1, grid 1x64"
    assert judged(case, flop_limit=one / 2).checked == "batch 1, grid 1x32"


def test_a_reference_that_finds_no_memory_is_checked_on_a_smaller_grid(monkeypatch):
    real = gate._against_float64

    def scarce(call):
        if call.grid.tokens > 16:
            raise MemoryError
        return real(call)

    monkeypatch.setattr(gate, "_against_float64", scarce)
    assert judged(tiny.case("softmax", 64)).checked == "batch 1, grid 1x16"


def test_a_backend_wrong_on_the_smaller_grid_too_is_refused_there():
    one = load("softmax").flops(shape_of(FORWARD.stimulus, 1))
    with pytest.raises(Wrong, match="grid 1x8"):
        judged(FORWARD, backend(output=1.01), flop_limit=one / 2)


def test_after_timing_a_changed_result_is_refused_and_an_equal_one_is_not():
    call = prepared(FORWARD)
    passed = admit(call, flop_limit=1e9)
    with call.mode():
        timed = call(0)
    before = [t.clone() for t in call.inputs[0]]
    confirm(call, passed, timed)
    for now, then in zip(call.inputs[0], before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)
    with pytest.raises(Wrong, match="a timed call gave another result"):
        confirm(call, passed, (timed[0] * 1.1,))


def test_core_and_layer_take_gradients_of_inputs_and_of_their_own_parameters():
    layer = prepared(BACKWARD)
    core = prepared(replace(BACKWARD, level="core"))
    assert {"x", "qkv.weight", "out.bias"} <= set(layer.leaves[0])
    assert set(core.leaves[0]) == {"q", "k", "v", "x"}


def test_input_sets_are_distinct():
    call = prepared(FORWARD)
    assert call.sets >= 2
    assert not torch.equal(call.inputs[0][0], call.inputs[1][0])


def test_a_reference_that_is_not_finite_refuses_without_a_number(monkeypatch):
    twin = gate.Call.in_float64

    def broken(call):
        found = twin(call)
        found.inputs[0][0].detach().fill_(float("nan"))
        return found

    monkeypatch.setattr(gate.Call, "in_float64", broken)
    with pytest.raises(Wrong, match="differs from the float64 reference by nan") as refusal:
        judged(FORWARD)
    assert refusal.value.outcome.error is None
