"""The run directory: configuration, environment, records, summary. Imports no jax."""

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxlm.host.checked import (
    Damaged,
    Json,
    Unfit,
    fitting,
    parse_json,
    read_bytes,
    read_json,
    record,
)
from jaxlm.host.errors import UserError
from jaxlm.host.files import atomic_write, plain
from jaxlm.host.names import check_utf8, command_line
from jaxlm.store.formats import ENVIRONMENT, RECORD, STUDY, SUMMARY
from jaxlm.store.lock import WriterLock

FORMAT_VERSION = 1
_START_OVER = "Put back a good copy of the file, or start the run over with run.overwrite=true."
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "torch")


class RunDirectory:
    """One run's folder: its configuration, environment, records and summary.

    Raises UserError for anything that is damaged or cannot be read or written, and for a folder
    that a newer version of this program wrote.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def check_writable(self) -> None:
        """Creates the folder. Raises UserError if it, or a file in it, cannot be created."""
        check_utf8(self.path, "run.dir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise _cannot("write to the run directory", self.path, error) from error
        self.check_format()

    def check_format(self) -> None:
        """Raises UserError if a newer version of this program wrote the run."""
        environment = read_json(self.path / "environment.json", record({}), _START_OVER) or {}
        version = environment.get("format_version", FORMAT_VERSION)
        if type(version) is not int or version > FORMAT_VERSION:
            raise UserError(
                f"{self.path} was written by a newer version of this program: its format is "
                f"{version}, but this version reads up to {FORMAT_VERSION}.\n"
                "Update the program, or choose another run.dir."
            )

    def lock(self) -> WriterLock:
        """One writer at a time: `with run.lock(): ...` raises UserError if another holds it."""
        return WriterLock(self.path)

    def write_text(self, name: str, text: str) -> None:
        """Replaces the file `name`, whole or not at all."""
        self._write(name, text.encode("utf-8", "backslashreplace"))

    def write_config(self, text: str) -> None:
        """Replaces config.yaml with the resolved configuration."""
        self.write_text("config.yaml", text)

    def read_config(self) -> str:
        """The YAML of the resolved configuration. Raises UserError if there is no run."""
        self.check_format()
        try:
            return (self.path / "config.yaml").read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(
                f"there is no run in {self.path}: it has no config.yaml.\n"
                f"Train one first: python run.py run.dir={self.path}"
            ) from None
        except (OSError, ValueError) as error:
            raise _cannot("read", self.path / "config.yaml", error) from error

    def write_environment(self, devices: list[str], command: list[str] | None = None) -> None:
        """Adds a start to environment.json: current versions and devices, and a command line.

        `command` defaults to this process's. Versions come from the packages' metadata; nothing is
        imported.
        """
        start = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": socket.gethostname(),
            "git_commit": git_commit(),
            "command": command_line(sys.argv if command is None else command),
        }
        environment = {
            "format_version": FORMAT_VERSION,
            "versions": {"python": platform.python_version()} | _versions(),
            "platform": platform.platform(),
            "git_commit": start["git_commit"],
            "devices": devices,
            "starts": [*(self.read_environment().get("starts") or []), start],
        }
        self.write_text("environment.json", json.dumps(environment, indent=1) + "\n")

    def read_environment(self) -> Json:
        """environment.json, or {} if there is none."""
        self.check_format()
        return read_json(self.path / "environment.json", ENVIRONMENT, _START_OVER) or {}

    def append(self, record: Json) -> None:
        """Appends one record to metrics.jsonl; a reader sees it whole or not at all."""
        line = (json.dumps(plain(record), allow_nan=False) + "\n").encode()
        try:
            with open(self.path / "metrics.jsonl", "ab", buffering=0) as file:
                written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _cannot("write", self.path / "metrics.jsonl", error) from error

    def sync(self) -> None:
        """Makes the records so far durable, so that no checkpoint outlives them."""
        try:
            with open(self.path / "metrics.jsonl", "ab") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise _cannot("write", self.path / "metrics.jsonl", error) from error

    def records(self, kind: str | None = None) -> list[Json]:
        """The records so far, of one kind or all, without a last line still being written."""
        records = [record for _, record in self._lines()]
        return [record for record in records if kind is None or record.get("kind") == kind]

    def truncate_after(self, step: int) -> None:
        """Drops the records beyond `step`, where a run resumes, and a half-written last line."""
        if (self.path / "metrics.jsonl").exists():
            kept = [line for line, record in self._lines() if record["step"] <= step]
            self._write("metrics.jsonl", b"".join(kept))

    def records_seal(self) -> Json:
        """Length and SHA-256 of the records so far; a checkpoint carries it."""
        content = self._records_bytes()
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def has_records(self, seal: Json) -> bool:
        """Whether the records still begin with those that were sealed, byte for byte."""
        content = self._records_bytes()[: seal["bytes"]]
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} == seal

    def truncate_to(self, length: int) -> None:
        """Cuts metrics.jsonl to its first `length` bytes."""
        content = self._records_bytes()
        if len(content) > length:
            self._write("metrics.jsonl", content[:length])

    def _records_bytes(self) -> bytes:
        path = self.path / "metrics.jsonl"
        return read_bytes(path, advice=_START_OVER) or b""

    def _lines(self) -> list[tuple[bytes, Json]]:
        """Each whole line of metrics.jsonl with the record it holds."""
        path = self.path / "metrics.jsonl"
        lines: list[tuple[bytes, Json]] = []
        for number, line in enumerate(self._records_bytes().split(b"\n")[:-1], 1):
            try:
                lines.append((line + b"\n", fitting(parse_json(line), RECORD)))
            except Unfit as error:
                raise Damaged(
                    f"{path}, line {number}, is not a record: {error}.\n"
                    "Remove the line, or start the run over with run.overwrite=true."
                ) from None
        return lines

    def write_summary(self, summary: Json) -> None:
        """Replaces summary.json."""
        self.write_text("summary.json", json.dumps(plain(summary), indent=1) + "\n")

    def read_summary(self) -> Json | None:
        """summary.json, or None before the first one is written."""
        return read_json(self.path / "summary.json", SUMMARY, _START_OVER)

    def _write(self, name: str, content: bytes) -> None:
        try:
            atomic_write(self.path / name, content)
        except OSError as error:
            raise _cannot("write", self.path / name, error) from error


def read_study(folder: Path) -> Json | None:
    """study.json of a study's folder, or None if there is none. Raises Damaged."""
    advice = "The study rewrites it when its command is run again."
    return read_json(folder / "study.json", STUDY, advice)


def _cannot(what: str, path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"cannot {what} {path}: {reason}.\n"
        "Check the path, its permissions and the free disk space, or choose another run.dir."
    )


def _versions() -> dict[str, str]:
    """Installed versions of the libraries that the numbers depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """The commit of this program's checkout, with `-dirty` if files differ from it; or None."""
    here = Path(__file__).resolve()
    in_here = ["git", "-C", str(here.parent)]
    commands = [
        [*in_here, "ls-files", "--error-unmatch", here.name],
        [*in_here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    ]
    try:
        for command in commands:
            answer = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return answer
