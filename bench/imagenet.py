"""ImageNet-1K by the recipe of DeiT, on as many GPUs as there are, for any variant.

    torchrun --nproc-per-node 8 -m bench.imagenet --data FOLDER --backbone inline_deit_t --out OUT

FOLDER holds `train/<class>/<image>` and `val/<class>/<image>`. The recipe is DeiT's (Touvron et
al., ICML 2021, https://arxiv.org/abs/2012.12877, table 9): 300 epochs of AdamW, batch 1,024 over
all processes, learning rate 5e-4 x batch / 512 with five epochs of warm-up and a cosine to 1e-5,
weight decay 0.05, label smoothing 0.1, stochastic depth 0.1, RandAugment 9/0.5, Mixup 0.8, CutMix
1.0, random erasing 0.25, three repetitions of every image, moving average of the weights. Nothing
is tuned per variant. A killed run goes on after its last epoch when it is started again with the
same numbers of processes. The network is a published one (`attention_impls.load_backbone`), with
its own mechanism or with another in its place (`--variant`). Difference from DeiT: RandAugment and
erasing are kornia's, on the device.

The batch is shared by the processes: their number changes neither the images of a step nor its
gradient, only the draws of crops and mixing.

It never feeds results/: a run of days belongs to its own log, `log.jsonl`, one line an epoch. The
accuracy to report is that of its last line; `best.pt`, chosen by the images that it is tested on,
as DeiT's code does, is for use and not for a comparison.
"""

import argparse
import importlib
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from attention_impls.backbone import BackboneSpec
from attention_impls.registry import load, load_backbone
from bench.checkpoint import Kept
from bench.image_task import Colours, Pixels
from bench.imagenet_images import DEVIATION, MEAN, ImageFiles, Mixing, RepeatedSampler
from bench.process_group import Group
from bench.training import DivergedError


