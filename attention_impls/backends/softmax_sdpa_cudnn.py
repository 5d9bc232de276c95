"""torch's scaled_dot_product_attention pinned to cuDNN's fused attention (CUDA)."""

from torch.nn.attention import SDPBackend

from attention_impls.sdpa import sdpa_backend

BACKEND = sdpa_backend("sdpa_cudnn", "SDPA, cuDNN", SDPBackend.CUDNN_ATTENTION)
