"""Causal depthwise convolution of queries, keys and values over a few tokens, then silu."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.shapes import AttentionShape

Heads = Float[Tensor, "batch heads tokens head_dim"]


class ShortConvolution(nn.Module):
    """silu(sum_s w_s x_{i - s} + b) for each channel of q, k and v.

    Parameters: `weight` [3 channels, 1, size], its last column being that of the token itself, and
    `bias` [3 channels] if there is one; q first, then k, then v.
    """

    def __init__(self, shape: AttentionShape, *, size: int, bias: bool) -> None:
        """Initialise as torch does a convolution.

        Args:
            shape: sizes; the channels are used.
            size: tokens that each output sees, itself included; 0 leaves only silu.
            bias: add a bias.
        """
        super().__init__()
        self.size = size
        channels = 3 * shape.channels
        made = nn.Conv1d(channels, channels, size, groups=channels, bias=bias) if size else None
        self.weight = None if made is None else made.weight
        self.bias = None if made is None else made.bias

    def forward(self, q: Heads, k: Heads, v: Heads) -> tuple[Heads, Heads, Heads]:
        """Convolve each; extra tokens are tokens of the sequence like all others."""
        if self.weight is None:
            return F.silu(q), F.silu(k), F.silu(v)
        weights = self.weight.chunk(3)
        biases = (None, None, None) if self.bias is None else self.bias.chunk(3)
        first, second, third = (
            F.silu(self._convolved(t, weight, bias))
            for t, weight, bias in zip((q, k, v), weights, biases, strict=True)
        )
        return first, second, third

    def _convolved(self, heads: Heads, weight: Tensor, bias: Tensor | None) -> Heads:
        batch, count, tokens, head_dim = heads.shape
        stream = heads.transpose(1, 2).reshape(batch, 1, tokens, count * head_dim)
        # an image of one row with its channels together in memory, which CPUs convolve fastest
        image = F.pad(stream, (0, 0, self.size - 1, 0)).permute(0, 3, 1, 2)
        out = F.conv2d(image, weight.unsqueeze(2), bias, groups=count * head_dim)
        return out.permute(0, 2, 3, 1).reshape(batch, tokens, count, head_dim).transpose(1, 2)


def short_convolution_flops(batch: int, tokens: int, channels: int, size: int) -> int:
    """6 B N C size: three streams, each channel by itself."""
    return 6 * batch * tokens * channels * size
