"""What torch.compile does to the variants; prints one JSON object. Run by test_backends.py.

`traced`: every variant is one graph and gives the reference's output; how many sizes one process
can compile. `compiled`: output and gradients of compiled code.
"""

import json
import sys
from functools import partial

import torch
from contract.backend_parity import differences, layer
from torch import nn

from attention_impls import AttentionShape, Grid, compiled, load, names
from attention_impls.registry import load_backend
from bench.stimulus import normal

TRACED_ONLY = partial(torch.compile, backend="eager")
"""Traces as compiling does, and then runs the operators as they are: a second instead of ten."""


def graphs() -> dict[str, str]:
    compiled.torch.compile = TRACED_ONLY
    found: dict[str, str] = {}
    for name in names():
        shape = AttentionShape(2, Grid(14, 14), 2, 8)
        reference = layer(shape, "float32", variant=name)
        adopted = load_backend(name, "compile").adopt(reference)
        x = normal("x", (2, 196, 16)).requires_grad_()
        got, want = (module(x, shape.grid) for module in (adopted, reference))
        same = torch.equal(got, want) or (got - want).abs().max() < 1e-6
        found[name] = "equal" if same else "different"
    return found


def compiles(adopt: object) -> int:
    """Return how many of nine layers of different sizes run before an error."""
    for count in range(9):
        shape = AttentionShape(1, Grid(3, 3 + count), 2, 8)
        module = adopt(load("softmax").build(shape))
        try:
            module(torch.zeros(1, shape.tokens, 16), shape.grid)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            return count
    return 9


class Breaking(nn.Module):
    """Leaves the graph in the middle."""

    def forward(self, x: torch.Tensor, grid: Grid) -> torch.Tensor:
        y = x * 2
        torch._dynamo.graph_break()
        return y + grid.tokens


def shapes() -> dict[str, object]:
    torch.compile = TRACED_ONLY
    found: dict[str, object] = {"own code": compiles(compiled.Compiled)}
    torch.compiler.reset()
    found["shared code"] = compiles(partial(torch.compile, dynamic=False, fullgraph=True))
    try:
        compiled.Compiled(Breaking())(torch.zeros(1, 9, 4), Grid(3, 3))
        found["a graph break"] = "accepted"
    except torch._dynamo.exc.Unsupported:
        found["a graph break"] = "refused"
    return found


def parity() -> dict[str, list[str]]:
    shape = AttentionShape(2, Grid(7, 9), 2, 16)
    return {"softmax": differences(load_backend("softmax", "compile"), shape, "float32")}


FLEX = {
    "softmax": AttentionShape(2, Grid(9, 20), 2, 16, causal=True),
    "sliding_window": AttentionShape(2, Grid(1, 700), 2, 16, extra_tokens=2),
    "bigbird": AttentionShape(2, Grid(1, 1000), 2, 16),
}
"""Sequences that the default windows and blocks do not hold, and blocks do not divide."""


def flex() -> dict[str, float]:
    """Largest difference of each variant's FlexAttention from its reference, forward."""
    found: dict[str, float] = {}
    for name, shape in FLEX.items():
        reference = layer(shape, "float32", variant=name).requires_grad_(False)
        adopted = load_backend(name, "flex").adopt(reference)
        x = normal("x", (shape.batch, shape.tokens, shape.channels))
        got, want = (module(x, shape.grid) for module in (adopted, reference))
        found[name] = (got - want).abs().max().item()
    return found


if __name__ == "__main__":
    answer: dict[str, object]
    if sys.argv[1] == "flex":
        answer = {"flex": flex()}
    elif sys.argv[1] == "compiled":
        answer = {"parity": parity()}
    else:
        answer = {"graphs": graphs(), "shapes": shapes()}
    print(json.dumps(answer))  # noqa: T201
