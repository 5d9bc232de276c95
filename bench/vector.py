"""Pinned outputs: one small JSON a variant, so that no output changes without a new revision.

`python -m bench.vector NAME...` computes and writes tests/vectors/<name>.json, and refuses where
an output moved but `SPEC.revision` did not; `--check` only compares. Inputs and weights come from
the closed-form stimulus, arithmetic is float64, so that any machine gets the same numbers.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from attention_impls.registry import load, names
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from bench.alternatives import changed_fields, close_up, discrete_alternatives
from bench.stimulus import fill_parameters, workload_inputs
from bench.strict_json import parse, pretty

FOLDER = Path(__file__).parent.parent / "tests" / "vectors"
MOST_BYTES = 2048
"""A vector is read by people in reviews."""
_SHAPES = (
    AttentionShape(batch=2, grid=Grid(10, 8), heads=2, head_dim=4),
    AttentionShape(batch=2, grid=Grid(16, 16), heads=2, head_dim=4),
    AttentionShape(batch=2, grid=Grid(14, 14), heads=2, head_dim=4),
    AttentionShape(batch=2, grid=Grid(56, 56), heads=2, head_dim=4),
)
"""The first that the variant computes is used: more tokens than the usual number of landmarks."""
_VALUES_OF_DEFAULTS = 16
_VALUES_OF_OTHERS = 3
_DIGITS = 12
_TOLERANCE = 1e-6
"""Largest accepted difference relative to the root mean square: ill-conditioned inverses amplify
the last bits, in which linear algebra libraries differ."""


class StaleRevisionError(ValueError):
    """An output moved and the revision did not."""


def built(spec: AttentionSpec, shape: AttentionShape, options: Any = None) -> nn.Module:
    """Build a float64 layer in evaluation mode with the closed-form weights.

    Raises:
        UnsupportedShapeError: the variant refuses `shape`.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layer = spec.build(shape, options)
    fill_parameters(layer)
    return layer.to(torch.float64).eval().requires_grad_(requires_grad=False)


def vector(spec: AttentionSpec, official_error: float | None = None) -> dict[str, Any]:
    """Compute the vector of a variant: defaults and each alternative to them.

    Args:
        spec: the variant.
        official_error: largest difference from the authors' code that its golden test found.

    Raises:
        ValueError: no shape suits the default options.
    """
    shape = next((s for s in _SHAPES if not spec.unsupported(s)), None)
    if shape is None:
        raise ValueError(f"{spec.name}: refuses every shape that vectors use, add one to _SHAPES")
    provenance: dict[str, Any] = {"kind": "self"}
    if official_error is not None:
        if spec.paper.code is None:
            raise ValueError(f"{spec.name}: an error against official code, but paper.code is None")
        provenance = {"kind": "official", "code": spec.paper.code, "error": official_error}
    return {
        "name": spec.name,
        "revision": spec.revision,
        "provenance": provenance,
        "shape": f"{shape.batch}x{shape.grid}x{shape.heads}x{shape.head_dim}",
        "outputs": list(_outputs(spec, shape)),
    }


def differences(spec: AttentionSpec, folder: Path | None = None) -> tuple[str, ...]:
    """Return how the variant differs from its vector, as sentences; empty means not at all."""
    path = (folder or FOLDER) / f"{spec.name}.json"
    if not path.is_file():
        return (f"{path.name}: missing, write it with `nox -s vector -- {spec.name}`",)
    pinned = _read(path)
    found = vector(spec)
    reasons = [
        f"{path.name}: {key} is {pinned.get(key)!r}, the variant has {found[key]!r}"
        for key in ("name", "revision", "shape")
        if pinned.get(key) != found[key]
    ]
    reasons += _output_differences(path.name, pinned.get("outputs"), found["outputs"])
    provenance = pinned.get("provenance")
    if not isinstance(provenance, dict) or provenance.get("kind") not in ("self", "official"):
        reasons.append(f"{path.name}: provenance.kind must be 'self' or 'official'")
    if path.stat().st_size > MOST_BYTES:
        reasons.append(f"{path.name}: {path.stat().st_size} bytes, must be <= {MOST_BYTES}")
    return tuple(reasons)


