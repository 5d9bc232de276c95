"""The shared training loop and the digits task: deterministic, learns, stops when it diverges."""

import pytest
import torch
from torch import nn

from attention_impls import load
from bench.datasets import digits
from bench.tasks.digits import RECIPE, TASK
from bench.training import DivergedError, Recipe, rate_at, scores, train

SHORT = Recipe(
    epochs=6, batch=32, learning_rate=1e-2, weight_decay=0.0, warmup=0.1, label_smoothing=0.0,
    clip_norm=1.0,
)  # fmt: skip


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(256, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return images, (images.sum((1, 2, 3)) > 0).long()


def classifier(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def test_training_is_bitwise_repeatable_and_the_seed_matters() -> None:
    images, labels = problem()
    weights = []
    for seed in (0, 0, 1):
        model = classifier(0)
        train(model, images, labels, SHORT, seed)
        weights.append(model[1].weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_learns() -> None:
    images, labels = problem()
    model = classifier(0)
    before = scores(model, images, labels, batch=100)
    train(model, images, labels, SHORT, seed=0)
    after = scores(model, images, labels, batch=100)
    assert after.accuracy > max(0.9, before.accuracy)
    assert after.loss < before.loss


def test_a_diverged_training_says_where() -> None:
    images, labels = problem()
    images[7] = float("inf")
    with pytest.raises(DivergedError, match=r"epoch 1 of 6 \(steps 1 to 8\)"):
        train(classifier(0), images, labels, SHORT, seed=0)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [rate_at(step, 100, SHORT) for step in range(100)]
    assert max(rates) == pytest.approx(SHORT.learning_rate)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[-1] < 0.01 * SHORT.learning_rate


def test_the_digits_are_the_ones_the_task_is_defined_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits.read()
    assert len(data.train.images) == 1437
    assert len(data.test.images) == 360
    assert float(data.train.images.max()) == 1.0
    monkeypatch.setattr(digits, "SHA256", "0" * 64)
    with pytest.raises(digits.WrongDataError, match="sha256"):
        digits.read()


def test_the_digits_task_is_far_above_chance_and_bitwise_repeatable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import replace

    import bench.tasks.digits as module

    monkeypatch.setattr(module, "RECIPE", replace(RECIPE, epochs=4))
    results = [TASK.run(load("softmax"), None, 0, "cpu") for _ in range(2)]
    assert results[0].accuracy == results[1].accuracy
    assert results[0].loss == results[1].loss
    assert results[0].accuracy > 3 * TASK.chance
