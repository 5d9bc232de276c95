"""torch's scaled_dot_product_attention; torch chooses the kernel family, the record says which."""

from attention_impls.sdpa import sdpa_backend

BACKEND = sdpa_backend("sdpa", "SDPA", None)
