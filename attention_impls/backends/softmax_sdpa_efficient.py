"""torch's scaled_dot_product_attention pinned to the memory-efficient kernels (CUDA)."""

from torch.nn.attention import SDPBackend

from attention_impls.sdpa import sdpa_backend

BACKEND = sdpa_backend("sdpa_efficient", "SDPA, memory-efficient", SDPBackend.EFFICIENT_ATTENTION)
