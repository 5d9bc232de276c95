"""Softmax attention by torch's FlexAttention; causal, blocks above the diagonal are skipped."""

import torch
from torch import nn

from attention_impls.flex import FlexMix, Pattern, band, flex_backend


def _wrap(mix: nn.Module) -> FlexMix:
    causal = bool(mix.causal)

    def pattern(tokens: int, device: torch.device) -> Pattern | None:
        return band(tokens, tokens, 0, 0, device) if causal else None

    return FlexMix(pattern)


BACKEND = flex_backend("softmax", _wrap)