@dataclass(frozen=True, slots=True, kw_only=True)
class DeitRecipe:
    """Every number of the training."""

    epochs: int = 300
    batch: int = 1024
    """Over all processes."""
    rate_per_512: float = 5e-4
    least_rate: float = 1e-5
    first_rate: float = 1e-6
    warmup_epochs: int = 5
    weight_decay: float = 0.05
    smoothing: float = 0.1
    drop_path: float = 0.1
    randaugment: bool = True
    erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    repeats: int = 3
    average_decay: float = 0.99996
    seed: int = 0

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of one step."""
        peak = self.rate_per_512 * self.batch / 512
        epoch = step / steps_per_epoch
        if epoch < self.warmup_epochs:
            return self.first_rate + (peak - self.first_rate) * epoch / self.warmup_epochs
        share = (epoch - self.warmup_epochs) / max(1, self.epochs - self.warmup_epochs)
        return self.least_rate + (peak - self.least_rate) * (1 + math.cos(math.pi * share)) / 2


class Dropped(nn.Module):
    """A branch that is left out for a random share of the batch in training (stochastic depth)."""

    def __init__(self, branch: nn.Module, rate: float) -> None:
        super().__init__()
        self.branch = branch
        self.rate = rate

    def forward(self, x: Tensor, *grid: Any) -> Tensor:
        """Compute the branch, scaled so that its mean stays."""
        out = self.branch(x, *grid)
        if not self.training or self.rate == 0:
            return out
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return out * kept / (1 - self.rate)


def network(spec: BackboneSpec, classes: int, resolution_px: int, drop_path: float) -> nn.Module:
    """Build the network; the rate of dropping grows linearly with depth.

    Raises:
        UnsupportedShape: the mechanism cannot stand in this network.
    """
    inside = spec.build(classes, resolution_px)
    blocks = [b for b in inside.modules() if hasattr(b, "attention_norm")]
    for place, block in enumerate(blocks):
        rate = drop_path * place / max(1, len(blocks) - 1)
        block.attention = Dropped(cast("nn.Module", block.attention), rate)
        block.mlp = Dropped(cast("nn.Module", block.mlp), rate)
    return inside


def augmentation(recipe: DeitRecipe) -> Callable[[Tensor], Tensor]:
    """Return RandAugment and random erasing for images in 0..1, from kornia.

    Raises:
        ModuleNotFoundError: kornia is not installed; says how to install it.
    """
    if not recipe.randaugment and recipe.erasing == 0:
        return lambda images: images
    try:
        augment: Any = importlib.import_module("kornia.augmentation")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "kornia is not installed: `pip install kornia`, or give --randaugment 0 --erasing 0"
        ) from error
    steps: list[nn.Module] = []
    if recipe.randaugment:
        steps.append(augment.auto.RandAugment(n=2, m=9))
    if recipe.erasing:
        steps.append(augment.RandomErasing(p=recipe.erasing))
    chain = nn.Sequential(*steps)
    return lambda images: chain(images).clamp(0, 1)


class Run:
    """One training of one variant."""

    def __init__(
        self, data: Path, spec: BackboneSpec, resolution_px: int, recipe: DeitRecipe,
        out: Path, group: Group, workers: int,
    ) -> None:  # fmt: skip
        self.recipe, self.group, self.out = recipe, group, out
        train = ImageFiles(data, "train", resolution_px)
        test = ImageFiles(data, "test", resolution_px)
        classes = len(train.files.classes)
        torch.manual_seed(recipe.seed)
        self.model = network(spec, classes, resolution_px, recipe.drop_path).to(group.device)
        self.pixels = Pixels(Colours(mean=MEAN, deviation=DEVIATION)).to(group.device)
        self.wrapped = DistributedDataParallel(self.model) if group.processes > 1 else self.model
        self.average = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay)
        )
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay},
             {"params": plain, "weight_decay": 0.0}],
            lr=recipe.first_rate,
        )  # fmt: skip
        self.mix = Mixing(
            mixup=recipe.mixup, cutmix=recipe.cutmix, smoothing=recipe.smoothing,
            classes=classes,
        )  # fmt: skip
        self.augment = augmentation(recipe)
        mine, left = divmod(recipe.batch, group.processes)
        if left:
            raise ValueError(
                f"a batch of {recipe.batch} cannot be shared by {group.processes} processes: give "
                "--batch a multiple of their number"
            )
        self.sampler = RepeatedSampler(
            train, repeats=recipe.repeats, rank=group.rank, processes=group.processes,
            seed=recipe.seed,
        )  # fmt: skip
        self.train = DataLoader(
            train, mine, sampler=self.sampler, num_workers=workers, drop_last=True,
            pin_memory=group.device.type == "cuda", persistent_workers=workers > 0,
        )  # fmt: skip
        # every image once, none twice: no padding to equal shares
        shares = range(group.rank, len(test), group.processes)
        self.test = DataLoader(Subset(test, shares), mine, num_workers=workers)
        if len(self.train) == 0:
            raise ValueError(f"{len(train)} images, fewer than one batch of {recipe.batch}")
        identity = {
            "backbone": spec.id, "variant": f"{spec.variant}, revision "
            f"{load(spec.variant).revision}", "resolution_px": str(resolution_px),
            "recipe": str(recipe),
        }  # fmt: skip
        self.kept = Kept(out / "last.pt", identity | {"processes": str(group.processes)})

    def go(self) -> None:
        """Train from the last whole epoch to the end."""
        state = self.kept.load(self.group.device)
        done, best = 0, 0.0
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            done, best = state["epochs"], state["best"]
        for epoch in range(done, self.recipe.epochs):
            # the same draws whether or not the training was interrupted
            torch.manual_seed(self.recipe.seed * 1_000_003 + epoch * 10_007 + self.group.rank)
            start = time.perf_counter()
            loss = self.epoch(epoch)
            trained = time.perf_counter()
            accuracy, averaged = self.tested(self.model), self.tested(self.average)
            tested = time.perf_counter()
            if self.group.rank:
                continue
            line = {
                "epoch": epoch + 1, "loss": loss, "accuracy": accuracy, "averaged": averaged,
                "train_s": trained - start, "test_s": tested - trained,
            }  # fmt: skip
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)  # noqa: T201 - the progress of a program
            state = {
                "epochs": epoch + 1, "model": self.model.state_dict(),
                "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict(),
                "best": max(best, accuracy, averaged),
            }  # fmt: skip
            better = max(accuracy, averaged) >= best
            self.kept.save(state)
            if better:
                Kept(self.out / "best.pt", self.kept.identity).save(state)
            best = max(best, accuracy, averaged)

    def epoch(self, epoch: int) -> float:
        """Train one epoch; return the mean loss over all processes."""
        self.wrapped.train()
        self.sampler.epoch = epoch
        draws = torch.Generator().manual_seed(self.recipe.seed + 7919 * epoch + self.group.rank)
        losses = torch.zeros(len(self.train), device=self.group.device)
        for index, (images, labels) in enumerate(self.train):
            rate = self.recipe.rate(epoch * len(self.train) + index, len(self.train))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            bright = self.augment(images.to(self.group.device, non_blocking=True) / 255) * 255
            mixed, targets = self.mix(
                self.pixels(bright), labels.to(self.group.device, non_blocking=True), draws
            )
            with self.arithmetic():
                logits = self.wrapped(mixed)
            loss = F.cross_entropy(logits.float(), targets)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.average.update_parameters(self.model)
            losses[index] = loss.detach()
        odd = torch.nonzero(~torch.isfinite(losses))
        if len(odd):
            steps = self.recipe.epochs * len(self.train)
            step = epoch * len(self.train) + int(odd[0]) + 1
            raise DivergedError("loss", step, steps, epoch + 1, self.recipe.epochs)
        return float(self.group.total(losses.mean()) / self.group.processes)

    @torch.no_grad()
    def tested(self, model: nn.Module) -> float:
        """Accuracy over all images of the test part."""
        model.eval()
        found = torch.zeros(2, device=self.group.device)
        for images, labels in self.test:
            with self.arithmetic():
                answers = model(self.pixels(images.to(self.group.device).float())).argmax(1)
            found[0] += (answers == labels.to(self.group.device)).sum()
            found[1] += len(labels)
        correct, seen = self.group.total(found).tolist()
        return correct / seen

    def arithmetic(self) -> Any:
        """bfloat16 on GPUs, float32 elsewhere."""
        if self.group.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()


def _switch(text: str) -> bool:
    return bool(int(text))


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="ImageNet-1K by the recipe of DeiT")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--backbone", default="deit_tiny_patch16_224", help="a published network, by its id"
    )
    parser.add_argument("--variant", help="in the place of the network's own mechanism")
    parser.add_argument("--resolution", type=int, help="side in pixels; default: as published")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=8)
    for name, value in asdict(DeitRecipe()).items():
        kind = _switch if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    given = parser.parse_args()
    recipe = DeitRecipe(**{name: getattr(given, name) for name in asdict(DeitRecipe())})
    given.out.mkdir(parents=True, exist_ok=True)
    spec = load_backbone(given.backbone)
    if given.variant:
        spec = spec.with_variant(given.variant)
    side = given.resolution or spec.resolution_px
    group = Group.join()
    try:
        Run(given.data, spec, side, recipe, given.out, group, given.workers).go()
    finally:
        group.leave()


if __name__ == "__main__":
    main()
