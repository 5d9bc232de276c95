"""What holds for every whole network: building, refusing, exchanging the mechanism, adopting."""

import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attention_impls import backbones, load, load_backbone, names
from attention_impls.adoption import fitted
from attention_impls.backbone import BackboneSpec, Mechanism
from attention_impls.backbones.deit import DeitDesign
from attention_impls.backbones.pvt import PvtDesign, stages
from attention_impls.registry import UnknownName
from attention_impls.shapes import UnsupportedShape

IDS = backbones()
SMALL = (
    "deit_tiny_patch16_224", "mlla_t", "pvt_tiny", "pvt_v2_b0", "ravlt_t", "soft_tiny", "vit_micro",
)  # fmt: skip
ROUNDING_UP = ("mlla_t", "ravlt_t")
LARGEST = "cswin_144_24322_large_224"


def empty(spec: BackboneSpec, num_classes: int = 10, side: int | None = None) -> nn.Module:
    with torch.device("meta"):
        return spec.build(num_classes, side)


def state(spec: BackboneSpec, num_classes: int = 10, side: int | None = None) -> dict[str, Tensor]:
    return empty(spec, num_classes, side).state_dict()


def tiny_deit(variant: str = "inline", **options: Any) -> BackboneSpec:
    """A network small enough to run many times."""
    mechanism = Mechanism(variant=variant, options=replace(load(variant).options, **options))
    spec = load_backbone("inline_deit_t")
    return replace(
        spec, variant=variant, design=DeitDesign(heads=2, head_dim=8, blocks=(mechanism,) * 2)
    )


def test_the_families_are_there() -> None:
    found = {load_backbone(id_).family for id_ in IDS}
    assert found == {"cswin", "deit", "mlla", "pvt", "pvt_v2", "rala", "soft", "swin", "vit"}
    assert list(IDS) == sorted(set(IDS))


def test_a_misspelt_id_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="inline_deit_t"):
        load_backbone("inline_diet_t")


@pytest.mark.parametrize("id_", [*SMALL, LARGEST])
def test_building_without_memory_takes_less_than_a_second(id_: str) -> None:
    empty(load_backbone(id_))
    begin = time.process_time()
    built = empty(load_backbone(id_))
    assert time.process_time() - begin < 1
    assert all(p.is_meta for p in built.parameters())


@pytest.mark.parametrize("id_", IDS)
def test_every_network_has_every_resolution_of_the_sweep(id_: str) -> None:
    spec = load_backbone(id_)
    for side in (224, 384, 512, 2048):
        assert spec.unsupported(side) == ()
        assert spec.flops(side, batch=2) > spec.flops(side) > 0


@pytest.mark.parametrize("id_", SMALL)
@pytest.mark.parametrize("side", [96, 200])
def test_it_classifies_at_other_sizes(id_: str, side: int) -> None:
    """200 px leaves rows over in every stage."""
    built = load_backbone(id_).build(7, side).eval()
    with torch.inference_mode():
        logits = built(torch.randn(2, 3, side, side))
    assert tuple(logits.shape) == (2, 7)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("id_", SMALL)
def test_the_formula_holds_at_other_sizes_batches_and_classes(id_: str) -> None:
    spec = load_backbone(id_)
    built = empty(spec, 7, 200)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built(torch.empty(3, 3, 200, 200, device="meta"))
    assert counter.get_total_flops() == spec.flops(200, batch=3, num_classes=7)


def test_another_image_than_it_was_built_for_is_refused() -> None:
    built = tiny_deit().build(10, 64)
    with pytest.raises(UnsupportedShape, match=r"64x96 px.*64x64"):
        built(torch.zeros(1, 3, 64, 96))


def test_convolutions_that_round_up_leave_a_token_of_any_picture() -> None:
    for id_ in ROUNDING_UP:
        with torch.inference_mode():
            assert load_backbone(id_).build(7, 3).eval()(torch.randn(1, 3, 3, 3)).shape == (1, 7)


@pytest.mark.parametrize("id_", sorted({*SMALL} - {*ROUNDING_UP}))
def test_a_resolution_that_leaves_nothing_is_refused(id_: str) -> None:
    spec = load_backbone(id_)
    assert spec.unsupported(3)
    with pytest.raises(UnsupportedShape, match="3 px"):
        spec.build(10, 3)


def test_no_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes is 0"):
        load_backbone("vit_micro").build(0)


# Another mechanism --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", names())
def test_every_variant_stands_in_the_plain_network(variant: str) -> None:
    spec = load_backbone("vit_micro").with_variant(variant)
    if reasons := spec.unsupported():
        assert load(variant).unsupported(spec.design.attentions(32)[0].shape) != ()
        pytest.skip("; ".join(reasons))
    with torch.no_grad():
        assert spec.build(10)(torch.randn(1, 3, 32, 32)).shape == (1, 10)


