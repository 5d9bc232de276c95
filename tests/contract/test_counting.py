"""The two FLOPs witnesses against hand-computed truth, and what each is known to miss."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid
from attention_impls.multihead import FunctionMix, MultiHead
from bench.counting import FvcoreCount, fft_flops, fvcore_flops, torch_flops

B, H, N, D, M = 2, 4, 64, 16, 32
SHAPE = AttentionShape(batch=B, grid=Grid(8, 8), heads=H, head_dim=D)
QUADRATIC = 2 * 2 * B * H * N * N * D
PROJECTIONS = 4 * 2 * B * N * (H * D) ** 2


def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT) * D**-0.5).softmax(-1) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def sdpa_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
    return torch.einsum("bhnm,bhmd->bhnd", weights, v)


def baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, flat = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    weights = torch.baddbmm(q.new_zeros(B * H, N, N), q, k.mT, beta=0).softmax(-1)
    return torch.bmm(weights, flat).view_as(v)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return (q @ (k.mT @ v)) / (q @ k.sum(-2).unsqueeze(-1))


def low_rank(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    project = q.new_ones(M, N)
    return (project @ v).sum(-2, keepdim=True) + 0 * q


def cumulative(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    state = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(-3)
    return (q.unsqueeze(-2) @ state).squeeze(-2)


def fourier(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.fft.fft2(v, dim=(-2, -1)).real


def real_fourier(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(v, dim=-2), n=N, dim=-2)


def vectors(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    row = k[0, 0, 0]
    return v + torch.mv(v[0, 0], row).sum() + torch.dot(row, row)


def additions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    one = v[0, 0]
    grown = torch.addmm(one, one, one.mT @ one) + torch.addbmm(one, v[0] @ v[0].mT, v[0])
    return (
        v + grown + torch.addmv(one[:, 0], one, one[0]).unsqueeze(-1) + torch.mm(one, one.mT @ one)
    )


def separable_convolution(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    maps = v.transpose(-1, -2).flatten(0, 1).unflatten(-1, (8, 8))
    mixed = F.conv2d(maps, maps.new_ones(D, 1, 3, 3), padding=1, groups=D)
    mixed = F.conv_transpose2d(mixed[:, :, ::2, ::2], maps.new_ones(D, D, 2, 2), stride=2)
    mixed = F.conv1d(mixed.flatten(2), maps.new_ones(D, D, 1))
    return mixed.transpose(1, 2).view_as(v)


CAUSAL = 2 * B * H * N * D * D
TRUTH = {
    eager: (QUADRATIC, QUADRATIC),
    sdpa: (QUADRATIC, QUADRATIC),
    sdpa_causal: (QUADRATIC, QUADRATIC),
    einsum: (QUADRATIC, QUADRATIC),
    baddbmm: (QUADRATIC, QUADRATIC),
    linear_attention: (2 * B * H * N * (2 * D * D + D),) * 2,
    low_rank: (2 * B * H * M * N * D,) * 2,
    # both are blind to outer products written as multiply-and-scan: the formula's is twice this
    cumulative: (CAUSAL, CAUSAL),
    fourier: (5 * B * H * N * D * (6 + 4), 0),
    real_fourier: (2 * 5 * B * H * N * D * 6 // 2, 0),
    # torch knows neither mv and dot nor addmv and addbmm
    vectors: (2 * (N * D + D), 0),
    additions: (
        2 * (4 * N * D * D + 2 * H * N * N * D + N * D),
        2 * (4 * N * D * D + H * N * N * D),
    ),
    separable_convolution: (
        2 * B * H * (N * D * 9 + N // 4 * D * D * 4 + N * D * D),
    ) * 2,
}  # fmt: skip


def layer_of(mix) -> MultiHead:
    return MultiHead(SHAPE, FunctionMix(mix)).requires_grad_(False)


@pytest.mark.parametrize("mix", TRUTH, ids=lambda f: f.__name__)
def test_fvcore_with_our_handles(mix) -> None:
    truth, _ = TRUTH[mix]
    layer = layer_of(mix)
    assert fvcore_flops(layer, SHAPE, "core") == FvcoreCount(truth, frozenset())
    assert fvcore_flops(layer, SHAPE) == FvcoreCount(truth + PROJECTIONS, frozenset())


@pytest.mark.parametrize("mix", TRUTH, ids=lambda f: f.__name__)
def test_torch_counter(mix) -> None:
    _, seen = TRUTH[mix]
    layer = layer_of(mix)
    assert torch_flops(layer, SHAPE, "core") == seen
    assert torch_flops(layer, SHAPE) == seen + PROJECTIONS
    assert {p.device.type for p in layer.parameters()} == {"cpu"}


class Core(nn.Module):
    """A mix as a module of its own, for fvcore without our handles."""

    def __init__(self, mix) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.mix(q, k, v)


@pytest.mark.parametrize(
    ("mix", "alone"),
    [
        (eager, QUADRATIC // 2),
        (sdpa, 0),
        (einsum, 1_049_000),
        (baddbmm, QUADRATIC // 4),
        (low_rank, B * H * M * N * D // 8),
        (fourier, 0),
        (additions, 327_680),
    ],
    ids=lambda p: getattr(p, "__name__", ""),
)
def test_fvcore_alone(mix, alone: int) -> None:
    """What fvcore's own handles make of the same operators, in multiply-adds: why ours exist.

    Only the first is right. When fvcore learns one of the others, this test says so.
    """
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(Core(mix), tuple(torch.zeros(B, H, N, D) for _ in range(3)))
    analysis.unsupported_ops_warnings(False)
    assert analysis.total() == alone
    assert (2 * alone == TRUTH[mix][0]) == (mix is eager)


class FastPath(nn.Module):
    """torch's own encoder layer: without gradients it runs as fused operators."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(H * D, H, 128, batch_first=True)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.inner(x)


