"""Reference implementations of attention mechanisms: what is measured. Mathematics, no clocks."""

from attention_impls.registry import backbones, backends, load, names
from attention_impls.shapes import AttentionShape, Grid

__all__ = ["AttentionShape", "Grid", "backbones", "backends", "load", "names"]
