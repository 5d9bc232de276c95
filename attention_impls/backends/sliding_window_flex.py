"""Sliding-window attention by torch's FlexAttention: blocks outside the window are skipped."""

from typing import cast

import torch
from torch import nn

from attention_impls.flex import FlexMix, Pattern, band, flex_backend


def _wrap(mix: nn.Module) -> FlexMix:
    before = cast(int, mix.window)
    after = 0 if mix.causal else before
    extra_tokens = cast(int, mix.extra_tokens)
    whole = cast("nn.Module | None", mix.whole)

    def pattern(tokens: int, device: torch.device) -> Pattern:
        return band(tokens, before, after, extra_tokens, device)

    return FlexMix(pattern, extra_tokens=extra_tokens, whole=whole)


BACKEND = flex_backend("sliding_window", _wrap)