SMALLEST = {
    "cswin": "agent_cswin_t", "deit": "inline_deit_t", "mlla": "mlla_t", "pvt": "pvt_tiny",
    "pvt_v2": "pvt_v2_b0", "rala": "ravlt_t", "soft": "soft_tiny", "swin": "inline_swin_t",
    "vit": "vit_micro",
}  # fmt: skip
KINDS = ("agent", "fnet", "polaformer", "window_shifted")
"""Landmarks and tables of the grid, no parameters, other widths inside, windows."""


@pytest.mark.parametrize("family", SMALLEST)
@pytest.mark.parametrize("variant", KINDS)
def test_a_variant_stands_in_a_family_or_says_why(variant: str, family: str) -> None:
    stands_or_says_why(variant, family, 100)


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALLEST)
@pytest.mark.parametrize("side", [224, 250, 384])
def test_every_variant_stands_in_every_family_or_says_why(family: str, side: int) -> None:
    for variant in names():
        stands_or_says_why(variant, family, side)


def stands_or_says_why(variant: str, family: str, side: int) -> None:
    """One block of each kind, on no memory: it classifies and counts, or building says why."""
    base = load_backbone(SMALLEST[family])
    assert base.family == family
    spec = replace(base, design=base.design.thinned()).with_variant(variant)
    if reasons := spec.unsupported(side):
        with pytest.raises(UnsupportedShape) as refusal:
            empty(spec, 10, side)
        assert all(reason in str(refusal.value) for reason in reasons)
        return
    built = empty(spec, 10, side).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = built(torch.empty(2, 3, side, side, device="meta"))
    assert tuple(logits.shape) == (2, 10)
    if load(variant).uncounted is None:
        assert counter.get_total_flops() == spec.flops(side, batch=2, num_classes=10)


def test_only_the_published_mechanism_is_exchanged() -> None:
    spec = load_backbone("inline_swin_t").with_variant("softmax")
    found = [p.mechanism.variant for p in spec.design.attentions(224)]
    assert found == ["softmax"] * 10 + ["window_shifted"] * 2
    assert spec.variant == "softmax"
    assert spec.flops() > load_backbone("inline_swin_t").flops()


def test_changes_keep_what_the_authors_set_stage_by_stage() -> None:
    spec = load_backbone("soft_tiny").with_variant("soft", {"newton_steps": 3})
    options = [
        p.mechanism.options for p in spec.design.attentions(224) if p.mechanism.variant == "soft"
    ]
    assert {o.newton_steps for o in options} == {3}
    assert [o.stride for o in options] == [8, 4, 4, 2, 2, 2]


def test_another_variant_comes_with_its_authors_options_by_stage() -> None:
    spec = load_backbone("inline_pvt_t").with_variant("spatial_reduction")
    found = [p.mechanism.options.reduction for p in spec.design.attentions(224)]
    assert found == [8, 8, 4, 4, 2, 2, 1, 1]
    reduced, plain = spec.flops(), load_backbone("inline_pvt_t").with_variant("softmax").flops()
    assert reduced < plain


def test_softmax_in_the_place_of_rala_gets_what_its_authors_put_around_softmax() -> None:
    """The rotation needs pairs of features by row and by column; another mechanism needs none."""
    spec = load_backbone("ravlt_t")
    assert {kind(block) for block in blocks(spec)} == {"ScaledBlock", "GatedRotaryBlock"}
    assert {kind(b) for b in blocks(spec.with_variant("softmax"))} == {"GatedRotaryBlock"}
    other = spec.with_variant("linear_elu")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        empty(other, 7, 96)(torch.empty(1, 3, 96, 96, device="meta"))
    assert counter.get_total_flops() == other.flops(96, num_classes=7)


def blocks(spec: BackboneSpec) -> list[nn.Module]:
    return [m for m in empty(spec).modules() if hasattr(m, "attention_norm")]


def kind(block: nn.Module) -> str:
    return type(block).__name__


def test_a_class_token_that_a_variant_cannot_take_is_a_reason() -> None:
    reasons = load_backbone("deit_tiny_patch16_224").with_variant("focused_linear").unsupported()
    assert reasons
    assert "class tokens" in reasons[0]


def test_a_layer_without_a_mix_is_a_reason_beside_the_convolution_of_values() -> None:
    reasons = load_backbone("inline_cswin_t").with_variant("spatial_reduction").unsupported()
    assert reasons
    assert "projections around a mix" in reasons[0]


# Published parameters -----------------------------------------------------------------------------


def official(spec: BackboneSpec) -> dict[str, Tensor]:
    """A published state dict of `tiny_deit`: our parameters under the authors' names."""
    ours = spec.build(10).state_dict()
    back = {
        "class_token": "cls_token", "positions": "pos_embed", "embed.": "patch_embed.proj.",
        "classify.": "head.", "attention_norm": "norm1", "mlp_norm": "norm2", "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2", "attention.mix.kernels": "attn.residual", "attention.qkv": "attn.qkv",
        "attention.out": "attn.proj",
    }  # fmt: skip
    found: dict[str, Tensor] = {}
    for name, value in ours.items():
        theirs = name
        for mine, published in back.items():
            theirs = theirs.replace(mine, published)
        found[theirs] = value.unsqueeze(-1) if "residual" in theirs and value.ndim == 2 else value
    return found


