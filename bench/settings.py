"""What is set before anything is measured, so that no result depends on a default or a habit."""

import os

import torch

from bench.model import DeviceKind, Scalar


def apply(device: DeviceKind, threads: int) -> None:
    """Fix threads, precision and algorithm search in this process.

    float32 means float32: TF32 is off everywhere. cuDNN searches for the fastest algorithm during
    warm-up, as training code does. Every SDPA implementation may be chosen; a backend that wants
    one of them says so itself.
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    for enable in (
        torch.backends.cuda.enable_flash_sdp,
        torch.backends.cuda.enable_mem_efficient_sdp,
        torch.backends.cuda.enable_math_sdp,
        torch.backends.cuda.enable_cudnn_sdp,
    ):
        enable(True)
    if device == "cuda":
        torch.cuda.set_device(0)


def read() -> dict[str, Scalar | None]:
    """Everything above as it is in force now."""
    matmul = torch.backends.cuda.matmul
    cuda = torch.backends.cuda
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "allow_tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "allow_fp16_reduced_precision_reduction": bool(
            matmul.allow_fp16_reduced_precision_reduction
        ),
        "allow_bf16_reduced_precision_reduction": bool(
            matmul.allow_bf16_reduced_precision_reduction
        ),
        "sdp_flash": cuda.flash_sdp_enabled(),
        "sdp_mem_efficient": cuda.mem_efficient_sdp_enabled(),
        "sdp_math": cuda.math_sdp_enabled(),
        "sdp_cudnn": cuda.cudnn_sdp_enabled(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "mkl_num_threads": os.environ.get("MKL_NUM_THREADS"),
        "interop_threads": torch.get_num_interop_threads(),
    }
