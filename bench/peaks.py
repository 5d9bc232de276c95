"""What vendors promise, with source. Imports no torch: pages show it beside what was measured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPeak:
    """What a vendor promises for one GPU model, dense, without sparsity."""

    float32_flop_s: float
    """Without TF32."""
    half_flop_s: float
    """bfloat16 and float16 on tensor cores."""
    bandwidth_byte_s: float
    source: str


KNOWN_PEAKS: dict[str, KnownPeak] = {
    "NVIDIA A100-SXM4-40GB": KnownPeak(
        float32_flop_s=19.5e12,
        half_flop_s=312e12,
        bandwidth_byte_s=1555e9,
        source="https://www.nvidia.com/en-us/data-center/a100/",
    ),
    "NVIDIA A100-SXM4-80GB": KnownPeak(
        float32_flop_s=19.5e12,
        half_flop_s=312e12,
        bandwidth_byte_s=2039e9,
        source="https://www.nvidia.com/en-us/data-center/a100/",
    ),
    "NVIDIA H100 80GB HBM3": KnownPeak(
        float32_flop_s=67e12,
        half_flop_s=989.5e12,
        bandwidth_byte_s=3.35e12,
        source="https://www.nvidia.com/en-us/data-center/h100/",
    ),
    "NVIDIA H200": KnownPeak(
        float32_flop_s=67e12,
        half_flop_s=989.5e12,
        bandwidth_byte_s=4.8e12,
        source="https://www.nvidia.com/en-us/data-center/h200/",
    ),
}
"""By the name that the driver reports. The published half-precision figures of H100 and H200 count
sparsity; dense is half of them. Clocks below the boost clock lower all of this: the measured
ceilings, not these, are what efficiency is computed from."""
