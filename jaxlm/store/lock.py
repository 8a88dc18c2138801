"""One writer at a time in a run directory, with a heartbeat that other hosts can see.

The file `.lock` names the writer; its modification time is the heartbeat. On one machine the
kernel decides: the holder has an flock on the file, which ends with the process, so a killed writer
is replaced at once. Between machines the heartbeat decides: after 60 s of silence the holder counts
as dead.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import tempfile
import threading
import time
import uuid
from pathlib import Path

from jaxlm.host.checked import Damaged, Json, Unfit, fitting, parse_json, read_bytes
from jaxlm.host.errors import UserError
from jaxlm.store.formats import HOLDER

STALE_SECONDS = 60.0
HEARTBEAT_SECONDS = 10.0
SETTLE_SECONDS = 1.0
RECORD_BYTES = 512


class WriterLock:
    """`with WriterLock(folder) as lock:` makes this process the folder's only writer.

    Entering raises UserError, which names the holder, if there is one. `lock.check()` raises
    UserError if another host has taken over, which can happen to a process stopped for a minute.
    """

    def __init__(self, folder: Path):
        self.path = folder / ".lock"
        self.record = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "boot": _boot(),
            "token": uuid.uuid4().hex,
        }
        self._lost = False
        self._leave = threading.Event()

    def __enter__(self) -> "WriterLock":
        try:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"cannot write to the run directory {self.path.parent}: {error.strerror}.\n"
                "Check its permissions, or choose another run.dir."
            ) from error
        try:
            if not stat.S_ISREG(os.fstat(self._handle).st_mode):
                raise UserError(
                    f"{self.path} is not a regular file, so it cannot be locked.\nRemove it."
                )
            self._acquire()
        except BaseException:
            os.close(self._handle)
            raise
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()
        if self._read() == self.record:
            os.ftruncate(self._handle, 0)
        os.close(self._handle)

    def check(self) -> None:
        """Raises UserError if another writer has taken the folder over."""
        if self._lost:
            raise UserError(
                f"another process has taken over {self.path.parent} while this one was stopped.\n"
                "This process ends here, so that there is only one writer."
            )

    def _acquire(self) -> None:
        kernel_decides = self._flock()
        holder = self._read()
        if holder is not None:
            here = holder.get("boot") == self.record["boot"]
            if not here and self._silence() <= STALE_SECONDS:
                raise self._held_by(holder)
            if here and not kernel_decides and _alive(holder):
                raise self._held_by(holder)
        content = json.dumps(self.record).encode().ljust(RECORD_BYTES)
        os.pwrite(self._handle, content, 0)
        os.fsync(self._handle)
        if holder is not None and not here:
            time.sleep(SETTLE_SECONDS)  # a second host may have come to the same conclusion
            if self._read() != self.record:
                raise self._held_by(self._read() or {})

    def _flock(self) -> bool:
        """Takes the kernel's lock; False if the file system has none. Raises UserError if held."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise self._held_by(self._read() or {}) from None
            return False
        return True

    def _held_by(self, holder: Json) -> UserError:
        pid, host = holder.get("pid", "unknown"), holder.get("host", "unknown")
        return UserError(
            f"{self.path.parent} is being written by process {pid} on host {host} "
            f"(last sign of life {self._silence():.0f} s ago).\n"
            f"Wait until it has ended, stop it there with `kill {pid}` (it saves first), "
            "or choose another run.dir."
        )

    def _read(self) -> Json | None:
        """The holder of the lock; None if there is none or the file does not say.

        The file is opened again, so that network file systems look at it.
        """
        try:
            content = read_bytes(self.path, most=16 * RECORD_BYTES)
            return fitting(parse_json(content), HOLDER) if content else None
        except (Damaged, Unfit):
            return None

    def _silence(self) -> float:
        """Seconds since the last heartbeat, both times taken from the file system's clock."""
        with tempfile.TemporaryFile(dir=self.path.parent) as now:
            return max(0.0, os.fstat(now.fileno()).st_mtime - self.path.stat().st_mtime)

    def _beat(self) -> None:
        while not self._leave.wait(HEARTBEAT_SECONDS):
            if self._read() != self.record:
                self._lost = True
                return
            try:
                os.utime(self._handle)
            except OSError:
                continue  # a network file system's hiccup: the next beat may succeed


def _boot() -> str:
    """An id of this machine's current boot; the host's name if the kernel has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _process_started(pid: int) -> str | None:
    """Start time of a process in kernel ticks, which tells two processes of the same pid apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _alive(holder: Json) -> bool:
    """Whether the holder, a process of this machine, is still running."""
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return _process_started(holder["pid"]) == holder.get("process_started")
