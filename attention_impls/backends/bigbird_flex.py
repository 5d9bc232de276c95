"""BigBird by torch's FlexAttention: blocks that a block does not see are skipped, none gathered."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_impls.flex import FlexMix, Pattern, blockwise, flex_backend
from attention_impls.spec import Execution

_BLOCKS = (64, 128, 256)
"""Sizes that FlexAttention's kernels can be tiled with."""


def _wrap(mix: nn.Module) -> FlexMix:
    visible = cast("Callable[[int, torch.device], Tensor | None]", mix.visible_blocks)
    options: Any = mix.options
    block = int(options.block_tokens)

    def pattern(tokens: int, device: torch.device) -> Pattern | None:
        blocks = visible(tokens, device)
        return None if blocks is None else blockwise(blocks, tokens, block)

    return FlexMix(pattern)


def _limits(execution: Execution) -> tuple[str, ...]:
    block = execution.options.block_tokens
    if block in _BLOCKS:
        return ()
    allowed = ", ".join(map(str, _BLOCKS))
    return (f"FlexAttention needs blocks of {allowed} tokens, got block_tokens={block}",)


BACKEND = flex_backend("bigbird", _wrap, _limits)
