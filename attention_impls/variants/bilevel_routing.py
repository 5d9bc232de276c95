"""Bi-level routing attention (BiFormer): each region of the grid attends to the k nearest regions.

    O_i = sum_j softmax_j(q_i . k_j / sqrt(C)) v_j + L_i,    j in the k regions R of largest
    (mean q over the region of i) . (mean k over R)

q_i, k_j, v_j: query, key and value of one head, for the means those of all heads together, C
numbers; the grid is cut into S x S regions. The choice of regions is the same for all heads and
passes no gradient. L is a depthwise convolution of the values on the grid, with filters of its own
for each channel.

Zhu, Wang, Ke, Zhang, Lau, "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR
2023, https://arxiv.org/abs/2303.08810, section 3.2.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.local_convolution import local_convolution_flops
from attention_impls.parts.softmax_attention import SoftmaxAttention, softmax_attention_flops
from attention_impls.parts.windows import Windows
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
InRegions = Float[Tensor, "batch regions heads region_tokens head_dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BilevelRoutingOptions:
    """Options of bi-level routing attention."""

    regions: int = 7
    """Rows and columns S of regions."""
    attended: int = 16
    """Regions k that a region attends to; all of them where there are fewer."""
    local_residual: bool = True
    """Add L, the convolution of the values."""
    local_size: int = 5
    """Rows and columns of the filters of L; odd."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        for name in ("regions", "attended"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be >= 1")
        if self.local_size < 1 or self.local_size % 2 == 0:
            raise ValueError(f"local_size is {self.local_size}, must be odd and >= 1")


class BilevelRoutingMix(nn.Module):
    """The formula of the module docstring. Parameters: `local`, the filters of L, if it is on."""

    def __init__(self, shape: AttentionShape, options: BilevelRoutingOptions) -> None:
        """Build for the channels of `shape`; its grid plays no part."""
        super().__init__()
        self.options = options
        self.scale = shape.channels**-0.5
        self.attend = SoftmaxAttention()
        side = options.local_size
        self.local = (
            nn.Conv2d(
                shape.channels, shape.channels, side, padding=side // 2, groups=shape.channels
            )
            if options.local_residual
            else None
        )

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Return O; `x` plays no part."""
        regions = regions_of(grid, self.options)
        queries, keys, values = (regions.cut(t) for t in (q, k, v))
        chosen = self.routes(queries, keys, regions)
        absent = regions.absent_keys(q)
        bias = None if absent is None else _of_chosen(absent, chosen)
        # what is attended to differs from item to item: regions of all items stand side by side
        queries, keys, values = (
            t.flatten(0, 1).unsqueeze(0)
            for t in (queries, _gathered(keys, chosen), _gathered(values, chosen))
        )
        out = self.attend(queries, keys, values, bias, self.scale)
        mixed = regions.join(out.view(q.shape[0], -1, *out.shape[2:]))
        if self.local is None:
            return mixed
        image = v.transpose(1, 2).flatten(2).unflatten(1, (grid.height, grid.width))
        convolved = self.local(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return mixed + convolved.reshape(v.transpose(1, 2).shape).transpose(1, 2)

    def routes(
        self, q: InRegions, k: InRegions, regions: Windows
    ) -> Int[Tensor, "batch regions attended"]:
        """Return the regions that each region attends to."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        means_q, means_k = (_means(t.detach(), regions, dtype) for t in (q, k))
        nearness = (means_q * self.scale) @ means_k.mT
        return nearness.topk(min(self.options.attended, regions.count), -1).indices


def _means(
    x: InRegions, regions: Windows, dtype: torch.dtype
) -> Float[Tensor, "batch regions channels"]:
    """Mean over the tokens of each region."""
    totals = x.sum(3, dtype=dtype).flatten(2)
    return totals / _tokens_in(regions, totals)


def _tokens_in(regions: Windows, like: Tensor) -> Float[Tensor, "regions 1"]:
    """Tokens of each region; those at the border may have fewer."""
    sides = ((regions.grid.height, regions.rows), (regions.grid.width, regions.columns))
    rows, columns = (
        torch.tensor([min(side, length - start) for start in range(0, length, side)])
        for length, side in sides
    )
    return torch.outer(rows, columns).view(-1, 1).to(like)


