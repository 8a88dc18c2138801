"""Memory of this process, in bytes."""

import resource
from pathlib import Path

import psutil


def process_bytes() -> int:
    """The current resident set size."""
    return int(psutil.Process().memory_info().rss)


def process_peak_bytes() -> int:
    """The peak resident set size so far."""
    try:  # ru_maxrss would also count the program that started this one
        status = Path("/proc/self/status").read_text("ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_process_peak() -> None:
    """Reset the peak resident set size for the next run in this process; Linux only."""
    try:  # proc_pid_clear_refs(5): 5 resets the peak to the current size
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        pass
