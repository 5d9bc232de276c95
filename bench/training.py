"""The loop that trains a small classifier by a recipe: what accuracy tasks share.

Nothing here depends on the variant: same recipe, same data order for a seed, no early stopping, no
choice of the best epoch. The caller seeds initialisation; the data order has its own generator, so
that it does not depend on how many random numbers a variant draws.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench import checkpoint
from bench.augmentation import AUGMENTATIONS
from bench.dataset import IGNORED, Split
from bench.model import DType
from bench.process_group import Group
from bench.recipe import Recipe, rate_at
from bench.task import Epoch

_DEVICE_SHARE = 0.5
"""Data are kept on the device if they take no more than this share of its free memory."""


class DivergedError(RuntimeError):
    """A loss or gradient stopped being a finite number."""

    def __init__(self, what: str, step: int, steps: int, epoch: int, epochs: int) -> None:
        super().__init__(
            f"the {what} is not finite at step {step} of {steps} (epoch {epoch} of {epochs})"
        )
        self.what = what
        self.step = step
        self.steps = steps


@dataclass(slots=True, kw_only=True)
class Curves:
    """What a training was like, one entry an epoch."""

    losses: list[float]
    accuracies: list[float]
    gradient_norms: list[float]
    clipped: list[float]
    resumed_after: list[int]
    wall_s: float
    """Time inside training steps, over all resumptions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training gave besides the weights."""

    curves: Curves
    samples: int
    """Examples seen, repetitions counted."""
    precision: DType
    """Type in which products were computed."""
    earlier_s: float
    """Part of the curves' wall time that was spent before the checkpoint that it went on from."""


def train(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    seed: int,
    *,
    compiled: bool = False,
    kept: checkpoint.Kept | None = None,
    report: Callable[[Epoch], None] | None = None,
    group: Group | None = None,
) -> Trained:
    """Train `model` in place.

    With a group the result is that of one process up to rounding: every process draws the whole
    batch, with its augmentation, and computes its share; gradients are those of the mean loss over
    the whole batch. What a variant draws at random while it trains differs between the processes,
    and statistics of a batch (BatchNorm) are those of a share.

    Args:
        model: inputs -> logits [batch, classes] or [batch, positions, classes], on its device.
        split: examples; moved to the model's device where they fit.
        recipe: every number.
        seed: of the data order and of augmentation.
        compiled: run `torch.compile` of the model.
        kept: where the state is kept after each epoch, and gone on from.
        report: told after every epoch, before its state is kept.
        group: the processes that train this model together, each with its own copy; None: one
            does. The first of them keeps and reports.

    Raises:
        DivergedError: a loss or gradient became NaN or infinite; says at which step.
        CheckpointError: the checkpoint belongs to another training.
        ValueError: fewer examples than one batch, or a batch that cannot be shared equally.
    """
    training = _Loop(model, split, recipe, seed, compiled, group)
    return training.run(kept, report)


