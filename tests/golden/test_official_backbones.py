"""Whole networks against the authors' code: names, numbers of parameters, multiply-adds, logits."""

from collections.abc import Iterator

import pytest
import torch
from golden.published_backbones import PublishedBackbone, published_backbones
from torch.utils.flop_counter import FlopCounterMode

from attention_impls import backbones, load_backbone
from attention_impls.backbone import BackboneSpec

PUBLISHED = published_backbones()
CONFIGURATIONS = [name for name in PUBLISHED if "@" not in name]
RUN_HERE = (
    "agent_deit_t",
    "cswin_64_12211_tiny_224",
    "flatten_pvt_v2_b0",
    "inline_deit_t",
    "inline_pvt_t",
    "inline_swin_t",
    "mlla_t",
    "pola_pvt_t",
    "pvt_tiny",
    "pvt_v2_b0",
    "ravlt_t",
    "soft_tiny@B",
    "soft_tiny_norm",
)
"""Every family and mechanism; all other configurations are marked slow and need minutes."""


def meta_weights(case: PublishedBackbone) -> dict[str, torch.Tensor]:
    return {n: torch.empty(s, device="meta") for n, s in case.shapes.items()}


def network(case: PublishedBackbone, dtype: torch.dtype) -> torch.nn.Module:
    spec = load_backbone(case.id)
    official = case.weights()
    for name in spec.unused_official(meta_weights(case)):
        official.pop(name, None)
    built = spec.build()
    # counters of batch norm are not filled; they play no part in evaluation
    counters = {n: torch.zeros(()) for n in case.shapes if n.endswith("num_batches_tracked")}
    built.load_state_dict(spec.adopt_official(official | counters))
    return built.to(dtype).eval()


def logits(case: PublishedBackbone, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.inference_mode():
        return network(case, dtype)(case.images(dtype))


@pytest.mark.parametrize("name", RUN_HERE)
def test_logits_are_those_of_the_authors_code(name: str) -> None:
    PUBLISHED[name].check(logits(PUBLISHED[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PUBLISHED if n not in RUN_HERE])
def test_logits_of_the_others_are_those_of_the_authors_code(name: str) -> None:
    PUBLISHED[name].check(logits(PUBLISHED[name]))


@pytest.mark.parametrize("name", ["inline_deit_t", "mlla_t", "pvt_v2_b0", "ravlt_t", "soft_tiny@B"])
def test_in_float64_they_agree_to_ten_digits(name: str) -> None:
    PUBLISHED[name].check(logits(PUBLISHED[name], torch.float64))


def test_a_small_change_of_one_weight_is_noticed() -> None:
    """Negative control."""
    case = PUBLISHED["inline_deit_t"]
    built = network(case, torch.float32)
    with torch.inference_mode():
        built.norm.bias[0] += 0.01
        with pytest.raises(AssertionError, match="not close"):
            case.check(built(case.images(torch.float32)))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_names_shapes_and_number_of_parameters_are_the_published_ones(name: str) -> None:
    case, spec = PUBLISHED[name], load_backbone(name)
    with torch.device("meta"):
        built = spec.build()
    assert sum(p.numel() for p in built.parameters()) == case.parameters
    assert spec.parameters() == case.parameters
    official = meta_weights(case)
    adopted = spec.fitted(spec.adopt_official(official), num_classes=1000)
    assert {n: tuple(t.shape) for n, t in adopted.items()} == {
        n: tuple(t.shape) for n, t in built.state_dict().items()
    }
    learned = sum(t.numel() for n, t in official.items() if n not in spec.unused_official(official))
    assert learned == sum(t.numel() for t in adopted.values())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    """Within half a percent of the authors' matrix products and convolutions; SOFT's exactly.

    Norms (fvcore counts five for each number), pooling and interpolation are no contractions.
    """
    spec, case = load_backbone(name), PUBLISHED[name]
    ours = spec.flops() // 2
    if spec.family == "soft":
        assert ours + superfluous(spec) - hidden(spec) == case.contractions
    else:
        assert abs(ours - case.contractions) <= 0.005 * case.contractions


def softmax_free(spec: BackboneSpec) -> Iterator[tuple[int, int, int, int]]:
    """Tokens, landmarks, heads and channels of a head of each block without softmax."""
    for placed in spec.design.attentions(spec.resolution_px):
        if placed.mechanism.variant == spec.variant:
            shape, stride = placed.shape, placed.mechanism.options.stride
            landmarks = (shape.grid.height // stride) * (shape.grid.width // stride)
            yield shape.tokens, landmarks, shape.heads, shape.head_dim


def superfluous(spec: BackboneSpec) -> int:
    """Multiply-adds that SOFT's code makes and this does not, operator by operator.

    Squared norms of points and of centres by products with matrices of ones, (h + 1) (N + m) m d;
    and K inv(A) before K^T V instead of after, h m^2 (N - d). h heads, N tokens, m landmarks.
    """
    return sum(
        (heads + 1) * (tokens + marks) * marks * width + heads * marks**2 * (tokens - width)
        for tokens, marks, heads, width in softmax_free(spec)
    )


def hidden(spec: BackboneSpec) -> int:
    """Those of Newton's iteration, 40 h m^3, which SOFT's own function hides from the counter."""
    if spec.variant == "soft_norm":
        return 0
    return sum(40 * heads * marks**3 for _, marks, heads, _ in softmax_free(spec))


@pytest.mark.parametrize("name", [n for n in RUN_HERE if "@" not in n] + ["vit_tiny"])
def test_the_formula_counts_what_torch_counts(name: str) -> None:
    formula_and_counter(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", backbones())
def test_every_formula_counts_what_torch_counts(name: str) -> None:
    formula_and_counter(name)


def formula_and_counter(name: str) -> None:
    spec = load_backbone(name)
    with torch.device("meta"):
        built = spec.build().eval()
        images = torch.empty(1, 3, spec.resolution_px, spec.resolution_px)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built(images)
    assert counter.get_total_flops() == spec.flops()


def test_every_published_configuration_is_compared() -> None:
    published = {n for n in backbones() if load_backbone(n).published.source is not None}
    assert published == set(CONFIGURATIONS)
