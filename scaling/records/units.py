"""Units of size, tokens, compute and loss, as written in column headings and cells."""

import math
import re

_PREFIXES = {
    "k": 1e3, "kilo": 1e3, "m": 1e6, "mega": 1e6, "g": 1e9, "giga": 1e9, "t": 1e12, "tera": 1e12,
    "p": 1e15, "peta": 1e15, "e": 1e18, "exa": 1e18, "z": 1e21, "zetta": 1e21, "y": 1e24,
    "yotta": 1e24,
}  # fmt: skip
_PREFIX = "|".join(sorted(_PREFIXES, key=len, reverse=True))
_WORDS = {
    "k": 1e3, "thousand": 1e3, "thousands": 1e3, "m": 1e6, "mn": 1e6, "mil": 1e6, "mio": 1e6,
    "million": 1e6, "millions": 1e6, "b": 1e9, "bn": 1e9, "bil": 1e9, "mrd": 1e9, "billion": 1e9,
    "billions": 1e9,
    "trillion": 1e12, "trillions": 1e12, "bit": math.log(2), "bits": math.log(2),
}  # fmt: skip
# In lower case these letters usually stand for indices and dimensions, not units.
_CAPITALS = {"G": 1e9, "T": 1e12}
_NEUTRAL = {
    "in", "of", "x", "times", "param", "params", "parameter", "parameters", "token", "tokens",
    "tok", "toks", "flop", "flops", "flos", "nat", "nats", "weights",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_POWER = r"(?:10\s*(?:\^|\*\*)\s*\+?|(?<![a-zA-Z0-9])1?[eE]\+?)(\d+)"

COMPUTE = {
    "kFLOPs": 1e3, "MFLOPs": 1e6, "GFLOPs": 1e9, "TFLOPs": 1e12, "PFLOPs": 1e15,
    "exaFLOPs": 1e18, "zettaFLOPs": 1e21, "yottaFLOPs": 1e24, "TF-days": 8.64e16,
    "PF-days": 8.64e19, "EF-days": 8.64e22, "PF-hours": 3.6e18,
}  # fmt: skip
"""Common units of training compute, in FLOPs."""
SCALES = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}


def plain_powers(text: str) -> str:
    """Replace superscripts and multiplication signs: ×10¹⁸ becomes x10^18."""
    raised = re.sub(r"(?<=10)([⁰¹²³⁴⁵⁶⁷⁸⁹]+)", r"^\1", text)
    return raised.translate(_SUPERSCRIPTS).replace("×", "x").replace("·", "x")


def compute_factor(text: str) -> float | None:
    """FLOPs per unit of compute: GFLOPs, exaFLOP, PF-days, petaflop/s-days, MACs. Else None."""
    squeezed = re.sub(r"[\s_./-]", "", text.lower())
    found = re.fullmatch(rf"({_PREFIX})?f(?:lop)?(?:s|ps|spersecond)*(day|hour|hr)s?", squeezed)
    if found:
        return _PREFIXES.get(found[1], 1.0) * (86400.0 if found[2] == "day" else 3600.0)
    found = re.fullmatch(rf"({_PREFIX})?(flop|flo|mac)s?", squeezed)
    if found:
        # One MAC is a multiplication and an addition.
        return _PREFIXES.get(found[1], 1.0) * (2.0 if found[2] == "mac" else 1.0)
    return None


def factor(text: str) -> float | None:
    """The factor of a unit: M, in millions, B tokens, x1e18, GFLOPs, PF-days, bits.

    1 for a unit that only names what is counted (tokens, nats); None if the text is not a unit.
    """
    of_compute = compute_factor(text)
    if of_compute is not None:
        return of_compute
    found = []

    def power(match: re.Match[str]) -> str:
        found.append(10.0 ** min(int(match[1]), 40))
        return " "

    for word in re.split(r"[\s_./*()-]+", re.sub(_POWER, power, plain_powers(text))):
        if not word or word.lower() in _NEUTRAL:
            continue
        value = _CAPITALS.get(word, _WORDS.get(word.lower()))
        if value is None and (value := compute_factor(word)) is None:
            return None
        found.append(value)
    return math.prod(found) if len(found) < 2 else None


def short(value: float) -> str:
    """A number as people write it: 8.64e19 instead of 8.64e+19."""
    return re.sub(r"e\+?(-?)0*(?=\d)", r"e\1", f"{value:.4g}")
