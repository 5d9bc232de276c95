"""torch's scaled_dot_product_attention pinned to plain products: N x N is formed."""

from torch.nn.attention import SDPBackend

from attention_impls.sdpa import sdpa_backend

BACKEND = sdpa_backend("sdpa_math", "SDPA, math", SDPBackend.MATH)
