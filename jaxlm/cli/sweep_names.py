"""The names of a sweep's runs: the swept values as one short, unique part of a path."""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

_LONGEST_VALUE = 40
_LONGEST_LABEL = 120


def sweep_label(swept: Mapping[str, Any]) -> str:
    """{'optimizer.lr': 0.001, 'seed': 1} -> 'lr=0.001_seed=1'; '' if nothing is swept.

    Different values never have the same label: if text had to be replaced or cut off, a few digits
    of the hash of all of it are appended.
    """
    label = "_".join(f"{_short_key(key)}={_short_value(value)}" for key, value in swept.items())
    return _cut(label, label, _LONGEST_LABEL)


@functools.cache
def _short_key(key: str) -> str:
    """The last part of a dotted key if no other key or group ends in it: optimizer.lr -> lr."""
    from jaxlm.config.compose import all_keys, groups

    last = key.rsplit(".", 1)[-1]
    same = [name for name in [*all_keys(), *groups()] if name.rsplit(".", 1)[-1] == last]
    return last if len(same) == 1 else key


def _short_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    numbers = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    if numbers and value and min(value) >= 0:
        text = "-".join(map(str, value))
        return _cut(text, text, _LONGEST_VALUE)
    plain = re.sub(r"[^A-Za-z0-9.%+-]", "_", text)
    exact = plain == text and text.strip(".") == text and text
    return _cut(plain, text, _LONGEST_VALUE if exact else -1)


def _cut(plain: str, text: str, longest: int) -> str:
    """`plain`; if longer than `longest` (-1: always), its start and a hash of `text`."""
    if len(plain) <= longest:
        return plain
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[: max(longest, _LONGEST_VALUE) - 9].strip('._')}-{digest}"