def _gathered(
    x: InRegions, chosen: Int[Tensor, "batch regions attended"]
) -> Float[Tensor, "batch regions heads keys head_dim"]:
    """Return the tokens of the regions that each region attends to, side by side."""
    batch, regions, heads, tokens, head_dim = x.shape
    item = torch.arange(batch, device=x.device).view(-1, 1, 1) * regions
    head = torch.arange(heads, device=x.device).view(-1, 1)
    rows = ((chosen + item) * heads).unsqueeze(2) + head
    found = x.reshape(-1, tokens * head_dim).index_select(0, rows.flatten())
    return found.view(batch, regions, heads, -1, head_dim)


def _of_chosen(
    absent: Float[Tensor, "regions 1 1 region_tokens"],
    chosen: Int[Tensor, "batch regions attended"],
) -> Float[Tensor, "all_regions 1 1 keys"]:
    found = absent.flatten(1).index_select(0, chosen.flatten())
    return found.view(chosen.shape[0] * chosen.shape[1], 1, 1, -1)


def regions_of(grid: Grid, options: BilevelRoutingOptions) -> Windows:
    """Cut `grid` into at most S x S regions of equal size; the last ones may hold fewer tokens."""
    return Windows(
        grid=grid,
        rows=math.ceil(grid.height / options.regions),
        columns=math.ceil(grid.width / options.regions),
    )


def make(shape: AttentionShape, options: BilevelRoutingOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, BilevelRoutingMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: BilevelRoutingOptions) -> int:
    """4 B P k T C + 2 B R^2 C, and with the local residual 2 B N C t^2.

    B batch, N tokens, P places in all R regions of T places (N or more, R at most S^2), k regions
    attended to, C channels, t local_size.
    """
    regions = regions_of(shape.grid, options)
    batch, channels = shape.batch, shape.channels
    keys = min(options.attended, regions.count) * regions.tokens_each
    total = softmax_attention_flops(batch * regions.places, keys, channels)
    total += 2 * batch * regions.count**2 * channels
    if options.local_residual:
        total += local_convolution_flops(batch, shape.grid, channels, options.local_size)
    return total


def state_floats(shape: AttentionShape, options: BilevelRoutingOptions) -> int:
    """2 k T C: the keys and values of the regions attended to."""
    regions = regions_of(shape.grid, options)
    keys = min(options.attended, regions.count) * regions.tokens_each
    return 2 * keys * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `BiLevelRoutingAttention`."""
    mix = {f"lepe.{kind}": f"local.{kind}" for kind in ("weight", "bias")}
    return adopt_projections(official, ("qkv.qkv",), "wo", mix)


SPEC = AttentionSpec(
    name="bilevel_routing",
    title="Bi-level routing (BiFormer)",
    family="sparse",
    paper=Paper(
        title="BiFormer: Vision Transformer with Bi-Level Routing Attention",
        authors=("Lei Zhu", "Xinjiang Wang", "Zhanghan Ke", "Wayne Zhang", "Rynson Lau"),
        year=2023,
        venue="CVPR",
        url="https://arxiv.org/abs/2303.08810",
        equation="section 3.2",
        code="https://github.com/rayleizhu/BiFormer/tree/1697bbbeafb8680524898f1dcaac10defd0604be",
    ),
    revision=1,
    formula=r"O_i = \sum_{j \in R_1 \cup \dots \cup R_k} \mathrm{softmax}_j"
    r"\left(\frac{q_i^\top k_j}{\sqrt{C}}\right) v_j + L_i, \quad"
    r" R_1, \dots, R_k = \operatorname{topk}_R\, \bar q_{R(i)}^\top\, \bar k_R",
    deviations=(
        (
            "As in the authors' code, scores are divided by the root of all channels; the paper "
            "and softmax attention take those of a head."
        ),
        (
            "The published models attend to 1, 4, 16 and all 49 regions in their four stages; the "
            "default is that of the third, whose patches are 16 pixels wide."
        ),
        (
            "On grids that the regions do not divide, places beyond the border are hidden, are no "
            "part of a region's mean, and regions without a token do not exist. The authors' code "
            "refuses such grids, or fills up with zeros before the projections, whose bias then "
            "takes part in means and softmax."
        ),
        (
            "The coarser keys, the learned and the differentiable routing that the authors' code "
            "offers are not part of this layer; no published model uses them."
        ),
    ),
    scaling="The number of regions stays 7x7 while the grid grows, so that regions grow with it: "
    "cost is quadratic in tokens, by a factor of 49 / k below softmax attention. The paper raises "
    "the number of regions at larger resolutions.",
    options=BilevelRoutingOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 2.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=False,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
        continuous=False,
    ),
    adopt_official=adopt_official,
)
