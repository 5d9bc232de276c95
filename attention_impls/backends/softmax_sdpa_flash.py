"""torch's scaled_dot_product_attention pinned to FlashAttention; on CPU its own fused loop."""

from torch.nn.attention import SDPBackend

from attention_impls.sdpa import sdpa_backend

BACKEND = sdpa_backend("sdpa_flash", "SDPA, flash", SDPBackend.FLASH_ATTENTION)
