"""The digits pixel by pixel: 64 tokens on a grid of 8 x 8, for questions about where tokens are.

Network, recipe and data are those of the task `digits`, but a token is a single pixel. Sixteen
tokens are too few to ask for windows, neighbourhoods or ranks: there a square of 7 x 7 tokens is
everything, and there are fewer tokens than channels of a head. A training takes seconds, too.
"""

from dataclasses import replace

from attention_impls.vit import VisionTransformer
from bench.datasets import digits
from bench.task import Assignment, Task
from bench.tasks.digits import RECIPE
from bench.tasks.digits import SIZE as COARSE

SIZE = replace(COARSE, patch_px=1)


def network(assignment: Assignment) -> VisionTransformer:
    """Build the network."""
    return VisionTransformer(assignment.spec, SIZE, assignment.options)


TASKS = (
    Task(
        name=f"digits_fine_{SIZE.grid.tokens}",
        title=f"Digits by pixels, {SIZE.grid.tokens} tokens",
        help=(
            "scikit-learn's 1,797 digits of 8 x 8 pixels, 1,437 to train and 360 to test; a "
            "two-block vision transformer with a token for each pixel; 10 epochs of AdamW, nothing "
            "tuned per variant. The analyses look into networks of this task."
        ),
        revision=1,
        chance=0.1,
        test_items=360,
        tokens=SIZE.grid.tokens,
        network=network,
        data=digits.read,
        training=RECIPE,
        recipe={"network": SIZE},
    ),
)
