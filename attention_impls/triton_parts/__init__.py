"""Building blocks of the backends named `triton`. Importing this package imports no triton.

`backend` and `layout` are plain Python; every other module defines kernels and imports triton, so
it is imported where a kernel is launched and nowhere else.
"""
