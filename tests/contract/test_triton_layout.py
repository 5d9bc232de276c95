"""How tokens are cut into programs; needs neither triton nor a GPU."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_impls.triton_parts import layout
from attention_impls.triton_parts.layout import Blocks, block_width, blocks_of, launcher, rows

MULTIPROCESSORS = 132
"""Of an H200."""


def cut(sequences: int, tokens: int, head_dim: int, dtype: torch.dtype) -> Blocks:
    return blocks_of(torch.empty(sequences, 1, tokens, head_dim, dtype=dtype, device="meta"))


def gaps(blocks: Blocks) -> list[str]:
    """What is wrong with a cut: tokens that nobody has, programs that have none, torn blocks."""
    held = blocks.splits * blocks.tokens_per_split
    found = ["tokens without a program"] if held < blocks.tokens else []
    if (blocks.splits - 1) * blocks.tokens_per_split >= blocks.tokens:
        found.append("a program without tokens")
    if blocks.tokens_per_split % blocks.block_tokens:
        found.append("a torn block")
    return found


@pytest.fixture(autouse=True)
def many_multiprocessors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_multiprocessors", lambda _device: MULTIPROCESSORS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [16, 20, 64, 128])
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 1000, 4096, 65_536, 1_000_003])
@pytest.mark.parametrize("sequences", [1, 3, 64, 200, 4096])
def test_every_token_has_one_program(
    sequences: int, tokens: int, head_dim: int, dtype: torch.dtype
) -> None:
    blocks = cut(sequences, tokens, head_dim, dtype)
    assert gaps(blocks) == []
    assert blocks.programs == sequences * blocks.splits
    assert head_dim <= blocks.block_width == block_width(head_dim)


def test_wrong_cuts_are_noticed() -> None:
    """Negative control."""
    honest = cut(1, 1024, 64, torch.bfloat16)
    assert gaps(replace(honest, tokens_per_split=honest.tokens_per_split - 1)) == [
        "tokens without a program",
        "a torn block",
    ]
    assert gaps(replace(honest, splits=2 * honest.splits)) == ["a program without tokens"]


@pytest.mark.parametrize("tokens", [4096, 16_384, 65_536])
def test_long_sequences_fill_the_gpu_and_write_little_beside(tokens: int) -> None:
    """64 sequences of head_dim 64 in bfloat16: two programs a multiprocessor or nearly so."""
    blocks = cut(64, tokens, 64, torch.bfloat16)
    assert blocks.programs >= 1.9 * MULTIPROCESSORS
    partial_bytes = 2 * 4 * blocks.programs * (64 + 2) * 64
    assert partial_bytes <= 0.15 * 4 * 64 * tokens * 64 * 2


class Elsewhere(Tensor):
    """A tensor that says that it is on the second GPU."""

    is_cuda = True

    def get_device(self) -> int:
        return 1


def test_another_gpu_than_the_current_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def __getitem__(self, programs: tuple[int]) -> Any:
            return lambda: programs

    x = torch.zeros(1).as_subclass(Elsewhere)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert launcher(Kernel(), 3, x)() == (3,)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(ValueError, match=r"the current device is 0: call within torch\.cuda"):
        launcher(Kernel(), 3, x)


def test_rows_are_copied_only_where_numbers_lie_apart() -> None:
    stream = torch.zeros(2, 5, 3, 4, 16)[:, :, 0].transpose(1, 2)
    assert rows(stream) is stream
    for apart in (torch.zeros(()).expand(2, 3, 5, 16), torch.zeros(2, 3, 16, 5).mT):
        assert rows(apart).is_contiguous()
