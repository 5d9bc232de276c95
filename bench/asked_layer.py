"""The layer that a case asks for, in the terms of attention_impls: sizes, options, parameters.

Reading results must not cost the import of torch: only counting parameters needs it.
"""

from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, Grid
from bench.model import Level, Scalar, Workload

if TYPE_CHECKING:
    from attention_impls.spec import AttentionSpec


def workload_shape(workload: Workload, batch: int) -> AttentionShape:
    """Return the sizes of one call with `batch` sequences."""
    return AttentionShape(
        batch=batch,
        grid=Grid(workload.grid.height, workload.grid.width),
        heads=workload.heads,
        head_dim=workload.head_dim,
        extra_tokens=workload.extra_tokens,
        causal=workload.causal,
    )


def options_of(spec: "AttentionSpec", chosen: dict[str, Scalar]) -> Any:
    """Return the options object with `chosen` in place; None if it cannot be made."""
    if option_faults(spec, chosen):
        return None
    return replace(spec.options, **chosen)


def option_faults(spec: "AttentionSpec", chosen: dict[str, Scalar]) -> tuple[str, ...]:
    """Return why `chosen` are not options of the variant, each as a sentence."""
    known = {field.name: getattr(spec.options, field.name) for field in fields(spec.options)}
    found: list[str] = []
    for name, value in chosen.items():
        if name not in known:
            allowed = ", ".join(known) or "none"
            found.append(f"option {name!r} is not one of {spec.name}: allowed {allowed}")
        elif known[name] is not None and type(value) is not type(known[name]):
            kind = type(known[name]).__name__
            found.append(f"option {name} is {value!r}, must be of type {kind}")
        elif value == known[name]:
            found.append(f"option {name} is {value!r}, the default: leave it out of the case")
    if not found:
        try:
            replace(spec.options, **chosen)
        except (TypeError, ValueError) as error:
            found.append(str(error))
    return tuple(found)


@cache
def parameters_of(variant: str, options: Any, shape: AttentionShape, level: Level) -> int | None:
    """Count learned numbers of the layer, or of its core alone, on the meta device.

    None: options that are typed into a file can ask for a layer that no memory can address.
    """
    import torch  # noqa: PLC0415 - reading results must not cost its import

    try:
        with torch.device("meta"):
            layer = load(variant).build(shape, options)
    except (RuntimeError, OverflowError):
        return None
    module = getattr(layer, "mix", None) if level == "core" else layer
    learned = module.parameters() if isinstance(module, torch.nn.Module) else ()
    return sum(parameter.numel() for parameter in learned)
