"""Memory in use, in bytes: the devices' own count where they keep one, else this process's."""

import resource
from pathlib import Path

import jax
import psutil


def memory_bytes() -> int:
    """In use now: summed over the devices, or the resident set of this process on a CPU."""
    used = [device.memory_stats() for device in jax.local_devices()]
    if all(used):
        return sum(stats["bytes_in_use"] for stats in used)
    return psutil.Process().memory_info().rss


def peak_memory_bytes() -> int:
    """The most in use so far, counted as in `memory_bytes`."""
    used = [device.memory_stats() for device in jax.local_devices()]
    if all(used):
        return sum(stats["peak_bytes_in_use"] for stats in used)
    try:  # ru_maxrss would also count the program that started this one
        status = Path("/proc/self/status").read_text("ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
