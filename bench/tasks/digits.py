"""Ten handwritten digits of 8 x 8 pixels: a real accuracy in seconds, without a network.

A token is a patch of 2 x 2 pixels (16 tokens); two blocks, 64 channels.
"""

import time
from typing import Any

import torch

from attention_impls.spec import AttentionSpec
from attention_impls.vit import VisionTransformer, VisionTransformerSize
from bench.datasets import digits
from bench.task import Task, TaskResult
from bench.training import Recipe, scores, train

SIZE = VisionTransformerSize(
    resolution_px=8, patch_px=2, image_channels=1, classes=10, depth=2, heads=2, head_dim=32,
    mlp_ratio=2.0,
)  # fmt: skip
RECIPE = Recipe(
    epochs=10, batch=32, learning_rate=3e-3, weight_decay=0.05, warmup=0.1, label_smoothing=0.1,
    clip_norm=1.0,
)  # fmt: skip


def run(spec: AttentionSpec, options: Any, seed: int, device: str) -> TaskResult:
    """Train from `seed` and test once, after the last epoch."""
    data = digits.read()
    torch.manual_seed(seed)
    model = VisionTransformer(spec, SIZE, options).to(device)
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    start = time.perf_counter()
    seen = train(model, images, labels, RECIPE, seed)
    if device == "cuda":
        torch.cuda.synchronize()
    elapsed_s = time.perf_counter() - start
    result = scores(model, data.test.images.to(device), data.test.labels.to(device), batch=360)
    return TaskResult(
        accuracy=result.accuracy,
        loss=result.loss,
        training_time_s=elapsed_s,
        samples_per_s=seen / elapsed_s,
        parameters=sum(p.numel() for p in model.parameters()),
    )


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
    run=run,
)
