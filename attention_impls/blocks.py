"""Pieces of networks that the backbone families share where the mathematics is the same."""

from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import MultiHead, merge_heads
from attention_impls.shapes import Grid, UnsupportedShape

Stream = Float[Tensor, "batch tokens channels"]
Images = Float[Tensor, "batch image_channels height width"]
Maps = Float[Tensor, "batch map_channels height width"]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, attention: nn.Module, channels: int, inner: int, *, epsilon: float = 1e-5
    ) -> None:
        """Build around `attention`.

        Args:
            attention: the layer, which takes tokens and their grid.
            channels: width of the token stream.
            inner: width inside the multilayer perceptron.
            epsilon: of both norms.
        """
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=epsilon)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(channels, eps=epsilon)
        self.mlp = mlp(channels, inner)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Apply both branches."""
        x = x + self.attention(self.attention_norm(x), grid)
        return x + self.mlp(self.mlp_norm(x))


class TakesAttentionApart(nn.Module):
    """A block that calls projections and mix of its attention one by one: a `MultiHead`."""


class LocalPositionBlock(TakesAttentionApart):
    """A block that adds a depthwise convolution of the values to what any mechanism mixes.

    Parameters: those of `Block`, and `local_positions`. The mechanism's mix sees the block's input
    before its norm, which is what InLine's published code gives it.
    """

    def __init__(self, attention: MultiHead, channels: int, inner: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = attention
        self.local_positions = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = mlp(channels, inner)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Apply both branches."""
        q, k, v = self.attention.project(self.attention_norm(x))
        local = tokens_of(self.local_positions(maps_of(merge_heads(v), grid)))
        mixed = merge_heads(self.attention.mix(q, k, v, x, grid))
        x = x + self.attention.out(mixed + local)
        return x + self.mlp(self.mlp_norm(x))


def mlp(channels: int, inner: int) -> nn.Sequential:
    """Linear, GELU, linear."""
    return nn.Sequential(nn.Linear(channels, inner), nn.GELU(), nn.Linear(inner, channels))


def mlp_flops(tokens: int, channels: int, inner: int) -> int:
    """4 N C H for N tokens, C channels, H inner."""
    return 4 * tokens * channels * inner


def linear_flops(tokens: int, inputs: int, outputs: int) -> int:
    """2 N I O."""
    return 2 * tokens * inputs * outputs


def convolution_flops(positions: int, inputs: int, outputs: int, side: int, groups: int = 1) -> int:
    """2 n (I / groups) O side^2 for n output positions; padding counts as if it were multiplied."""
    return 2 * positions * (inputs // groups) * outputs * side**2


def tokens_of(maps: Maps) -> Stream:
    """[batch, channels, height, width] -> tokens row by row."""
    return maps.flatten(2).transpose(1, 2)


def maps_of(x: Stream, grid: Grid) -> Maps:
    """Tokens -> [batch, channels, height, width]: a view whose channels lie together in memory."""
    return x.unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)


def require_side(images: Images, resolution_px: int) -> None:
    """Raise UnsupportedShape unless the images have the side that the network was built for."""
    if tuple(images.shape[2:]) != (resolution_px, resolution_px):
        raise UnsupportedShape(
            f"images are {images.shape[2]}x{images.shape[3]} px, the network was built for "
            f"{resolution_px}x{resolution_px}; build it with resolution_px={images.shape[3]}"
        )


def start_as_published(network: nn.Module) -> None:
    """Linear maps from a normal distribution of deviation 0.02 cut at +-2, biases zero.

    The start that the authors of all families here share (DeiT's code).
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    nn.init.zeros_(parameter)
