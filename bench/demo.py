"""The demonstration: InLine-DeiT-T on CIFAR-10, from data to pictures.

    attnbench demo                              # 100 epochs, for a GPU
    attnbench demo --data FOLDER --epochs 2     # any folder of images in ImageNet's layout

The network is the published one, `load_backbone("inline_deit_t")`, whose patches have 16 pixels:
images of 32 pixels are enlarged four times on the device, which makes 64 tokens and the class
token. Label smoothing 0.1, AdamW, cosine schedule. A tenth of the training images is held out: the
best checkpoint is the one that answers those best, and the test set is looked at once, with it. A
killed demonstration goes on after its last epoch when it is started again.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_impls.registry import load, load_backbone
from bench.checkpoint import Kept
from bench.dataset import Data, Split
from bench.datasets import cifar10, image_folder
from bench.demo_page import Prediction, write_page
from bench.image_task import Colours, Pixels
from bench.recipe import Recipe
from bench.scores import scores
from bench.task import Epoch
from bench.training import train
from bench.whole_file import whole_file

RECIPE = Recipe(
    epochs=100, batch=128, learning_rate=1e-3, weight_decay=0.05, warmup=0.05, label_smoothing=0.1,
    clip_norm=1.0, precision="mixed", augmentation="crop_flip",
)  # fmt: skip
BACKBONE = "inline_deit_t"
IMAGE_PX, NETWORK_PX = 32, 128
"""Side of the images as they are augmented, and as the network is given them."""
HELD_OUT_SHARE = 0.1
PICTURES = 24
_SPLIT_SEED = 0
_TEST_BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line asks for."""

    backbone: str = BACKBONE
    variant: str | None = None
    """In the place of the published mechanism; None: that one."""
    resolution_px: int = NETWORK_PX
    """Side to which images are enlarged."""
    recipe: Recipe = RECIPE
    seed: int = 0
    device: str
    data: Path | None = None
    """A folder of images; None: CIFAR-10."""
    out: Path
    """Where everything is written."""


