"""glibc's malloc policy: give fresh pages back after each call, or keep them.

With glibc's defaults a large buffer is mapped on allocation and unmapped when freed, so each call
pays a page fault for every 4 KiB that it touches; that can exceed the arithmetic. Both policies are
measured and named.
"""

import ctypes
import os
import platform
from functools import cache
from typing import Literal

Policy = Literal["default", "keeping"]

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_NEVER_TRIM = 2**31 - 1
_TOP_PAD_BYTES = 64 << 20


@cache
def uncontrolled() -> str | None:
    """Say why malloc's policy cannot be set here; None where it can."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return "the allocator's policy can be set with glibc only"
    preloaded = os.environ.get("LD_PRELOAD", "")
    for other in ("jemalloc", "tcmalloc", "mimalloc"):
        if other in preloaded:
            return f"{other} is preloaded in place of glibc's malloc"
    return None


def keep_pages() -> None:
    """Never give pages back to the system from here on; there is no way back in this process.

    Raises:
        OSError: the allocator cannot be controlled here, or refused.
    """
    if reason := uncontrolled():
        raise OSError(reason)
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _NEVER_TRIM),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
    ):
        if mallopt(ctypes.c_int(parameter), ctypes.c_int(value)) != 1:
            raise OSError(f"mallopt({parameter}, {value}) was refused")


def trim() -> None:
    """Give all free pages back to the system now.

    Raises:
        OSError: the allocator cannot be controlled here.
    """
    if reason := uncontrolled():
        raise OSError(reason)
    ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
