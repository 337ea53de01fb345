"""How the process of a command treats memory that was freed. A library must not decide this; a command may."""

from __future__ import annotations

import ctypes
import os

# glibc's names for mallopt, and the largest threshold that it takes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD_BYTES = 32 * 2**20
_KEPT_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Let glibc keep up to 256 MiB of freed memory, and say whether it does.

    By itself it gives every large map back to the system, which hands it out again page by page, all zeroed: a tenth of
    the time of a small image. Whoever has set MALLOC_ variables is left alone, as is any other C library.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD_BYTES), mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    return all(done == 1 for done in kept)
