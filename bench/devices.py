"""The devices of this machine, and which CPUs go with each. Starts no CUDA context."""

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.model import DeviceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device and the CPUs that serve it."""

    words: str
    """For people: `gpu 3`, `cpus 0-3`."""
    visible: str | None
    """What `CUDA_VISIBLE_DEVICES` must be for it to be the only one; None for CPUs."""
    cpus: tuple[int, ...]
    """Empty: all that this process may use."""


def devices(
    device: DeviceKind, chosen: str | None, note: Callable[[str], None]
) -> tuple[Device, ...]:
    """Return the devices to use.

    Args:
        device: of which kind.
        chosen: on `cuda` the GPUs, as `CUDA_VISIBLE_DEVICES` names them, separated by commas
            (None: all that are visible); on `cpu` into how many equal parts the CPUs are split
            (None: one).
        note: told if nobody can say which GPUs there are.

    Raises:
        ValueError: `chosen` makes no sense here, or there is no GPU.
    """
    cpus = usable()
    if device == "cpu":
        return _parts(cpus, chosen)
    names = _visible(note) if chosen is None else [one.strip() for one in chosen.split(",")]
    if not all(names) or len(set(names)) != len(names):
        raise ValueError(f"--devices {chosen}: give different GPUs, such as 0,1,2")
    if not names:
        raise ValueError("no GPU is visible: see CUDA_VISIBLE_DEVICES and nvidia-smi")
    shares = shared(cpus, [_near(name) for name in names])
    return tuple(
        Device(words=gpu_words([name]), visible=name, cpus=share if len(names) > 1 else ())
        for name, share in zip(names, shares, strict=True)
    )


def in_groups(found: Sequence[Device], together: int) -> tuple[Device, ...]:
    """Make a device of every `together` GPUs that follow one another.

    Raises:
        ValueError: they cannot be shared out.
    """
    if together == 1:
        return tuple(found)
    if not found or len(found) % together:
        raise ValueError(
            f"--together {together}: {len(found)} GPUs cannot be put into groups of {together}; "
            "choose with --devices, such as 0,1,2,3"
        )
    groups = (found[at : at + together] for at in range(0, len(found), together))
    return tuple(
        Device(
            words=gpu_words([one.words.removeprefix("gpu ") for one in group]),
            visible=",".join(one.visible for one in group if one.visible is not None),
            cpus=tuple(cpu for one in group for cpu in one.cpus),
        )
        for group in groups
    )


def gpu_words(names: Sequence[str]) -> str:
    """`gpu 3`, `gpus 0+1`; `cpus` without one."""
    if not names:
        return "cpus"
    return f"gpu{'s' if len(names) > 1 else ''} {'+'.join(names)}"


def usable() -> tuple[int, ...]:
    """Numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def shared(
    cpus: Sequence[int], near: Sequence[frozenset[int] | None]
) -> tuple[tuple[int, ...], ...]:
    """Split `cpus` among devices: those of its own socket where known, none twice.

    Each gets as many as the poorest, so that devices of one kind are served alike. With fewer CPUs
    than devices every device may use all.

    Args:
        cpus: what there is.
        near: for each device the CPUs of its socket; None where not known.
    """
    groups: dict[frozenset[int], list[int]] = {}
    for place, some in enumerate(near):
        close = frozenset(cpus) if some is None else frozenset(cpus) & some
        groups.setdefault(close or frozenset(cpus), []).append(place)
    if len(groups) > 1 and sum(map(len, groups)) != len(frozenset().union(*groups)):
        groups = {frozenset(cpus): list(range(len(near)))}
    share = min(len(close) // len(places) for close, places in groups.items())
    if share == 0:
        return tuple(() for _ in near)
    found: dict[int, tuple[int, ...]] = {}
    for close, places in groups.items():
        ordered = sorted(close)
        for number, place in enumerate(places):
            found[place] = tuple(ordered[number * share : (number + 1) * share])
    return tuple(found[place] for place in range(len(near)))


def _parts(cpus: tuple[int, ...], chosen: str | None) -> tuple[Device, ...]:
    count = 1 if chosen is None else int(chosen) if chosen.isdecimal() else 0
    if not 1 <= count <= len(cpus):
        raise ValueError(
            f"--devices {chosen}: on cpu, give into how many parts the {len(cpus)} CPUs are split"
        )
    if count == 1:
        return (Device(words="cpus", visible=None, cpus=()),)
    return tuple(
        Device(words=f"cpus {share[0]}-{share[-1]}", visible=None, cpus=share)
        for share in shared(cpus, [None] * count)
    )


def _visible(note: Callable[[str], None]) -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [one.strip() for one in given.split(",") if one.strip()]
    library: Any = importlib.import_module("pynvml")
    try:
        library.nvmlInit()
        return [str(number) for number in range(library.nvmlDeviceGetCount())]
    except library.NVMLError as failure:
        # no GPU, or one whose driver has no NVML: torch finds out, and --devices names more
        note(
            f"NVML cannot say which GPUs there are ({failure}): GPU 0 alone is used, and neither "
            "others on it nor throttling are seen; --devices 0,1 names more"
        )
        return ["0"]


def _near(name: str) -> frozenset[int] | None:
    """CPUs of the socket that a GPU hangs on, as the driver knows them."""
    library: Any = importlib.import_module("pynvml")
    try:
        library.nvmlInit()
        handle = (
            library.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdecimal()
            else library.nvmlDeviceGetHandleByUUID(name)
        )
        words = -(-(os.cpu_count() or 1) // 64)
        masks = library.nvmlDeviceGetCpuAffinity(handle, words)
    except library.NVMLError:
        return None
    return frozenset(
        64 * word + bit for word, mask in enumerate(masks) for bit in range(64) if mask >> bit & 1
    )
