"""The smallest cases, protocols, plans and journals that still measure something."""

from dataclasses import replace
from pathlib import Path

from bench.journal_lines import Header, VariantSource
from bench.model import (
    Case,
    Ceiling,
    Environment,
    GridSize,
    Level,
    Passes,
    Plan,
    Protocol,
    Scalar,
    Workload,
)

FAULTY = Path(__file__).parent / "measure" / "faulty"

PROTOCOL = Protocol(
    rounds=2,
    warmup_s=0.001,
    warmup_cap_s=0.01,
    sample_s=0.002,
    least_samples=3,
    most_samples=5,
    sample_cap_s=0.05,
    timeout_s=60.0,
    anchor_every=3,
)


def case(
    variant: str = "softmax",
    tokens: int = 16,
    *,
    backend: str = "reference",
    level: Level = "layer",
    passes: Passes = "forward",
    batch: int | None = 1,
    options: dict[str, Scalar] | None = None,
) -> Case:
    """A case of one sequence of `tokens` tokens with 2 heads of 4 channels."""
    return Case(
        variant=variant,
        backend=backend,
        options=options or {},
        level=level,
        stimulus=Workload(
            batch=batch,
            batch_policy="one" if batch == 1 else "largest",
            grid=GridSize(height=1, width=tokens),
            heads=2,
            head_dim=4,
            dtype="float32",
            passes=passes,
        ),
    )


def image(variant: str, *, passes: Passes = "forward") -> Case:
    """A case of real proportions: 28 x 28 tokens, 3 heads of 64 channels."""
    small = case(variant, passes=passes)
    stimulus = replace(small.stimulus, grid=GridSize(height=28, width=28), heads=3, head_dim=64)
    return replace(small, stimulus=stimulus)


def plan(*cases: Case, protocol: Protocol = PROTOCOL, noise: tuple[Case, ...] = ()) -> Plan:
    """A plan of `cases` with an anchor of its own."""
    return Plan(
        name="tiny",
        purpose="tests",
        expected_minutes=0.1,
        protocol=protocol,
        cases=cases,
        noise_pairs=noise,
        anchor=case(tokens=8),
    )


def header(plan: Plan, threads: int = 1) -> Header:
    """A header for `plan` with an invented machine."""
    variants = {case.variant for case in (*plan.cases, *plan.noise_pairs, plan.anchor)}
    return Header(
        plan=plan,
        environment=Environment(
            hardware_id="test-1c-1g",
            device="cpu",
            device_name="test",
            device_memory_bytes=1 << 30,
            cpu="test",
            cpu_count=1,
            threads=threads,
            os="test",
            python="3",
            torch="2",
            packages={},
            settings={},
        ),
        ceilings=(Ceiling(name="copy_bandwidth", unit="byte/s", samples=(1e9,), detail="none"),),
        created="2026-01-01T00:00:00Z",
        suite_version="0",
        commit=None,
        dirty=True,
        only=None,
        variants={name: VariantSource(revision=1, source_sha256="0" * 64) for name in variants},
        tasks={},
        variant_files=(),
    )


def with_timeout(seconds: float, protocol: Protocol = PROTOCOL) -> Protocol:
    """The tiny protocol with another limit of time."""
    return replace(protocol, timeout_s=seconds)
