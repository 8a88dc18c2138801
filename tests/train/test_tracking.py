"""Promises of the trackers: every number is written exactly once, even after a resume."""

import struct
import sys
import time

import pytest
from synthetic import synthetic_run

from jaxlm.config.compose import compose
from jaxlm.host.errors import UserError
from jaxlm.train.trackers import open_tracker, scalars


def events(folder):
    """What TensorBoard shows: {(tag, step): [values]}, with the purges of later processes."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown = {}
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            if event.session_log.status == SessionLog.START:
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                shown.setdefault((value.tag, event.step), []).append(value.simple_value)
    return shown


def tensorboard(folder, step=0):
    """A tracker; all are opened in the same second, yet each must write its own file."""
    pytest.importorskip("tensorboardX")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: 1.7e9)
        return open_tracker(compose(["tracker=tensorboard"]), folder, step)


def test_every_number_of_a_record_is_written(tmp_path):
    records, _ = synthetic_run(n=5, layers=2)
    tracker = tensorboard(tmp_path)
    for record in records:
        tracker.write(record)
    tracker.close()
    shown = events(tmp_path / "tensorboard")
    for record in records:
        for name, value in scalars(record):
            (seen,) = shown[f"{record['kind']}/{name}", record["step"]]
            assert seen == pytest.approx(value, rel=1e-6)
    names = {name for name, _ in shown}
    assert {"train/gradient_norms/blocks.1.attention", "train/activation_rms/1"} <= names
    assert "eval/loss" in names and "train/step" not in names


def test_no_step_is_kept_twice_after_a_resume(tmp_path):
    records, _ = synthetic_run(n=6)
    first = tensorboard(tmp_path, 9)
    for record in records[1:]:
        first.write(record | {"loss": 1.0})
    first.close()
    resumed_at = 20
    second = tensorboard(tmp_path, resumed_at)
    for record in records:
        if record["step"] > resumed_at:
            second.write(record | {"loss": 2.0})
    second.close()
    shown = events(tmp_path / "tensorboard")
    losses = {step: values for (name, step), values in shown.items() if name == "train/loss"}
    assert losses == {s: [1.0 if s <= 20 else 2.0] for s in (10, 20, 30, 40, 50)}


def test_null_and_text_are_omitted():
    record = {"kind": "train", "step": 3, "loss": None, "a": {"b": 1.5, "c": [2, None]}}
    assert dict(scalars(record)) == {"a/b": 1.5, "a/c/0": 2}


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install 'jaxlm\[tensorboard\]'"):
        open_tracker(compose(["tracker=tensorboard"]), tmp_path)


def test_without_a_tracker_nothing_is_written(tmp_path):
    tracker = open_tracker(compose([]), tmp_path)
    tracker.write({"kind": "train", "step": 1, "loss": 2.0})
    tracker.close()
    assert not list(tmp_path.iterdir())
