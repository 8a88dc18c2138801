"""The content of each JSON file of a run directory, a study and a checkpoint, as `checked` shapes.

Fields that readers cannot do without are required; other fields are checked if present.
"""

from pathlib import PurePosixPath
from typing import Any

from jaxlm.host.checked import anything, count, each, either, mapping, maybe, number, record, text

_COUNTS = (
    "step tokens parameters embedding_parameters non_embedding_parameters peak_memory_bytes"
).split()
_NUMBERS = "flops flops_exact seconds wall_seconds".split()
_WHOLE = record(
    {"status": text}
    | dict.fromkeys(_COUNTS, count)
    | dict.fromkeys(_NUMBERS, number)
    | dict.fromkeys(("val_loss", "best_val_loss"), maybe(number))
    | {"best_step": maybe(count)},
    {"reason": maybe(text)}
    | dict.fromkeys(("head_parameters", "packed"), maybe(count))
    | dict.fromkeys(("tokens_per_second", "mfu", "entropy_floor"), maybe(number)),
)
_BEGUN = record(
    {"status": text},
    {"reason": maybe(text), "step": count}
    | dict.fromkeys(("val_loss", "best_val_loss", "seconds", "wall_seconds"), maybe(number)),
)


def SUMMARY(value: Any, place: str) -> str | None:  # noqa: N802
    """A run's summary: the full one or, before that, only the run's status."""
    begun = isinstance(value, dict) and not {"parameters", "tokens", "flops"} & value.keys()
    return (_BEGUN if begun else _WHOLE)(value, place)


ENVIRONMENT = record(
    {"format_version": anything},
    {
        "versions": maybe(mapping(text)),
        "platform": maybe(text),
        "git_commit": maybe(text),
        "devices": maybe(each(text)),
        "starts": maybe(each(record({}, dict.fromkeys(
            ("time", "host", "git_commit", "command"), maybe(text)
        )))),
    },
)  # fmt: skip

RECORD = record(
    {"step": count},
    {"kind": text}
    | dict.fromkeys(("tokens", "eval_tokens", "memory_bytes"), maybe(count))
    | dict.fromkeys(
        (
            "flops", "seconds", "wall_seconds", "loss", "interval_loss", "lr", "gradient_norm",
            "tokens_per_second", "standard_error", "accuracy", "top5_accuracy", "confidence",
            "perplexity", "bits_per_byte",
        ),
        maybe(number),
    )
    | dict.fromkeys(("gradient_norms", "weight_norms", "update_norms"), mapping(maybe(number)))
    | {"activation_rms": each(maybe(number))},
)  # fmt: skip

HOLDER = record(
    {"host": text, "pid": count, "boot": text, "token": text}, {"process_started": maybe(text)}
)


def inside(value: Any, place: str) -> str | None:
    """A file's path within a folder, as POSIX writes it."""
    if wrong := text(value, place):
        return wrong
    path = PurePosixPath(value)
    out = path.is_absolute() or ".." in path.parts or not path.parts or "\0" in value
    return f"{place} is {value!r}, which is not inside the folder" if out else None


def _inside(value: Any, place: str) -> str | None:
    """An object whose names are paths within a folder."""
    return next(filter(None, (inside(name, place) for name in value)), None)


_FILES = mapping(record({"bytes": count, "sha256": text}))
MANIFEST = record(
    {
        "format_version": count,
        "step": count,
        "best": anything,
        "files": lambda value, place: _FILES(value, place) or _inside(value, place),
    }
)

NEWEST = record({"newest": count})

SEAL = record({"bytes": count, "sha256": text})

_CLAIM = record({}, dict.fromkeys(("text", "metric", "better", "than"), maybe(text)) | {
    "factor": maybe(number)
})  # fmt: skip
_DEFINITION = record(
    {},
    {
        "variants": maybe(mapping(each(text))),
        "axes": maybe(mapping(anything)),
        "seeds": maybe(each(count)),
        "reported": maybe(mapping(mapping(number))),
        "claims": maybe(each(_CLAIM)),
        "command": maybe(either(text, each(text))),
    }
    | dict.fromkeys(("question", "baseline", "equal", "experiment", "metric"), maybe(text)),
)
_ROW = record(
    {"variant": text, "path": inside},
    {"seed": maybe(count), "status": maybe(text), "reason": maybe(text)}
    | {"process_seconds": maybe(number)},
)
STUDY = record(
    {"runs": each(_ROW)},
    {"status": maybe(text), "reason": maybe(text), "definition": maybe(_DEFINITION)},
)

TIMED_RECORD = record({"step": count, "wall_seconds": number})

OUTCOMES = each(lambda value, place: each(anything)(value, place) or _outcome(value, place))


def _outcome(value: list[object], place: str) -> str | None:
    """(exit status, error) of one run of a pack."""
    kinds = [type(item) for item in value]
    return None if kinds == [int, str] else f"{place} is not an exit status and an error"


_MODEL = record({}, {
    "scores": maybe(mapping(anything)),
    "samples": maybe(each(record({}, {"text": maybe(text)}))),
})  # fmt: skip
SPECIMENS = record(
    {"models": mapping(_MODEL)},
    dict.fromkeys(("settings", "scores_legend"), maybe(mapping(anything)))
    | {"prompt": maybe(text), "decoding": maybe(each(mapping(anything)))},
)

LIMIT = record(
    {"asked": record({"key": text, "least": count, "most": count}), "fit": each(count)},
)