def test_a_fused_layer_is_seen_to_be_unseen() -> None:
    layer = FastPath().eval()
    feed_forward = 2 * 2 * B * N * (H * D) * 128
    count = fvcore_flops(layer, SHAPE)
    assert count == FvcoreCount(feed_forward, frozenset({"_native_multi_head_attention"}))
    # on the meta device torch does not take its fast path
    assert torch_flops(layer, SHAPE) == feed_forward + PROJECTIONS + QUADRATIC


@pytest.mark.parametrize("tokens", [1024, 65_536, 1 << 20])
def test_torch_counter_is_exact_at_any_size(tokens: int) -> None:
    layer = layer_of(eager)
    shape = SHAPE.with_grid(Grid(1, tokens))
    assert torch_flops(layer, shape, "core") == 4 * B * H * tokens**2 * D


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.mark_non_differentiable()
        ctx.scale = 2
        return eager(q, k, v)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> None:
        raise NotImplementedError


class Outer(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return Opaque.apply(q, torch.special.bessel_j0(k), v).exp_()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> None:
        raise NotImplementedError


def opaque(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return Opaque.apply(q, k, v)


def nested(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return Outer.apply(q, k, v) + q @ (k.mT @ v)


def distances(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.cdist(q, k).softmax(-1) @ v


def three_operands(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhnd,bhmd,bhme->bhne", q, k, v)


def ellipsis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("...qd,...kd->...qk", q, k) @ v


@pytest.mark.parametrize(
    ("mix", "unseen"),
    [
        (distances, {"cdist"}),
        (three_operands, {"einsum(bhnd,bhmd,bhme->bhne)"}),
        (ellipsis, {"einsum(...qd,...kd->...qk)"}),
        (lambda q, k, v: torch.linalg.inv(v @ v.mT + torch.eye(N)) @ v, {"linalg_inv"}),
    ],
)
def test_fvcore_names_what_it_cannot_see(mix, unseen: set[str]) -> None:
    assert fvcore_flops(layer_of(mix), SHAPE, "core").unseen == unseen


def test_autograd_functions_are_looked_into() -> None:
    assert fvcore_flops(layer_of(opaque), SHAPE) == FvcoreCount(
        QUADRATIC + PROJECTIONS, frozenset()
    )
    both = FvcoreCount(QUADRATIC + 4 * B * H * N * D * D, frozenset({"special_bessel_j0"}))
    assert fvcore_flops(layer_of(nested), SHAPE, "core") == both
    assert torch_flops(layer_of(nested), SHAPE, "core") == both.flops


def sized(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    sizes = (*v.shape, v.size(-1), *v.size())
    assert [type(n) for n in sizes] == [int] * 9
    return v.reshape(min(sizes[0], 100), *v.shape[1:])


def test_sizes_are_integers_in_a_trace() -> None:
    assert fvcore_flops(layer_of(sized), SHAPE, "core") == FvcoreCount(0, frozenset())
    assert "shape" not in vars(Tensor)
    assert "size" not in vars(Tensor)


early = Opaque.apply


def test_a_function_bound_before_the_trace_is_unseen() -> None:
    count = fvcore_flops(layer_of(early), SHAPE, "core")
    assert count.unseen == {"prim::PythonOp.Opaque"}


def test_custom_operator_is_unseen_by_both() -> None:
    library = torch.library.Library("attnbench_test", "FRAGMENT")
    library.define("mix(Tensor q, Tensor k, Tensor v) -> Tensor")
    library.impl("mix", eager, "CPU")
    library.impl("mix", lambda q, k, v: torch.empty_like(q), "Meta")
    layer = layer_of(torch.ops.attnbench_test.mix)
    assert fvcore_flops(layer, SHAPE, "core") == FvcoreCount(0, frozenset({"attnbench_test::mix"}))
    assert torch_flops(layer, SHAPE, "core") == 0


def test_single_operand_einsum_is_no_contraction() -> None:
    layer = layer_of(lambda q, k, v: torch.einsum("bhnd->bhdn", v).mT)
    assert fvcore_flops(layer, SHAPE, "core") == FvcoreCount(0, frozenset())


def test_counters_are_quiet_and_leave_the_layer_alone() -> None:
    layer = layer_of(eager)
    layer.register_buffer("table", torch.ones(3))
    before = copy.deepcopy(layer.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch_flops(layer, SHAPE)
        fvcore_flops(layer, SHAPE)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_half_precision_layers_are_counted() -> None:
    layer = layer_of(eager).to(torch.bfloat16)
    assert fvcore_flops(layer, SHAPE).flops == torch_flops(layer, SHAPE) == QUADRATIC + PROJECTIONS


@pytest.mark.parametrize(
    ("elements", "lengths", "real", "want"),
    [
        (64, [64], False, 5 * 64 * 6),
        (64, [8, 8], False, 5 * 64 * 6),
        (64, [64], True, 5 * 64 * 3),
        (7, [7], False, 98),
    ],
)
def test_fft_flops(elements: int, lengths: list[int], real: bool, want: int) -> None:
    assert fft_flops(elements, lengths, real=real) == want
