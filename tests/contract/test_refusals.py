"""What a layer says to an input that is not its own, as a program sees it that only imports it.

In a process without pytest's import hook, which would refuse wrong types before the layer does.
"""

import json
from typing import Any

import pytest
from copied_tree import ROOT, run_in

from attention_impls import names

PROBE = """
import json, sys
import torch
from attention_impls import AttentionShape, Grid, load, names
from attention_impls.multihead import MultiHead
from attention_impls.parts.gated_heads import GatedHeads
from attention_impls.parts.gated_multihead import GatedMultiHead
from attention_impls.parts.reduced_multihead import ReducedMultiHead

LAYERS = (MultiHead, GatedHeads, GatedMultiHead, ReducedMultiHead)
SHARED = {(c.forward, c.project) for c in LAYERS}

def said(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ['taken', '']

def probed(name):
    spec = load(name)
    shapes = (AttentionShape(2, grid, 2, 4) for grid in (Grid(6, 5), Grid(14, 14), Grid(16, 16)))
    shape = next(s for s in shapes if not spec.unsupported(s))
    layer, grid, channels = spec.build(shape), shape.grid, shape.channels
    if sys.argv[1:]:
        layer.forward = lambda x, grid: x
    x = torch.ones(2, shape.tokens, channels)
    return {
        'shared': (type(layer).forward, getattr(type(layer), 'project', None)) in SHARED,
        'slips': {
            'an image': said(lambda: layer(torch.ones(2, channels, *GRID(grid)), grid)),
            'one sequence without batch': said(lambda: layer(x[0], grid)),
            'no sequence': said(lambda: layer(x[:0], grid)),
            'a token too many': said(lambda: layer(torch.ones(2, shape.tokens + 1, channels), grid)),
            'a channel too many': said(lambda: layer(torch.ones(2, shape.tokens, channels + 1), grid)),
            'a grid that is a tuple': said(lambda: layer(x, GRID(grid))),
        },
        'a shape that is a tuple': said(lambda: spec.build((2, 30, 8))),
        'flops of a tuple': said(lambda: spec.flops((2, 30, 8))),
    }

GRID = lambda grid: (grid.height, grid.width)
slips = {
    'shapes with a tuple': said(lambda: AttentionShape(2, (6, 5), 2, 4)),
    'causal in words': said(lambda: AttentionShape(2, Grid(6, 5), 2, 4, causal='no')),
}
print(json.dumps([{name: probed(name) for name in sys.argv[1:] or names()}, slips]))
"""  # noqa: E501

SENTENCES = {
    "an image": ("UnsupportedShape", "must be [batch, tokens, channels]; an image"),
    "one sequence without batch": ("UnsupportedShape", "must be [batch, tokens, channels]"),
    "no sequence": ("UnsupportedShape", "must hold one sequence at least"),
    "a token too many": ("UnsupportedShape", "pass the grid of this call"),
    "a channel too many": ("UnsupportedShape", "x has 9 channels, this layer has 8"),
    "a grid that is a tuple": ("TypeError", "must be a Grid: Grid(height, width)"),
}


@pytest.fixture(scope="module")
def found() -> Any:
    done = run_in(ROOT, "-c", PROBE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def unclear(found: Any, name: str) -> dict[str, list[str]]:
    """Slips that variant `name` takes, or that a layer with the shared call answers otherwise.

    A layer with a call of its own may leave channels and types to torch's errors, and may answer no
    sequence by none.
    """
    layer = found[0][name]
    return {
        slip: [kind, message]
        for slip, (kind, message) in layer["slips"].items()
        if (kind == "taken" and (layer["shared"] or slip != "no sequence"))
        or (layer["shared"] and (kind != SENTENCES[slip][0] or SENTENCES[slip][1] not in message))
    }


@pytest.mark.parametrize("name", names())
def test_an_input_that_is_not_the_layers_is_refused_in_words(found: Any, name: str) -> None:
    assert unclear(found, name) == {}
    for slip in ("a shape that is a tuple", "flops of a tuple"):
        kind, message = found[0][name][slip]
        assert (kind, message.split(",")[0]) == ("TypeError", f"{name}: shape is (2"), message


def test_most_layers_share_their_call(found: Any) -> None:
    """So that the sentences above are what nearly everybody reads."""
    own = sorted(name for name, layer in found[0].items() if not layer["shared"])
    assert len(own) < len(names()) / 3, own


def test_sizes_refuse_what_is_no_grid_and_no_truth_value(found: Any) -> None:
    kind, message = found[1]["shapes with a tuple"]
    assert kind == "TypeError"
    assert message.startswith("AttentionShape: grid is (6, 5), must be a Grid(height, width);")
    said = ["TypeError", "AttentionShape: causal is 'no', must be True or False"]
    assert found[1]["causal in words"] == said


def test_a_layer_that_takes_anything_is_noticed() -> None:
    """Negative control."""
    done = run_in(ROOT, "-c", PROBE, "softmax")
    assert done.returncode == 0, done.stderr
    careless = json.loads(done.stdout)
    assert set(unclear(careless, "softmax")) == set(SENTENCES)
