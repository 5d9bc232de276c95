"""The stimulus: moments, distinctness, exact bits, independence of chunks, dtypes."""

import hashlib

import pytest
import torch
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid
from bench import stimulus
from bench.stimulus import fill_parameters, normal, workload_inputs

PINNED = [
    "0x1.b7e3040000000p-2",
    "-0x1.fc8bde0000000p-2",
    "0x1.15f0a60000000p-3",
    "0x1.5e32f20000000p+0",
]
SHAPE = AttentionShape(batch=2, grid=Grid(3, 5), heads=2, head_dim=4, extra_tokens=1)


def by_definition(name: str, index: int) -> float:
    """Element `index` of tensor `name` in Python integers, as the module's docstring defines it."""
    m = (1 << 32) - 1
    digest = hashlib.sha256(name.encode()).digest()
    x = (index + int.from_bytes(digest[:4]) + (index >> 32) * 0x2C1B3C6D) & m
    x = (x ^ (x >> 16)) * 0x21F0AAAD & m
    x = (x + int.from_bytes(digest[4:8])) & m
    x = (x ^ (x >> 15)) * 0x735A2D97 & m
    x ^= x >> 15
    total = (x & 0xFFFF) + (x >> 16)
    x = (x ^ (x >> 16)) * 0x2C1B3C6D & m
    x ^= x >> 15
    total += (x & 0xFFFF) + (x >> 16) - 131070
    scale = torch.tensor(1 / (4 * (65536**2 - 1) / 12) ** 0.5, dtype=torch.float32)
    return (torch.tensor(float(total)) * scale).item()


def assert_standard_normal(z: Tensor) -> None:
    """First four moments, tails, neighbours: within five standard errors."""
    z = z.double().flatten()
    error = 5 / z.numel() ** 0.5
    assert abs(z.mean()) < error
    assert abs(z.var() - 1) < 1.5 * error
    assert abs((z**3).mean()) < 3 * error
    assert abs((z**4).mean() - 2.7) < 6 * error
    assert 2.5 < z.abs().max() < 3.465
    for lag in (1, 2, 3, 64, 192, 1024):
        assert abs((z[lag:] * z[:-lag]).mean()) < error, f"neighbours at distance {lag} correlate"


@pytest.mark.parametrize("name", ["q/0", "k/17", "qkv.weight", ""])
def test_moments(name: str) -> None:
    assert_standard_normal(normal(name, (1 << 18,)))


@pytest.mark.parametrize(
    "broken",
    [
        lambda z: z * 1.05,
        lambda z: z + 0.05,
        torch.zeros_like,
        lambda z: z.view(-1, 64)[:, :1].expand(-1, 64),
        lambda z: z.sort().values,
        lambda z: z.sign(),
    ],
)
def test_moments_refuse_what_is_not_normal(broken) -> None:
    with pytest.raises(AssertionError):
        assert_standard_normal(broken(normal("q/0", (1 << 18,))))


def test_rows_are_in_general_position() -> None:
    """Singular values of a random matrix lie in the Marchenko-Pastur interval; repeats do not."""
    spread = torch.linalg.svdvals(normal("m", (512, 256)).double() / 512**0.5)
    assert 0.2 < spread[-1] < 0.4
    assert 1.6 < spread[0] < 1.8
    tiled = normal("m", (256, 256)).repeat(2, 1).double() / 512**0.5
    assert torch.linalg.svdvals(tiled)[0] > 1.8


@pytest.mark.parametrize("name", ["q/0", "out.bias"])
def test_bits_follow_the_definition(name: str) -> None:
    z = normal(name, (70_000,))
    for index in (0, 1, 2, 1023, 65_535, 65_536, 65_537, 69_999):
        assert z[index].item() == by_definition(name, index)


