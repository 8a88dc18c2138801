"""Column headings: the role of a column and its unit, such as params_M or loss (nats)."""

import math
import re

from scaling.records.files import key
from scaling.records.units import compute_factor, factor

COUNTS = ("non_embedding", "total", "unstated")
_LOSS = r"(loss|crossentropy|nll|xent)"
_HELD = r"(val|valid|validation|eval|evaluation|test)"
_NON = r"(nonemb|nonembed|nonembedding)s?"
# Patterns of column names for each role, after `key`.
_NAMES = {
    "non_embedding": rf"(n|num)?{_NON}(param(eter)?s?)?|(n|num)?param(eter)?s?{_NON}|n{_NON}|nne",
    "total": r"(n|num)?(total|all)param(eter)?s?|param(eter)?s?total|ntotal",
    "unstated": r"n|(n|num|number|no)?(of)?(model|trainable)?param(eter)?s?(count)?|modelsize",
    "D": r"d|(n|num|number|no)?(of)?(train|training|trained|trainer|total|consumed|input)*"
    r"tokens?(seen|count|trained|consumed|processed)*|datasize",
    "C": r"c|(n|num|number|no)?(of)?(train|training|trainer|total)*(flops?|flos|compute)"
    r"(budget|count|total)?",
    "loss": rf"(final)?{_HELD}?{_LOSS}|{_LOSS}{_HELD}",
    "training": rf"(final)?(train|training|trainer){_LOSS}|{_LOSS}(train|training)",
    "perplexity": rf"{_HELD}?(ppl|perplexity)",
    "bits": rf"{_HELD}?(bpt|bpb|bpc|bits?per(token|byte|char|character))",
    "run": r"(run|trial)(id|name)?|name",
    "step": r"(trainer)?(global)?steps?|iter(ation)?s?",
    "unique": r"(n|num)?unique((train|training)?tokens|data)?|u",
    "weight": r"(sample)?weights?",
    "middle": r"middle",
    "floor": r"entropyfloor",
    "natural": r"naturaltext",
}
_SCALED = {*COUNTS, "D", "C", "unique"}
# Words in a unit that name what is counted, and the roles they belong to.
_COUNTED = {
    r"param(eter)?s?|weights?": {*COUNTS},
    r"tok(en)?s?": {"D", "unique"},
    r"[a-z]*(flops?|flos?|macs?)": {"C"},
}


def read_head(name: str) -> tuple[str, float] | None:
    """The role of a column and the factor of its unit, from its name; None if it has no role."""
    # W&B puts the run before the name of a curve: "Group: x - val/loss".
    name = name.rpartition(" - ")[2] or name
    own = _by_name(name)
    if own:
        return own, 1.0
    if (scale := compute_factor(name)) is not None:
        return "C", scale
    for base, unit in divided(name):
        role = _by_name(base)
        if role in ("loss", "training"):
            # The law is the same for a loss per token and per byte.
            scale = factor(
                re.sub(r"(?i)\s*(/|\bper\b|_per_)\s*(token|tok|byte|char(acter)?)s?$", "", unit)
            )
            of_text = scale is None and re.search(r"[(\[][\w ./-]+[)\]]$", name)  # e.g. loss (C4)
            if scale in (1.0, math.log(2)) or of_text:
                return role, scale or 1.0
        elif role in _SCALED:
            scale = factor(unit)
            if scale is not None and scale >= 1 and not _of_another(role, unit):  # not bits
                return role, scale
    return (role, 1.0) if (role := _by_path(name)) else None


def _of_another(role: str, unit: str) -> bool:
    """Whether a unit belongs to another role: N in tokens, D in PF-days."""
    if role != "C" and compute_factor(unit) is not None:
        return True
    words = re.findall("[a-z]+", unit.lower())
    return any(
        role not in roles and any(re.fullmatch(form, word) for word in words)
        for form, roles in _COUNTED.items()
    )


def unknown_unit(name: str) -> tuple[str, str] | None:
    """The role and the unit of a heading with an unknown unit, such as compute (GPU hours)."""
    match = re.fullmatch(r"(.+?)\s*[(\[](.+)[)\]]", name)
    if match is None or (role := _by_name(match[1])) not in _SCALED or read_head(name) is not None:
        return None
    return role, match[2]


def _by_name(name: str) -> str | None:
    found = re.sub("val(ue)?s$", "", key(name))  # n_vals
    return next((role for role, form in _NAMES.items() if re.fullmatch(form, found)), None)


def _by_path(name: str) -> str | None:
    """The role of the last parts of a name such as metrics/val_loss or config.n_params."""
    parts = re.split(r"[/.]", name)
    for cut in range(1, len(parts)):
        role = _by_name("/".join(parts[cut:])) if len(parts[-1]) > 1 else None  # not D/N
        if role == "loss" and any("train" in part.lower() for part in parts[:cut]):
            return "training"
        if role in _SCALED or role == "loss":
            return role
    return None


def divided(name: str) -> list[tuple[str, str]]:
    """All ways to split a heading into (base, unit), longest base first.

    So the base of n_tokens_B is n_tokens, not n, which would be N.
    """
    found = []
    for form in (
        r"(?P<b>.*?)\s*[(\[](?P<u>[^)\]]+)[)\]]",
        r"(?P<b>.*?)\s*(?:,|[ _]in[ _])\s*(?P<u>.+)",
        r"(?P<b>.*?)\s*(?:/|\*|×|\bx)\s*(?P<u>1.+)",
        r"(?P<b>.*[a-z])(?P<u>[KMBGT])",
        r"(?P<u>[KMBGT])(?P<b>[a-zA-Z].*)",
    ):
        if match := re.fullmatch(form, name):
            found.append((match["b"], match["u"]))
    words = [word for word in re.split(r"[\s_./-]+", name) if word]
    for cut in range(1, len(words)):
        first, last = " ".join(words[:cut]), " ".join(words[cut:])
        # n_b and d_k are dimensions, but N_B is a count.
        found += [pair for pair in ((first, last), (last, first)) if len(pair[0]) > 1]
        if len(first) == 1 and not last.islower() or len(last) > 1:
            found.append((first, last))
    return sorted(found, key=lambda pair: -len(pair[0]))
