"""The ImageNet recipe: two processes on a small folder, resumed, and its parts one by one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attention_impls.registry import load_backbone
from bench.imagenet import DeitRecipe, Dropped, augmentation, network
from bench.imagenet_images import ImageFiles, Mixing, RepeatedSampler

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark pictures of odd sizes: 24 to train, 10 to test."""
    root = tmp_path_factory.mktemp("images")
    draws = np.random.default_rng(0)
    for part, items in (("train", 12), ("val", 5)):
        for name, low in (("bright", 160), ("dark", 0)):
            (root / part / name).mkdir(parents=True)
            for number in range(items):
                pixels = draws.integers(low, low + 90, (40, 48 + number, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def launched(
    folder: Path, out: Path, *more: str, processes: int = 2
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         str(processes), "-m", "bench.imagenet", "--data", str(folder), "--out", str(out),
         "--backbone", "inline_deit_t", "--resolution", "32", "--batch", "8", "--workers", "0",
         "--warmup-epochs", "1", "--randaugment", "0", "--erasing", "0", "--average-decay", "0.9",
         "--repeats", "1", *more],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def torchrun(folder: Path, out: Path, *more: str, processes: int = 2) -> list[dict[str, float]]:
    done = launched(folder, out, *more, processes=processes)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_test_and_go_on(folder: Path, tmp_path: Path) -> None:
    three = ("--epochs", "3", "--rate-per-512", "0.3")
    lines = torchrun(folder, tmp_path, *three)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    # ten test images over two processes, each counted once
    answered = [10 * line["accuracy"] for line in lines]
    assert [round(right) for right in answered] == pytest.approx(answered)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["best"] == max(max(line["accuracy"], line["averaged"]) for line in lines)
    assert len(torchrun(folder, tmp_path, *three)) == 3


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing_but_the_draws(tmp_path: Path) -> None:
    """On pictures of one colour, of which every crop is the same, nothing is left to draw."""
    for part, items in (("train", 12), ("val", 5)):
        for label, name in enumerate(("bright", "dark")):
            folder = tmp_path / "plain" / part / name
            folder.mkdir(parents=True)
            for number in range(items):
                colour = (200 - 120 * label + number, 90 + 7 * number, 30 * label)
                Image.new("RGB", (40, 40), colour).save(folder / f"{number}.png")

    def trained(name: str, batch: str, processes: int) -> tuple[list[float], dict[str, Any]]:
        out = tmp_path / name
        lines = torchrun(
            tmp_path / "plain", out, "--epochs", "2", "--rate-per-512", "0.06", "--drop-path", "0",
            "--mixup", "0", "--cutmix", "0", "--batch", batch, processes=processes,
        )  # fmt: skip
        state = torch.load(out / "last.pt", weights_only=True)
        return [line["loss"] for line in lines], {**state["model"], **state["average"]}

    (alone, weights), (shared, same) = trained("one", "8", 1), trained("two", "8", 2)
    assert shared == pytest.approx(alone, rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, rtol=1e-3, atol=1e-4, msg=name)
    # with the batch of one process on each of the two, it would be another training
    assert trained("four", "4", 2)[0] != pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_is_refused(folder: Path, tmp_path: Path) -> None:
    done = launched(folder, tmp_path, "--epochs", "1", "--batch", "9")
    assert done.returncode != 0
    assert "a batch of 9 cannot be shared by 2 processes" in done.stderr


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_see_the_images_of_one_step_between_them(processes: int) -> None:
    batch, share = 16, 16 // processes

    def step(number: int, of: int) -> set[int]:
        seen: list[int] = []
        for rank in range(of):
            order = list(RepeatedSampler(range(64), repeats=1, rank=rank, processes=of, seed=3))
            size = batch // of
            seen += order[number * size : (number + 1) * size]
        assert len(seen) == batch == share * processes
        return set(seen)

    assert [step(n, processes) for n in range(4)] == [step(n, 1) for n in range(4)]
    assert step(0, processes) != step(1, processes)


def test_the_published_network_loses_branches_in_training_only() -> None:
    torch.manual_seed(0)
    spec = load_backbone("inline_deit_t")
    made = network(spec, 2, 32, 0.5)
    rates = [m.rate for m in made.modules() if isinstance(m, Dropped)]
    assert len(rates) == 24
    assert rates[0] == 0.0
    assert rates[-1] == 0.5
    assert sum(p.numel() for p in made.parameters()) == spec.parameters(32, num_classes=2)
    images = torch.randn(2, 3, 32, 32)
    made.train()
    assert not torch.equal(made(images), made(images))
    made.eval()
    assert torch.equal(made(images), made(images))


def test_rates_rise_then_fall_as_deit_has_it() -> None:
    recipe = DeitRecipe()
    assert recipe.rate(0, 100) == pytest.approx(1e-6)
    assert recipe.rate(500, 100) == pytest.approx(1e-3)
    assert recipe.rate(30_000, 100) == pytest.approx(1e-5)
    assert recipe.rate(15_250, 100) == pytest.approx((1e-3 + 1e-5) / 2)


def test_mixed_targets_are_shares_of_the_images_that_are_mixed() -> None:
    images = torch.zeros(4, 3, 16, 16)
    images[:2] = 1
    labels = torch.tensor([1, 1, 0, 0])
    draws = torch.Generator().manual_seed(0)
    mix = Mixing(smoothing=0.0, classes=2)
    cut = blended = 0
    for _ in range(40):
        mixed, targets = mix(images, labels, draws)
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        # the mean brightness of an image is the share of the bright one in it
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets[:, 1], atol=1e-5, rtol=0)
        inside = (mixed > 1e-6) & (mixed < 1 - 1e-6)
        blended += bool(inside.any())
        cut += not bool(inside.any())
    assert cut > 5
    assert blended > 5


def test_label_smoothing_is_in_the_targets() -> None:
    mix = Mixing(mixup=0.0, cutmix=0.0, smoothing=0.1, classes=10)
    _, targets = mix(torch.zeros(2, 3, 4, 4), torch.tensor([3, 3]), torch.Generator())
    assert targets[0, 3] == pytest.approx(0.91)
    assert targets[0, 0] == pytest.approx(0.01)


def test_repeated_images_go_to_different_processes() -> None:
    samplers = [
        RepeatedSampler(range(300), repeats=3, rank=rank, processes=3, seed=0) for rank in range(3)
    ]
    shares = [list(sampler) for sampler in samplers]
    assert [len(share) for share in shares] == [100] * 3
    assert shares[0] == shares[1] == shares[2]
    assert len(set(shares[0])) == 100
    samplers[0].epoch = 1
    assert list(samplers[0]) != shares[0]
    plain = [RepeatedSampler(range(10), repeats=1, rank=r, processes=2, seed=0) for r in range(2)]
    assert sorted([*plain[0], *plain[1]]) == list(range(10))


def test_dropped_branches_keep_their_mean_and_are_whole_in_evaluation() -> None:
    torch.manual_seed(0)
    branch = Dropped(nn.Identity(), 0.25)
    x = torch.ones(4000, 1, 1)
    out = branch.train()(x)
    assert float(out.mean()) == pytest.approx(1, abs=0.05)
    assert sorted(set(out.flatten().tolist())) == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(branch.eval()(x), x)


def test_missing_kornia_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ModuleNotFoundError, match="pip install kornia"):
        augmentation(DeitRecipe())
    plain = augmentation(DeitRecipe(randaugment=False, erasing=0.0))
    assert torch.equal(plain(torch.ones(1, 3, 4, 4)), torch.ones(1, 3, 4, 4))


def test_crops_are_random_in_training_and_central_in_evaluation(folder: Path) -> None:
    train, test = ImageFiles(folder, "train", 32), ImageFiles(folder, "test", 32)
    assert (len(train), len(test)) == (24, 10)
    torch.manual_seed(0)
    first, again = train[3][0], train[3][0]
    assert not torch.equal(first, again)
    assert torch.equal(test[3][0], test[3][0])
    assert first.shape == (3, 32, 32)
    assert train[0][1] != train[23][1]