def test_pinned_bits() -> None:
    """These numbers are part of every published vector: they may never change."""
    assert [v.hex() for v in normal("q/0", (4,)).tolist()] == PINNED
    assert [v.hex() for v in normal("q/1", (4,)).tolist()] != PINNED


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000, 1 << 20])
def test_chunks_do_not_matter(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    want = normal("x/3", (999,))
    monkeypatch.setattr(stimulus, "_CHUNK", chunk)
    assert torch.equal(normal("x/3", (999,)), want)


def test_threads_and_axes_do_not_matter() -> None:
    flat = normal("x/3", (1 << 17,))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(normal("x/3", (2, 64, 1024)).flatten(), flat)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(normal("x/3", (5,)), flat[:5])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_are_casts_of_float32(dtype: torch.dtype) -> None:
    z = normal("x/0", (257,), dtype=dtype)
    assert z.dtype == dtype
    assert torch.equal(z, normal("x/0", (257,)).to(dtype))


def test_refuses_integer_dtypes() -> None:
    with pytest.raises(TypeError, match=r"torch\.int64, must be a floating type"):
        normal("x/0", (2,), dtype=torch.int64)


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    normal("x/0", (100,))
    fill_parameters(nn.Linear(3, 3, bias=False))
    after_linear = torch.get_rng_state()
    torch.set_rng_state(before)
    nn.Linear(3, 3, bias=False)
    assert torch.equal(torch.get_rng_state(), after_linear)


def test_empty_scalar_and_meta() -> None:
    assert normal("x", (0, 4)).shape == (0, 4)
    assert normal("x", ()).item() == normal("x", (3,))[0].item()
    huge = normal("x", (1 << 20, 1 << 20), device="meta")
    assert huge.shape == (1 << 20, 1 << 20)


def test_workload_inputs_are_distinct() -> None:
    """Roles, calls, batch items and heads: no two share their numbers."""
    tensors = [t for call in (0, 1) for t in workload_inputs(SHAPE, "core", call=call)]
    assert [tuple(t.shape) for t in tensors[:4]] == [(2, 2, 16, 4)] * 3 + [(2, 16, 8)]
    slices = [t[i, h] for t in tensors if t.ndim == 4 for i in range(2) for h in range(2)]
    slices += [t[i, :8] for t in tensors if t.ndim == 3 for i in range(2)]
    flat = [s.flatten() for s in slices]
    for i, a in enumerate(flat):
        for b in flat[:i]:
            assert (a[:64] == b[:64]).sum() <= 1


def test_workload_inputs_repeat_for_the_same_call() -> None:
    for a, b in zip(
        workload_inputs(SHAPE, "core", call=5), workload_inputs(SHAPE, "core", call=5), strict=True
    ):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_workload_inputs_of_levels() -> None:
    (x,) = workload_inputs(SHAPE, "layer", call=2, dtype=torch.bfloat16)
    assert torch.equal(x, workload_inputs(SHAPE, "core", call=2, dtype=torch.bfloat16)[3])
    q, k, v, _ = workload_inputs(SHAPE, "core", call=2, keys_are_queries=True)
    assert k is q
    assert not torch.equal(q, v)
    with pytest.raises(ValueError, match="call is -1, must be >= 0"):
        workload_inputs(SHAPE, "layer", call=-1)


class Everything(nn.Module):
    """One parameter of every kind that the rules of `fill_parameters` name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(400, 300)
        self.to_one = nn.Linear(400, 1)
        self.depthwise = nn.Conv2d(200, 200, 3, groups=200)
        self.norm = nn.LayerNorm(1000)
        self.positions = nn.Parameter(torch.full((1, 50, 20), 7.0))
        self.scale = nn.Parameter(torch.tensor(7.0))
        self.gain = nn.Parameter(torch.full((1000,), 7.0))
        self.projection = nn.Parameter(torch.full((40, 400), 7.0))
        self.register_buffer("features", torch.full((9,), 7.0))


def test_fill_parameters() -> None:
    module = Everything()
    fill_parameters(module)
    deviation = {n: p.std().item() for n, p in module.named_parameters() if p.numel() > 1}
    want = {
        "linear.weight": 0.05, "to_one.weight": 0.05, "depthwise.weight": 1 / 3,
        "projection": 0.05, "norm.weight": 0.1, "norm.bias": 0.02, "linear.bias": 0.02,
        "depthwise.bias": 0.02, "positions": 0.02, "gain": 0.02,
    }  # fmt: skip
    for name, value in want.items():
        assert deviation.get(name) == pytest.approx(value, rel=0.1), name
    assert module.norm.weight.mean().item() == pytest.approx(1, abs=0.02)
    assert abs(module.scale.item()) < 0.08
    assert (module.features == 7).all()
    assert all(p.requires_grad for p in module.parameters())


def test_fill_parameters_depends_on_the_name_alone() -> None:
    one, two = nn.ModuleDict({"a": nn.Linear(4, 4)}), nn.ModuleDict({"b": nn.Linear(4, 4)})
    again = nn.ModuleDict({"z": nn.Linear(2, 2), "a": nn.Linear(4, 4, dtype=torch.float64)})
    for module in (one, two, again):
        fill_parameters(module)
    torch.testing.assert_close(
        again["a"].weight, one["a"].weight, check_dtype=False, rtol=0, atol=0
    )
    assert not torch.equal(one["a"].weight, two["b"].weight)
