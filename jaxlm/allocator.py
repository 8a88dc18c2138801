"""Host memory in huge pages that stay: a third off a small model's step on a CPU.

Every step takes and returns the same large buffers. With glibc's defaults they go back to the
system each time, and the next step pays for clearing their pages again.
"""

import os
import platform
import sys

TUNABLES = {
    "glibc.malloc.hugetlb": 1,  # ask for transparent huge pages
    "glibc.malloc.mmap_max": 0,  # no mapping of its own for a large buffer, to be unmapped again
    "glibc.malloc.trim_threshold": 2**40,  # keep freed memory
    "glibc.malloc.arena_max": 1,  # one heap: others are too small for large buffers
}


def restart_with_huge_pages() -> None:
    """Replace this process by itself with glibc tuned, which is possible at its start only.

    Does nothing elsewhere than on glibc, nor where the person has set GLIBC_TUNABLES.
    """
    if "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    tunables = ":".join(f"{name}={value}" for name, value in TUNABLES.items())
    environment = os.environ | {"GLIBC_TUNABLES": tunables}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