def write(
    spec: AttentionSpec, official_error: float | None = None, folder: Path | None = None
) -> Path:
    """Write the vector of a variant; keeps a stated provenance while the revision stays.

    Raises:
        StaleRevisionError: an output moved but the revision is not above the file's.
        ValueError: the vector would be larger than a reviewer reads.
    """
    path = (folder or FOLDER) / f"{spec.name}.json"
    found = vector(spec, official_error)
    if path.is_file():
        pinned = _read(path)
        same_outputs = {o["case"]: o for o in found["outputs"]}
        kept = [o for o in pinned["outputs"] if o["case"] in same_outputs]
        moved = _output_differences(path.name, kept, [same_outputs[o["case"]] for o in kept])
        if moved and spec.revision <= pinned["revision"]:
            raise StaleRevisionError(
                f"{spec.name}: outputs moved ({moved[0]}) but revision is {spec.revision}, "
                f"must be > {pinned['revision']}: older results become stale"
            )
        if official_error is None and spec.revision == pinned["revision"]:
            found["provenance"] = pinned["provenance"]
    text = pretty(found)
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"{path.name}: {len(text.encode())} bytes, must be <= {MOST_BYTES}")
    path.write_text(text, encoding="utf-8")
    return path


def _outputs(spec: AttentionSpec, shape: AttentionShape) -> Iterator[dict[str, Any]]:
    for case, sizes, options in _cases(spec, shape):
        if spec.unsupported(sizes, options):
            continue
        layer = built(spec, sizes, options)
        with torch.no_grad():
            (x,) = workload_inputs(sizes, "layer", call=0, dtype=torch.float64)
            flat = layer(x, sizes.grid).flatten()
        count = _VALUES_OF_DEFAULTS if case == "defaults" else _VALUES_OF_OTHERS
        # an odd stride, so that the values come from all channels, tokens and batch items
        stride = (flat.numel() // count - 1) | 1
        yield {
            "case": case,
            "root_mean_square": _rounded(flat.square().mean().sqrt().item()),
            "every": stride,
            "values": [_rounded(v) for v in flat[::stride][:count].tolist()],
        }


def _cases(spec: AttentionSpec, shape: AttentionShape) -> Iterator[tuple[str, AttentionShape, Any]]:
    """Defaults; with a class token; causal; close up; each discrete alternative of the options."""
    yield "defaults", shape, spec.options
    yield "extra_tokens=1", replace(shape, extra_tokens=1), spec.options
    yield "causal", replace(shape, causal=True), spec.options
    small = close_up(spec.options)
    alternatives = [] if small == spec.options else [small]
    for options in (*alternatives, *discrete_alternatives(spec.options)):
        changed = changed_fields(options, spec.options).items()
        yield ",".join(f"{name}={value}" for name, value in changed), shape, options


def _rounded(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"an output is {value}: a vector pins finite numbers")
    return float(f"{value:.{_DIGITS}g}")


def _output_differences(name: str, pinned: Any, found: list[dict[str, Any]]) -> list[str]:
    if not isinstance(pinned, list) or len(pinned) != len(found):
        return [f"{name}: outputs of other cases than the variant has now"]
    reasons: list[str] = []
    for want, got in zip(pinned, found, strict=True):
        label = f"{name}: outputs[{want['case']!r}]"
        if (want["case"], want["every"]) != (got["case"], got["every"]):
            reasons.append(f"{label} is pinned where the variant has {got['case']!r}")
            continue
        pairs = zip(
            (want["root_mean_square"], *want["values"]),
            (got["root_mean_square"], *got["values"]),
            strict=True,
        )
        worst = max(abs(a - b) for a, b in pairs)
        allowed = _TOLERANCE * got["root_mean_square"]
        if not worst <= allowed:
            reasons.append(f"{label} differs by {worst:.3g}, allowed {allowed:.3g}")
    return reasons


def _read(path: Path) -> Mapping[str, Any]:
    return parse(path.read_bytes())


@click.command()
@click.argument("variants", nargs=-1)
@click.option("--check", is_flag=True, help="Compare, write nothing.")
@click.option("--official-error", type=float, help="Largest difference from the authors' code.")
def main(variants: tuple[str, ...], check: bool, official_error: float | None) -> None:
    """Write or check the pinned outputs of VARIANTS (all of them without a name)."""
    failed = False
    for name in variants or names():
        try:
            reasons = differences(load(name)) if check else ()
            if not check:
                click.echo(f"wrote {write(load(name), official_error).name}")
        except (ValueError, LookupError) as refusal:
            reasons = (str(refusal),)
        for reason in reasons:
            failed = True
            click.echo(reason, err=True)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
