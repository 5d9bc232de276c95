"""Reference implementations of attention mechanisms: what is measured. Mathematics, no clocks."""

from importlib import import_module
from pkgutil import iter_modules

from attention_impls.registry import backbones, backends, load, load_backbone, names
from attention_impls.shapes import AttentionShape, Grid

__all__ = ["AttentionShape", "Grid", "backbones", "backends", "load", "load_backbone", "names"]

_public = {name: globals()[name] for name in __all__}
for _folder in iter_modules(__path__):
    if _folder.ispkg:
        import_module(f"{__name__}.{_folder.name}")
# the first import of a folder binds its name here and would hide the function of the same name
globals().update(_public)
