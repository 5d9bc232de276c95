"""Ten handwritten digits of 8 x 8 pixels: a real accuracy in seconds, without a network.

A token is a patch of 2 x 2 pixels (16 tokens); two blocks, 64 channels.
"""

from attention_impls.vit import VisionTransformer, VisionTransformerSize
from bench.datasets import digits
from bench.recipe import Recipe
from bench.task import Assignment, Task

SIZE = VisionTransformerSize(
    resolution_px=8, patch_px=2, image_channels=1, classes=10, depth=2, heads=2, head_dim=32,
    mlp_ratio=2.0,
)  # fmt: skip
RECIPE = Recipe(
    epochs=10, batch=32, learning_rate=3e-3, weight_decay=0.05, warmup=0.1, label_smoothing=0.1,
    clip_norm=1.0,
)  # fmt: skip


def network(assignment: Assignment) -> VisionTransformer:
    """Build the network."""
    return VisionTransformer(assignment.spec, SIZE, assignment.options)


TASK = Task(
    name="digits",
    title="Digits (8 x 8)",
    help=(
        "scikit-learn's 1,797 digits, 1,437 to train and 360 to test; a two-block vision "
        "transformer with 16 tokens of 2 x 2 pixels; 10 epochs of AdamW, nothing tuned per variant."
    ),
    revision=1,
    chance=0.1,
    test_items=360,
    tokens=SIZE.grid.tokens,
    network=network,
    data=digits.read,
    training=RECIPE,
    recipe={"network": SIZE},
)