class _Loop:
    """One training: its model, optimiser, data order and curves."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        recipe: Recipe,
        seed: int,
        compiled: bool,
        group: Group | None,
    ) -> None:
        self.device = next(model.parameters()).device
        self.group = group or Group(0, 1, self.device)
        if recipe.batch % self.group.processes:
            raise ValueError(
                f"a batch of {recipe.batch} cannot be shared by {self.group.processes} devices"
            )
        self.model = model
        # a mechanism may have parameters that a forward pass does not use
        together = self.group.processes > 1
        whole = DistributedDataParallel(model, find_unused_parameters=True) if together else model
        self.forward: Callable[[Tensor], Tensor] = torch.compile(whole) if compiled else whole
        self.recipe = recipe
        self.seed = seed
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.inputs, self.labels = _placed(split, self.device)
        self.counted_share = split.counted / split.labels.numel()
        self.order = torch.Generator().manual_seed(seed)
        self.augment = AUGMENTATIONS[recipe.augmentation]
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for p in self.parameters if p.ndim > 1],
                    "weight_decay": recipe.weight_decay,
                },
                {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            fused=True,
        )
        self.per_epoch = len(self.inputs) // recipe.batch
        if self.per_epoch == 0:
            raise ValueError(f"{len(self.inputs)} examples, fewer than one batch: {recipe.batch}")
        self.steps = recipe.epochs * self.per_epoch
        self.precision: DType = "float32"
        if recipe.precision == "mixed" and self.device.type == "cuda":
            self.precision = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        self.curves = Curves(
            losses=[], accuracies=[], gradient_norms=[], clipped=[], resumed_after=[], wall_s=0.0
        )

    def run(self, kept: checkpoint.Kept | None, report: Callable[[Epoch], None] | None) -> Trained:
        done = self._resume(kept) if kept is not None else 0
        earlier_s = self.curves.wall_s
        for epoch in range(done, self.recipe.epochs):
            self._epoch(epoch)
            if self.group.rank:
                continue
            if report is not None:
                report(
                    Epoch(
                        number=epoch + 1,
                        epochs=self.recipe.epochs,
                        loss=self.curves.losses[-1],
                        accuracy=self.curves.accuracies[-1],
                    )
                )
            if kept is not None:
                kept.save(self._state(epoch + 1))
        return Trained(
            curves=self.curves,
            samples=self.steps * self.recipe.batch,
            precision=self.precision,
            earlier_s=earlier_s,
        )

    def _epoch(self, epoch: int) -> None:
        """Train for one epoch; looks at losses and norms once, at its end."""
        start = time.perf_counter()
        self.model.train()
        if self.group.rank:
            # the same draws whether or not the training was interrupted, and not those of others
            torch.manual_seed(self.seed * 1_000_003 + epoch * 10_007 + self.group.rank)
        batch, device = self.recipe.batch, self.device
        losses = torch.zeros(self.per_epoch, device=device)
        norms = torch.zeros(self.per_epoch, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        shuffled = torch.randperm(len(self.inputs), generator=self.order).to(self.inputs.device)
        for index in range(self.per_epoch):
            chosen = shuffled[index * batch : (index + 1) * batch]
            rate = rate_at(epoch * self.per_epoch + index, self.steps, self.recipe)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            inputs = self.inputs[chosen].to(device, non_blocking=True)
            labels = self.labels[chosen].to(device, non_blocking=True)
            if self.augment is not None:
                inputs = self.augment(inputs, self.order)
            inputs, labels, reduction, share = self._mine(inputs, labels)
            with self._arithmetic():
                logits = self.forward(inputs).flatten(0, -2)
            loss = share * F.cross_entropy(
                logits.float(),
                labels,
                ignore_index=IGNORED,
                reduction=reduction,
                label_smoothing=self.recipe.label_smoothing,
            )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norms[index] = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
            self.optimizer.step()
            losses[index] = loss.detach()
            correct += (logits.detach().argmax(-1) == labels).sum()
        losses = self.group.total(losses) / self.group.processes
        correct = self.group.total(correct)
        self._refuse_divergence(epoch, losses, norms)
        answered = self.per_epoch * batch * self.labels[0].numel() * self.counted_share
        self.curves.losses.append(float(losses.mean()))
        self.curves.accuracies.append(min(1.0, float(correct) / answered))
        self.curves.gradient_norms.append(float(norms.median()))
        self.curves.clipped.append(float((norms > self.recipe.clip_norm).float().mean()))
        self.curves.wall_s += time.perf_counter() - start

    def _mine(
        self, inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Literal["mean", "sum"], Tensor | float]:
        """Return this process's part of a batch, how its losses are joined, and a factor for them.

        Gradients are averaged over the processes; the product is the mean over the labels of the
        whole batch that count, which need not be spread evenly.
        """
        if self.group.processes == 1:
            return inputs, labels.flatten(), "mean", 1.0
        part = slice(self.group.rank, None, self.group.processes)
        counted = (labels != IGNORED).sum()
        return inputs[part], labels[part].flatten(), "sum", self.group.processes / counted

    def _arithmetic(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.precision))

    def _refuse_divergence(self, epoch: int, losses: Tensor, norms: Tensor) -> None:
        """Name what was not finite first: a loss stands before the gradient of its own step."""
        found: list[tuple[int, str]] = []
        for what, values in (("loss", losses), ("gradient", norms)):
            odd = torch.nonzero(~torch.isfinite(values))
            if len(odd):
                found.append((int(odd[0]), what))
        if found:
            index, what = min(found, key=lambda one: one[0])
            step = epoch * self.per_epoch + index + 1
            raise DivergedError(what, step, self.steps, epoch + 1, self.recipe.epochs)

    def _state(self, epochs: int) -> dict[str, Any]:
        curves = self.curves
        return {
            "epochs": epochs,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "curves": {
                "losses": curves.losses,
                "accuracies": curves.accuracies,
                "gradient_norms": curves.gradient_norms,
                "clipped": curves.clipped,
                "resumed_after": curves.resumed_after,
                "wall_s": curves.wall_s,
            },
        }

    def _resume(self, kept: checkpoint.Kept) -> int:
        """Take up the state of a checkpoint, if there is one; return the epochs that it has."""
        state = kept.load(self.device)
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"].cpu())
        torch.set_rng_state(state["random"].cpu())
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"].cpu())
        self.curves = Curves(**state["curves"])
        done = int(state["epochs"])
        if done < self.recipe.epochs:
            self.curves.resumed_after.append(done)
        return done


def _placed(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and labels on `device`, or where they are if they do not fit."""
    if device.type != "cuda":
        return split.inputs.to(device), split.labels.to(device)
    size = sum(t.numel() * t.element_size() for t in (split.inputs, split.labels))
    if size > _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return split.inputs, split.labels
    return split.inputs.to(device), split.labels.to(device)
