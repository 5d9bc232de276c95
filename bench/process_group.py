"""Processes that train one network together: which one this is, and sums over all of them."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from bench.model import DeviceKind


@dataclass(frozen=True, slots=True)
class Group:
    """This process among those that train together."""

    rank: int
    processes: int
    device: torch.device

    @classmethod
    def join(cls) -> "Group":
        """Join the processes that torchrun has started; alone without it."""
        on_gpu = torch.cuda.is_available()
        if "RANK" not in os.environ:
            return cls(0, 1, torch.device("cuda" if on_gpu else "cpu"))
        dist.init_process_group(_backend(on_gpu))
        return cls._of(int(os.environ["LOCAL_RANK"]), on_gpu)

    @classmethod
    def meet(cls, rank: int, processes: int, device: DeviceKind, place: Path) -> "Group":
        """Wait for the other processes of one machine; no port is opened for it.

        Args:
            rank: of this process, from 0; on `cuda` it uses the GPU of that number.
            processes: how many there are.
            device: kind of their devices.
            place: file that does not exist yet, the same for all; they find each other through it.
        """
        dist.init_process_group(
            _backend(device == "cuda"),
            init_method=place.as_uri(),
            rank=rank,
            world_size=processes,
        )
        return cls._of(rank, device == "cuda")

    @classmethod
    def _of(cls, place: int, on_gpu: bool) -> "Group":
        device = torch.device("cuda", place) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(device)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.processes > 1:
            dist.all_reduce(values)
        return values

    def leave(self) -> None:
        """Say goodbye to the others."""
        if self.processes > 1:
            dist.destroy_process_group()


def _backend(on_gpu: bool) -> str:
    return "nccl" if on_gpu else "gloo"