class Enlarged(nn.Module):
    """Images of any side, scaled to the side that a network takes."""

    def __init__(self, resolution_px: int) -> None:
        super().__init__()
        self.resolution_px = resolution_px

    def forward(self, images: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, channels, resolution_px, resolution_px]."""
        size = (self.resolution_px, self.resolution_px)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size, mode="bilinear", align_corners=False)


def demonstrate(wishes: Wishes, told: Callable[[str], None]) -> Path:
    """Train, choose, test, and write; return the page.

    Raises:
        MissingDataError: the data are not on this machine.
        WrongDataError: the data are damaged.
        DivergedError: the training diverged.
        UnknownName: no such backbone or variant.
        UnsupportedShape: the variant cannot stand in this network.
    """
    published = load_backbone(wishes.backbone)
    spec = published.with_variant(wishes.variant) if wishes.variant else published
    data, classes = _data(wishes)
    fitted, held_out = _held_out(data.train)
    torch.manual_seed(wishes.seed)
    network = nn.Sequential(
        Pixels(Colours(mean=cifar10.MEAN, deviation=cifar10.DEVIATION)),
        Enlarged(wishes.resolution_px),
        spec.build(len(classes), wishes.resolution_px),
    ).to(wishes.device)
    wishes.out.mkdir(parents=True, exist_ok=True)
    best = _Best(network, held_out, wishes.out, told)
    identity = {
        "backbone": spec.id,
        "variant": f"{spec.variant}, revision {load(spec.variant).revision}",
        "resolution_px": str(wishes.resolution_px),
        "recipe": str(wishes.recipe),
        "seed": str(wishes.seed),
        "data": data.sha256,
        "device": wishes.device,
        "torch": str(torch.__version__),
    }
    trained = train(
        network,
        fitted,
        wishes.recipe,
        wishes.seed,
        kept=Kept(wishes.out / "last.pt", identity),
        report=best.report,
    )
    network.load_state_dict(torch.load(wishes.out / "best.pt", weights_only=True)["model"])
    start = time.perf_counter()
    result = scores(network, data.test, _TEST_BATCH)
    elapsed_s = time.perf_counter() - start
    numbers = {
        "test_accuracy": result.accuracy,
        "test_loss": result.loss,
        "best_epoch": best.epoch,
        "held_out_accuracy": best.accuracies,
        "training_loss": trained.curves.losses,
        "training_accuracy": trained.curves.accuracies,
        "training_time_s": trained.curves.wall_s,
        "training_images_per_s": trained.samples / trained.curves.wall_s,
        "validation_images_per_s": len(data.test.labels) / elapsed_s,
        "parameters": sum(p.numel() for p in network.parameters()),
        "precision": trained.precision,
        **identity,
    }
    (wishes.out / "numbers.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    told(
        f"test accuracy {100 * result.accuracy:.2f} % with the network of epoch {best.epoch}, "
        f"{numbers['validation_images_per_s']:.0f} images/s"
    )
    return write_page(wishes.out, numbers, _predictions(network, data.test, classes))


class _Best:
    """Remembers the epoch that answers the held-out images best, on disk."""

    def __init__(
        self, network: nn.Module, held_out: Split, out: Path, told: Callable[[str], None]
    ) -> None:
        self.network = network
        self.held_out = held_out
        self.path = out / "best.pt"
        self.told = told
        self.accuracies: list[float] = []
        self.epoch = 0
        if (out / "last.pt").exists() and self.path.exists():
            kept = torch.load(self.path, weights_only=True)
            self.accuracies, self.epoch = kept["accuracies"], kept["epoch"]

    def report(self, epoch: Epoch) -> None:
        """Test on the held-out images; keep the network if it is the best so far."""
        found = scores(self.network, self.held_out, _TEST_BATCH)
        # an epoch that was cut off after this is told again
        earlier = self.accuracies[: epoch.number - 1]
        self.accuracies = [*earlier, found.accuracy]
        if not earlier or found.accuracy > max(earlier):
            self.epoch = epoch.number
            model = self.network.state_dict()
        else:
            model = torch.load(self.path, weights_only=True)["model"]
        with whole_file(self.path) as file:
            torch.save({"model": model, "epoch": self.epoch, "accuracies": self.accuracies}, file)
        self.told(
            f"epoch {epoch.number}/{epoch.epochs}: loss {epoch.loss:.3f}, training "
            f"{100 * epoch.accuracy:.1f} %, held out {100 * found.accuracy:.1f} %"
        )


def _data(wishes: Wishes) -> tuple[Data, tuple[str, ...]]:
    if wishes.data is None:
        return cifar10.read(), cifar10.CLASSES
    classes = image_folder.listed(wishes.data, "train").classes
    return image_folder.read(wishes.data, IMAGE_PX), classes


def _held_out(split: Split) -> tuple[Split, Split]:
    """Take a tenth of the images away, at random but the same ones always."""
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    away, rest = order.tensor_split([round(HELD_OUT_SHARE * len(order))])
    return (
        Split(split.inputs[rest], split.labels[rest]),
        Split(split.inputs[away], split.labels[away]),
    )


@torch.no_grad()
def _predictions(
    network: nn.Module, test: Split, classes: tuple[str, ...]
) -> tuple[Prediction, ...]:
    """Answer images spread evenly over the test set."""
    network.eval()
    places = torch.linspace(0, len(test.labels) - 1, min(PICTURES, len(test.labels))).long()
    images: Tensor = test.inputs[places]
    device = next(network.parameters()).device
    shares = network(images.to(device)).float().softmax(1).cpu()
    return tuple(
        Prediction(
            pixels=image.permute(1, 2, 0).numpy(),
            truth=classes[int(label)],
            answer=classes[int(share.argmax())],
            share=float(share.max()),
        )
        for image, label, share in zip(images, test.labels[places], shares, strict=True)
    )
