"""Level model: images through a whole network are gated, timed and counted like a layer's call."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attention_impls import load_backbone
from bench import network
from bench.blueprint import Blueprint, CannotRun
from bench.call import call_of
from bench.cases import images_case
from bench.model import Case, Images, Measured, Ok, Passes, Protocol, Unsupported, to_json
from bench.plan import everything, load_plan
from bench.roofline import least_bytes
from bench.schedule import visits
from bench.subject import shape_of, subject_of
from bench.visit import Visited, visit

QUICK = Protocol(warmup_s=0.001, warmup_cap_s=0.01, sample_s=0.001, least_samples=3)


def case(
    variant: str = "inline",
    backend: str = "reference",
    *,
    backbone: str = "vit_micro",
    side: int = 32,
    passes: Passes = "forward",
) -> Case:
    return images_case(
        backbone, variant, backend, resolution_px=side, dtype="float32", passes=passes
    )


def blueprint_of(case: Case) -> Blueprint:
    blueprint = subject_of(case, "cpu").blueprint
    assert blueprint is not None
    return blueprint


def measured(visited: Visited) -> dict[str, float]:
    outcome = visited.outcome
    assert isinstance(outcome, Ok), outcome
    found = [m for m in outcome.measurements if isinstance(m, Measured)]
    return {m.metric: m.rounds[0][0] for m in found}


@pytest.mark.parametrize("passes", ["forward", "forward_backward"])
def test_a_network_is_measured(passes: Passes) -> None:
    found = measured(visit(case(passes=passes), 0, QUICK, "cpu"))
    spec = load_backbone("vit_micro").with_variant("inline")
    assert found["flops"] == found["flops_torch"] == spec.flops()
    assert found["parameters"] == sum(p.numel() for p in spec.build().parameters())
    assert found["latency"] > 0
    assert found["peak_memory"] > 0
    assert found["error"] < 1e-4
    assert "state_floats" not in found
    assert ("gradient_error" in found) == (passes == "forward_backward")


def test_a_backend_executes_every_attention_of_the_variant() -> None:
    own = case("softmax", "sdpa")
    blueprint = blueprint_of(own)
    call = call_of(blueprint, shape_of(own.stimulus, 1), sets=2)
    own_layers, adopted = (
        [m.attention.mix for m in top.modules() if hasattr(m, "attention_norm")]
        for top in (call.layer, call.runner)
    )
    assert len(own_layers) == len(adopted) == 4
    assert not {type(m) for m in own_layers} & {type(m) for m in adopted}
    with call.mode():
        (got,) = call(0)
        want = call.layer(*call.inputs[0], call.grid)
    torch.testing.assert_close(got, want)
    assert {id(p) for p in call.runner.parameters()} == {id(p) for p in call.layer.parameters()}
    assert isinstance(visit(own, 0, QUICK, "cpu").outcome, Ok)


def test_the_reference_is_left_as_it_was() -> None:
    """Negative control of the float64 comparison: a backend must not reach the reference."""
    spec = load_backbone("vit_micro")
    built = network.build(spec, network.image_shape(32, 1))
    before = [type(m) for m in built.modules()]
    blueprint = blueprint_of(case("softmax", "sdpa"))
    assert blueprint.backend is not None
    network.with_backend(built, spec, blueprint.backend)
    assert [type(m) for m in built.modules()] == before


def test_sdpa_runs_inside_the_blocks_that_turn_and_gate_softmax() -> None:
    spec = load_backbone("ravlt_t").with_variant("softmax")
    shape = network.image_shape(64, 1)
    built = network.build(spec, shape).eval()
    blueprint = blueprint_of(case("softmax", "sdpa"))
    assert blueprint.backend is not None
    twin = network.with_backend(built, spec, blueprint.backend)
    x = torch.randn(1, 64 * 64, 3)
    with torch.inference_mode():
        torch.testing.assert_close(twin(x, shape.grid), built(x, shape.grid), rtol=0, atol=1e-4)


def test_what_cannot_be_built_says_why() -> None:
    outcome = visit(case(side=3), 0, QUICK, "cpu").outcome
    assert isinstance(outcome, Unsupported)
    assert "one patch" in outcome.reasons[0]
    refused = visit(case("focused_linear", backbone="deit_tiny_patch16_224"), 0, QUICK, "cpu")
    assert isinstance(refused.outcome, Unsupported)
    assert "class tokens" in refused.outcome.reasons[0]


def test_a_woven_attention_refuses_other_backends() -> None:
    spec = load_backbone("inline_cswin_t").with_variant("softmax")
    sdpa = blueprint_of(case("softmax", "sdpa"))
    assert sdpa.backend is not None
    whole = replace(sdpa.backend, adopt=nn.Sequential)
    blueprint = replace(sdpa, backbone=spec, backend=whole)
    with torch.device("meta"):
        built = network.build(spec, network.image_shape(224, 1))
    with pytest.raises(CannotRun, match="take theirs apart"):
        blueprint.runner(built)
    assert replace(blueprint, backend=sdpa.backend).runner(built) is not built


def test_a_large_network_is_compared_at_a_smaller_size() -> None:
    outcome = visit(case(side=256), 1, QUICK, "cpu").outcome
    assert isinstance(outcome, Ok)
    assert outcome.checked is None or outcome.checked.endswith("px")


def test_sizes_of_one_sweep_come_in_ascending_order() -> None:
    plan = load_plan("models", everything("cpu"))
    sides = [
        turn.case.stimulus.resolution_px
        for turn in visits(plan, "cpu")
        if isinstance(turn.case.stimulus, Images)
        and turn.visit.round == 0
        and turn.visit.repetition == 0
        and turn.case.variant == "inline"
        and turn.case.stimulus.backbone == "inline_deit_t"
        and turn.case.stimulus.batch_policy == "one"
        and turn.case.stimulus.passes == "forward"
    ]
    assert sides == sorted(sides)
    assert len(sides) == 10


def test_every_network_of_the_plan_meets_softmax() -> None:
    plan = load_plan("models", everything("cpu"))
    found: dict[str, set[str]] = {}
    for one in plan.cases:
        assert isinstance(one.stimulus, Images)
        found.setdefault(one.stimulus.backbone, set()).add(one.variant)
    assert all("softmax" in variants for variants in found.values())
    families = {load_backbone(id_).family for id_ in found}
    assert families == {
        "cswin", "deit", "mlla", "pvt", "pvt_v2", "rala", "soft", "swin", "vit",
    }  # fmt: skip


def test_the_least_traffic_is_images_and_parameters() -> None:
    stimulus = case().stimulus
    assert isinstance(stimulus, Images)
    moved = least_bytes(stimulus, batch=2, level="model", parameters=100, streams=3)
    assert moved == 4 * (2 * 3 * 32 * 32 + 100)


def test_a_case_of_a_network_has_this_json_form() -> None:
    assert to_json(case())["stimulus"] == {
        "kind": "images", "backbone": "vit_micro", "batch": 1, "batch_policy": "one",
        "resolution_px": 32, "dtype": "float32", "passes": "forward",
    }  # fmt: skip
    assert case().id.startswith("inline/reference/model/vit_micro/b1/32px/float32/forward#")
