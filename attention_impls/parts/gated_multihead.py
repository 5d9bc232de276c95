"""A layer whose mixed values are multiplied, element by element, by a linear map of its input."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, merge_heads, require_tokens
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import Mix, StateDict

Stream = Float[Tensor, "batch tokens channels"]


class GatedMultiHead(MultiHead):
    """x -> q, k, v -> mix -> times gate(x) -> out. Parameters: those of MultiHead, and `gate`."""

    def __init__(self, shape: AttentionShape, mix: Mix, *, qkv_bias: bool = True) -> None:
        """Build for the channels of `shape`; the gate has a bias if q, k and v have one."""
        super().__init__(shape, mix, qkv_bias=qkv_bias)
        self.gate = nn.Linear(shape.channels, shape.channels, bias=qkv_bias)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        require_tokens(x, grid, self.extra_tokens)
        q, k, v = self.project(x)
        return self.out(self.gated(merge_heads(self.mix(q, k, v, x, grid)), x))

    def gated(self, mixed: Stream, x: Stream) -> Stream:
        """Return the mixed values times the gate; no activation between."""
        return mixed * self.gate(x)


def adopt_gated(
    official: StateDict, fused: str, out: str, others: dict[str, str]
) -> dict[str, Tensor]:
    """Map a published layer whose q, k, v and gate are one map, linear or a 1x1 convolution.

    Args:
        official: the authors' state dict of one attention module.
        fused: prefix of the map to q, k, v and gate, in this order.
        out: prefix of the output projection.
        others: published parameter name -> our name in the layer.

    Raises:
        KeyError: a published parameter that this mapping does not know (nothing is dropped).
    """
    weight = official[f"{fused}.weight"].flatten(1)
    ours = ("qkv", "gate")
    cut = 3 * (weight.shape[0] // 4)
    adopted = dict(zip((f"{n}.weight" for n in ours), weight.tensor_split((cut,)), strict=True))
    adopted["out.weight"] = official[f"{out}.weight"].flatten(1)
    if f"{fused}.bias" in official:
        biases = torch.tensor_split(official[f"{fused}.bias"], (cut,))
        adopted |= zip((f"{n}.bias" for n in ours), biases, strict=True)
    if f"{out}.bias" in official:
        adopted["out.bias"] = official[f"{out}.bias"]
    known = {f"{name}.{kind}" for name in (fused, out) for kind in ("weight", "bias")}
    if unknown := sorted(set(official) - known - set(others)):
        raise KeyError(f"no place for the published parameters {', '.join(unknown)}")
    return adopted | {others[name]: official[name] for name in others if name in official}