def test_adopting_gives_the_same_network() -> None:
    spec = tiny_deit()
    published = official(spec)
    built = spec.build(10)
    built.load_state_dict(spec.adopt_official(published))
    torch.testing.assert_close(built.state_dict()["norm.weight"], published["norm.weight"])
    assert set(published) & set(built.state_dict()) == {"norm.weight", "norm.bias"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.1.norm2.bias"), r"missing: blocks\.1\.mlp_norm\.bias"),
        (lambda s: s.update(surprise=torch.zeros(1)), "no place for.*surprise"),
        (lambda s: s.update({"blocks.1.attn.x": torch.zeros(1)}), r"blocks\.1\.attn.*no place"),
        (
            lambda s: s.update({"blocks.7.norm1.bias": s.pop("blocks.0.norm1.bias")}),
            "another model",
        ),
        (lambda s: s.pop("blocks.0.attn.proj.weight"), r"missing: blocks\.0\.attention\.out"),
        (lambda s: s.pop("blocks.0.attn.qkv.weight"), r"blocks\.0\.attn.*missing"),
    ],
    ids=["missing", "unknown", "in attention", "too deep", "no projection", "no input"],
)
def test_names_that_do_not_fit_are_named(change: Any, words: str) -> None:
    spec = tiny_deit()
    published = official(spec)
    change(published)
    with pytest.raises(KeyError, match=words):
        spec.adopt_official(published)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    with pytest.raises(KeyError, match=r"no place|another model"):
        load_backbone("pvt_tiny").adopt_official(official(tiny_deit()))


@pytest.mark.parametrize(
    "id_", ["deit_tiny_patch16_224", "flatten_pvt_t", "swin_tiny_patch4_window7_224"]
)
def test_position_tables_are_fitted_and_nothing_else(id_: str) -> None:
    spec = load_backbone(id_)
    published = {n: torch.ones(t.shape) for n, t in state(spec).items()}
    changed = spec.fitted(published, num_classes=10, resolution_px=288)
    wanted = {n: tuple(t.shape) for n, t in state(spec, 10, 288).items()}
    assert {n: tuple(t.shape) for n, t in changed.items()} == wanted
    for name, value in changed.items():
        torch.testing.assert_close(value, torch.ones(value.shape), msg=name)
    with pytest.raises(ValueError, match=r"classify\.(weight|bias) has shape"):
        spec.fitted(published, num_classes=11)


@dataclass(frozen=True)
class Table:
    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@pytest.mark.parametrize(
    "table",
    [
        Table("positions", (1, 1 + 16, 8), (1, 1 + 36, 8)),
        Table("blocks.0.mix.positional_encoding", (1, 16, 8), (1, 64, 8)),
        Table("mix.position_bias", (49, 3), (169, 3)),
        Table("mix.key_bias.rows", (1, 2, 9, 14, 1), (1, 2, 9, 16, 1)),
        Table("mix.query_bias.columns", (1, 2, 1, 14, 9), (1, 2, 1, 16, 9)),
    ],
    ids=lambda t: t.name,
)
def test_a_table_is_interpolated_along_the_grid_alone(table: Table) -> None:
    """A ramp over the last axis, the same at every place, stays that ramp."""
    ramp = torch.arange(table.before[-1]).float().expand(table.before)
    if table.before[-1] == 1 or table.name.endswith("columns"):
        ramp = torch.full(table.before, 3.0)
    found = fitted({table.name: ramp}, {table.name: table.after})[table.name]
    torch.testing.assert_close(found, ramp.flatten()[: table.after[-1]].expand(table.after))


@pytest.mark.parametrize(
    "table",
    [
        Table("positions", (1, 17, 8), (1, 37, 9)),
        Table("positions", (1, 17, 8), (1, 38, 8)),
        Table("weight", (4, 4), (5, 4)),
        Table("mix.key_bias.rows", (1, 2, 9, 14, 1), (1, 2, 16, 16, 1)),
    ],
    ids=["width", "no square", "weight", "two axes"],
)
def test_what_is_no_table_of_another_grid_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match="must be"):
        fitted({table.name: torch.zeros(table.before)}, {table.name: table.after})


def test_the_last_norm_that_is_never_called_is_never_called() -> None:
    design = PvtDesign(
        stages=stages((1, 1, 1, 1), (1, 2, 5, 8), (Mechanism(variant="softmax"),) * 4),
        norm_is_read=False,
    )
    built = design.build(5, 64).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = built(images)
        built.norm.weight.fill_(7.0)
        torch.testing.assert_close(built(images), before)
