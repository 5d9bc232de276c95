"""Masked softmax attention by torch's FlexAttention: compiled, blocks that nobody sees skipped.

A variant's pattern is a rule for single pairs of tokens, and a list of the blocks of pairs that are
seen wholly or in part. The list is worked out from the structure of the rule, so that no tokens x
tokens mask is formed.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from attention_impls import compiled
from attention_impls.multihead import MultiHead
from attention_impls.shapes import Grid
from attention_impls.spec import Backend, DType, Execution, Tolerance

Heads = Float[Tensor, "batch heads tokens head_dim"]
Blocks = Bool[Tensor, "heads query_blocks key_blocks"]
MaskRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

BLOCK_TOKENS = 128
"""Tokens of a block of FlexAttention where the variant has no blocks of its own."""

TOLERANCE: dict[DType, Tolerance] = {
    "float32": Tolerance(absolute=1e-5, relative=1e-4),
    "bfloat16": Tolerance(absolute=2e-2, relative=3e-2),
    "float16": Tolerance(absolute=4e-3, relative=6e-3),
}

_LEAST_HEAD_DIM = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Which tokens see which."""

    rule: MaskRule
    """Maps numbers of batch item, head, query and key to whether the query sees the key."""
    some: Blocks
    """Blocks of which a query sees a key; the first axis is 1 where all heads are alike."""
    every: Blocks
    """Blocks of which every query sees every key, all of them within the sequence."""
    block: int
    """Tokens of a block."""

    def block_mask(self, tokens: int) -> BlockMask:
        """Return FlexAttention's form, for sequences of `tokens`."""
        partial, full = (_listed(t) for t in (self.some & ~self.every, self.every))
        return BlockMask.from_kv_blocks(
            *partial,
            *full,
            BLOCK_SIZE=self.block,
            mask_mod=self.rule,
            seq_lengths=(tokens, tokens),
        )


def _listed(blocks: Blocks) -> tuple[Int[Tensor, "1 heads rows"], Int[Tensor, "1 heads rows keys"]]:
    """How many blocks each row has, and their numbers in front of those that it has not."""
    flags = blocks.to(torch.int32).unsqueeze(0)
    order = flags.argsort(dim=-1, descending=True, stable=True)
    return flags.sum(-1, dtype=torch.int32), order.to(torch.int32)


def band(tokens: int, before: int, after: int, always: int, device: torch.device) -> Pattern:
    """Return the pattern of windows along the sequence.

    Args:
        tokens: length of the sequence.
        before: tokens that a query sees before its own.
        after: tokens that it sees after its own.
        always: tokens at the start that every query sees.
        device: where the pattern is used.
    """
    size = BLOCK_TOKENS
    first = torch.arange(0, tokens, size, device=device)
    last = (first + size).clamp(max=tokens) - 1
    nearest = first[:, None] - last
    farthest = last[:, None] - first
    some = (nearest <= before) & (farthest >= -after) | (first < always)
    every = (farthest <= before) & (nearest >= -after) & (first + size <= tokens)

    def rule(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = (query - key <= before) & (key - query <= after)
        return near | (key < always) if always else near

    return Pattern(rule=rule, some=some[None], every=every[None], block=size)


def blockwise(visible: Blocks, tokens: int, block: int) -> Pattern:
    """Return the pattern of blocks that are seen wholly or not at all.

    Args:
        visible: which block sees which, for each head.
        tokens: length of the sequence; the last block may be shorter.
        block: tokens of a block.
    """
    every = visible.clone()
    if tokens % block:
        every[..., -1] = False

    def rule(_batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible[head, query // block, key // block]

    return Pattern(rule=rule, some=visible, every=every, block=block)


class _Attend(nn.Module):
    """FlexAttention as a module."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: BlockMask | None) -> Tensor:
        return flex_attention(q, k, v, block_mask=mask)  # pyright: ignore[reportReturnType]


class FlexMix(nn.Module):
    """A mix in one compiled call; patterns are made once for each number of tokens.

    Parameters: those of `whole`, if the variant has one.
    """

    def __init__(
        self,
        pattern: Callable[[int, torch.device], Pattern | None],
        *,
        extra_tokens: int = 0,
        whole: nn.Module | None = None,
    ) -> None:
        """Build.

        Args:
            pattern: of sequences of so many tokens; None: every token sees every token.
            extra_tokens: leading tokens whose output `whole` computes from the layer's input.
            whole: maps the layer's input to [batch, heads, extra_tokens, head_dim].
        """
        super().__init__()
        self.pattern = pattern
        self.extra_tokens = extra_tokens
        self.whole = whole
        self.attend = compiled.Compiled(_Attend())
        self.masks: dict[tuple[int, torch.device], BlockMask | None] = {}

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend."""
        out = self.attend(q, k, v, self._mask(q.shape[2], q.device))
        if self.whole is None:
            return out
        return torch.cat((self.whole(x), out[:, :, self.extra_tokens :]), 2)

    def _mask(self, tokens: int, device: torch.device) -> BlockMask | None:
        key = (tokens, device)
        if key not in self.masks:
            pattern = self.pattern(tokens, device)
            self.masks[key] = None if pattern is None else pattern.block_mask(tokens)
        return self.masks[key]


def flex_backend(
    variant: str,
    wrap: Callable[[nn.Module], FlexMix],
    limits: Callable[[Execution], tuple[str, ...]] = lambda _execution: (),
) -> Backend:
    """Return the backend `flex` of `variant`.

    Args:
        variant: name of the variant.
        wrap: makes the mix from the reference's; raises AttributeError if it is another variant's.
        limits: reasons of this variant why an execution is impossible.
    """

    def adopt(layer: nn.Module) -> nn.Module:
        if not isinstance(layer, MultiHead):
            raise TypeError(f"backend flex: got {type(layer).__name__}, must be a MultiHead layer")
        try:
            mix = wrap(cast(nn.Module, layer.mix))
        except AttributeError as missing:
            raise TypeError(
                f"backend flex: the layer's mix is not that of variant {variant}: {missing}"
            ) from None
        # a copy of the modules around the very same parameters
        adopted = copy.deepcopy(layer, {id(p): p for p in layer.parameters()})
        adopted.mix = mix
        return adopted

    def unsupported(execution: Execution) -> tuple[str, ...]:
        reasons = [*compiled.unsupported(execution), *limits(execution)]
        if execution.device == "cpu" and execution.backward:
            reasons.append("FlexAttention has no backward pass on CPU: use the reference")
        if execution.device == "cuda" and execution.shape.head_dim < _LEAST_HEAD_DIM:
            reasons.append(
                f"FlexAttention on CUDA needs head_dim >= {_LEAST_HEAD_DIM}, "
                f"got {execution.shape.head_dim}"
            )
        return tuple(reasons)

    return Backend(
        variant=variant,
        name="flex",
        title="FlexAttention",
        requires=(),
        unsupported=unsupported,
        adopt=adopt,
        tolerance=TOLERANCE,
    )
