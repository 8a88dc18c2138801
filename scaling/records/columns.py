"""Finds the column of each role, by its name and unit or as the caller states.

roles_of(table, None)                        # by name: params_M, train/tokens, loss (nats), ...
roles_of(table, "N=size*1e6, loss=c4_val")   # as stated; the other roles by name
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from scaling.errors import ScalingError
from scaling.records import numerals
from scaling.records.files import Table, check_values, key
from scaling.records.heads import COUNTS, divided, read_head, unknown_unit
from scaling.records.units import SCALES, factor, short

ROLES = {
    "N": "N", "non_embedding": "N", "total": "N", "D": "D", "C": "C", "loss": "loss", "run": "run",
    "step": "step", "U": "unique", "weight": "weight", "entropy_floor": "floor",
}  # fmt: skip
"""Names allowed on the left of an equals sign in `columns`, and the role of each."""
_WRITTEN = ("N", "D", "C", "loss", "floor", "unique", "weight", "step")
_GUESSES = {
    "N": r"param|size|^n($|[^a-z])", "D": r"tok|data|^[dt]($|[^a-z])",
    "loss": r"loss|nll|ppl|perpl|entropy|(^|[^a-z])(ce|val|valid|eval)($|[^a-z])",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Column:
    """A column with the unit stated by its heading or by the caller.

    Attributes:
      scale: the factor of its numbers; cells with a unit of their own are not multiplied.
      stated: the caller gave the unit, so it is not checked (except for logarithms of C).
      logarithm: the loss is the logarithm of the values.
      constant: one value for all rows, instead of a column.
      training: the column is a training loss.
    """

    name: str
    scale: float = 1.0
    stated: bool = False
    logarithm: bool = False
    constant: float | None = None
    training: bool = False

    def raw(self, table: Table, small: bool = False) -> np.ndarray:
        """The values (n,) in FLOPs, parameters, tokens or nats.

        Raises ScalingError for a cell that is not a number.
        """
        if self.constant is not None:
            return np.full(len(table.rows), self.constant)
        values, own = table.numbers_and_units(self.name, small)
        values = np.where(own, values, values * self.scale)
        if self.logarithm:
            with np.errstate(all="ignore"):
                values = np.log(values)
        return values

    def values(self, table: Table, zero: bool = False, small: bool = False) -> np.ndarray:
        """`raw`, checked to be finite and positive (with `zero`: not negative).

        Raises ScalingError with the rows.
        """
        values = self.raw(table, small)
        check_values(table.place, self.name, values, table.noun, table.rows, zero)
        return values


def columns_said(text: str) -> dict[str, str]:
    """Split text such as "N=size*1e6, loss=c4_val" into {name: expression}.

    Raises:
      ScalingError: the wrong form, an unknown role, or a role that is given twice.
    """
    starts = [
        match
        for match in re.finditer(r"(?:^|,)\s*(\w+)\s*=", text)
        if match[1] in ROLES or match.start() == 0
    ]
    if not starts or starts[0].start() > 0:
        raise ScalingError(f"columns={text!r}: write it as columns='N=size*1e6, loss=c4_val'.")
    found: dict[str, str] = {}
    for match, after in zip(starts, [*starts[1:], None], strict=True):
        if match[1] not in ROLES:
            raise _no_role(f"columns={text!r}", match[1])
        if ROLES[match[1]] in map(ROLES.get, found):
            raise ScalingError(f"columns={text!r}: {ROLES[match[1]]} is given twice.")
        found[match[1]] = text[match.end() : after.start() if after else None].strip(", ")
    return found


def _no_role(place: str, word: str) -> ScalingError:
    """The error for an unknown role, with a suggestion."""
    said = f"{place}: {word!r} is not a role. Choose from: {', '.join(ROLES)}."
    head = read_head(word)
    role = head[0] if head else word.lower()
    names = {held: name for name, held in ROLES.items()} | {name: name for name in ROLES}
    names |= {name.lower(): name for name in names.values()}
    names |= {"unstated": "N", "training": "loss", "perplexity": "loss", "bits": "loss"}
    close = [role] if role in names else difflib.get_close_matches(role, names, 1)
    return ScalingError(f"{said}\nDid you mean {names[close[0]]}=...?" if close else said)


def _column_said(table: Table, role: str, text: str) -> Column:
    """The column of an expression: NAME, NAME*NUMBER, NAME/NUMBER, ln(NAME) or NUMBER."""
    name = _named(table, text)
    if name is not None:
        return Column(name, _scale_of(name, role), stated=role == "run")
    match = re.fullmatch(r"(?:ln|log)\s*\((.+)\)", text)
    if match and (name := _named(table, match[1].strip())):
        return Column(name, logarithm=True, stated=True)
    for form in (
        r"(?P<name>.+?)\s*(?P<sign>[*/])\s*(?P<number>[^*/]+)",
        r"(?P<number>[^*/]+?)\s*\*\s*(?P<name>.+)",
    ):
        match = re.fullmatch(form, text)
        if match is None:
            continue
        number = _positive(match["number"], negative=role == "loss")
        name = _named(table, match["name"].strip())
        if number and name:
            by = 1 / number if match.groupdict().get("sign") == "/" else number
            return Column(name, by, stated=True)
    if (number := _positive(text)) and role in ("N", "D", "C", "floor", "unique"):
        return Column(text, constant=number, stated=True)
    if later := re.search(r"[,;]\s*(\w+)\s*=", text):
        # A column name may contain a comma and an equals sign, but no column has this name.
        if later[1] in ROLES:
            raise ScalingError(f"{table.place}: columns: write a comma before {later[1]}=.")
        raise _no_role(f"{table.place}: columns", later[1])
    close = difflib.get_close_matches(text, list(table.columns), 1)
    raise ScalingError(
        f"{table.place}: columns: {text!r} is not a column (nor COLUMN*NUMBER, COLUMN/NUMBER, "
        f"ln(COLUMN)){f'; did you mean {close[0]!r}?' if close else '.'}\n"
        f"The columns are {table.listed()}."
    )


def _scale_of(name: str, role: str) -> float:
    """The factor of the unit in a heading, even if its name is not known: size_M."""
    head = read_head(name)
    if head and (head[0] == role or (role == "N" and head[0] in COUNTS)):
        return head[1]
    apart = re.search(r"[ _,(\[]", name) and role in ("N", "D", "C")
    units = [factor(unit) for _, unit in divided(name)] if apart else []
    return next((unit for unit in units if unit and unit > 1), 1.0)


def _named(table: Table, name: str) -> str | None:
    if name in table.columns:
        return name
    alike = [other for other in table.columns if key(other) == key(name)]
    return alike[0] if len(alike) == 1 and name else None


def _positive(text: str, negative: bool = False) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < (abs(value) if negative else value) < math.inf else None


def roles_of(table: Table, said: str | None, notes: list[str]) -> tuple[dict[str, Column], str]:
    """The column of each role, and what N counts.

    Args:
      said: the roles that the caller states, as in `columns_said`; `ROLE=` ignores a role.
      notes: a list to which notes on units and ambiguous columns are added.

    Raises:
      ScalingError: a missing role, or a role that several columns could have.
    """
    told = {} if said is None else columns_said(said)
    given = {
        ROLES[name]: _column_said(table, ROLES[name], text) for name, text in told.items() if text
    }
    absent = {ROLES[name] for name, text in told.items() if not text}
    heads = {name: read_head(name) for name in table.columns}
    found: dict[str, list[Column]] = {}
    taken = {column.name for column in given.values()}
    for name, head in heads.items():
        if head and (name not in taken or head[0] in ("run", "step")):
            found.setdefault(head[0], []).append(
                Column(name, head[1], training=head[0] == "training")
            )
    sizes = {kind: found.pop(kind) for kind in COUNTS if kind in found}
    count = table.count or (next(iter(sizes)) if len(sizes) == 1 else "unstated")
    if "N" in given:
        count = table.count or _count_of(told, heads, given["N"])
    elif sizes and "N" not in absent:
        found["N"] = _sizes(table, sizes, count)
    found["loss"] = _losses(found)
    found["run"] = _runs(table, found.get("run", []))
    roles = {}
    for role, columns in found.items():
        if role in given or role in absent or not columns:
            continue
        plain = [column for column in columns if column.scale == 1.0]
        columns = plain if role == "C" and plain else columns
        if len(columns) > 1:
            raise _several(table, role, columns)
        roles[role] = columns[0]
    roles |= given
    if "loss" not in roles or len({"N", "D", "C"} & set(roles)) < 2:
        raise _missing(table, roles)
    notes += _readings(table, roles)
    return roles, count


def _sizes(table: Table, sizes: dict[str, list[Column]], count: str) -> list[Column]:
    names = " and ".join(repr(column.name) for group in sizes.values() for column in group)
    if len(sizes) > 1 and not table.count:
        raise ScalingError(
            f"{table.place}: {names} both give N.\n"
            "Choose with count='non_embedding' or count='total'."
        )
    # If a column does not state what it counts, the caller's `count` applies.
    columns = sizes.get(count) or sizes.get("unstated")
    if columns is None:
        raise ScalingError(f"{table.place}: count={count!r}, but the only column of N is {names}.")
    return columns


def _count_of(
    told: dict[str, str], heads: Mapping[str, tuple[str, float] | None], column: Column
) -> str:
    word = next(name for name in told if ROLES[name] == "N")
    head = heads.get(column.name)
    return word if word in COUNTS else head[0] if head and head[0] in COUNTS else "unstated"


def _losses(found: dict[str, list[Column]]) -> list[Column]:
    """The loss; failing that, perplexity or bits, which are converted; failing that, training."""
    losses, training = found.pop("loss", []), found.pop("training", [])
    others = [
        *(dataclasses.replace(column, logarithm=True) for column in found.pop("perplexity", [])),
        *(dataclasses.replace(column, scale=math.log(2)) for column in found.pop("bits", [])),
    ]
    return losses or others or training


def _runs(table: Table, columns: list[Column]) -> list[Column]:
    return sorted(columns, key=lambda column: key(column.name) == "name")[:1]


def _several(table: Table, role: str, columns: list[Column]) -> ScalingError:
    said = " and ".join(repr(column.name) for column in columns[:4])
    word = "all" if len(columns) > 2 else "both"
    if any(" - " in column.name for column in columns):
        return ScalingError(
            f"{table.place}: {said} {word} give {role}: a chart exported by W&B has a column for "
            "each run.\nExport the table of runs instead, with columns of N, D and the loss."
        )
    return ScalingError(
        f"{table.place}: {said} {word} give {role}. Remove the others, or choose one:\n"
        f"columns='{role}={max(columns, key=lambda column: 'val' in column.name.lower()).name}'."
    )


def _missing(table: Table, roles: dict[str, Column]) -> ScalingError:
    """The error for a table without a loss, or with fewer than two of N, D and C."""
    lines = [f"{table.place}: its columns are {table.listed()}."]
    if {key(name) for name in table.columns} >= {"walltime", "step", "value"}:
        return ScalingError(
            f"{lines[0]}\nThis is a curve exported by TensorBoard. State its N, and D from the "
            "tokens per step:\ncolumns='N=124e6, D=Step*524288, loss=Value'."
        )
    if any(" - " in name for name in table.columns):
        return ScalingError(
            f"{lines[0]}\nThis is a chart exported by W&B, without N and D. Export the table of "
            "runs instead, or state them:\ncolumns='N=124e6, D=Step*524288, loss=...'."
        )
    taken = {column.name for column in roles.values()}
    example = []
    for role in ("N", "D", "loss"):
        if role not in roles:
            free = [name for name in table.columns if name not in taken]
            close = [name for name in free if re.search(_GUESSES[role], name.lower())]
            example.append(f"{role}={(close or ['COLUMN'])[0]}")
            taken.update(close[:1])
    return ScalingError(
        f"{lines[0]}\nRequired: the loss (loss, final_loss, val_loss, ...) and two of N (params, "
        "non_embedding_parameters, ...), D (tokens, ...) and C (flops, compute, ...).\n"
        f"State the columns: columns='{', '.join(example)}'."
    )


def _readings(table: Table, roles: dict[str, Column]) -> list[str]:
    """Notes on units, on styles of numerals, and on the column used as the loss."""
    notes = []
    for name in table.columns:
        role, unit = unknown_unit(name) or ("", "")
        if role and role not in roles:
            notes.append(f"{table.place}: column {name!r} skipped: the unit {unit!r} is unknown.")
    for role, column in roles.items():
        if column.constant is not None or role not in _WRITTEN:
            continue
        said = f"{table.place}: {role}, column {column.name!r}"
        if column.scale != 1.0 and not column.stated:
            by = f"in {SCALES.get(column.scale, f'units of {short(column.scale)}')}"
            notes.append(
                f"{said}, is read {'in bits, and converted to nats' if role == 'loss' else by}."
            )
        if column.logarithm and not column.stated:
            notes.append(f"{said}, is read as perplexity; the loss is its logarithm.")
        if column.training:
            notes.append(f"{said}, is a training loss; there is no validation loss.")
        notes += _spelling(table, role, column, said)
    return notes


def _spelling(table: Table, role: str, column: Column, said: str) -> list[str]:
    """A note if cells are not plain numbers: the first such cell, and the value it was read as."""
    cells = table.columns[column.name]
    if column.name not in table.styles and numerals.all_plain(cells):
        return []
    odd = [
        i for i, cell in enumerate(cells) if isinstance(cell, str) and not numerals.is_plain(cell)
    ]
    if not odd and table.styles.get(column.name) != numerals.COMMA:
        return []
    first = odd[0] if odd else 0
    try:
        value = table.take([first]).numbers(column.name, small=role == "loss")[0]
    except ScalingError:
        return []  # reported with its row, if the row is used
    return [f"{said}: {cells[first]!r} is read as {value:.10g}."]


def spelled(text: str, option: Callable[[str], str]) -> str:
    """Rewrite columns='...' and other options in a text for a command line.

    Args:
      option: name -> the text before the value, such as "job.columns=".
    """
    return re.sub(r"\b(columns|where|count|keep)=(?=')", lambda match: option(match[1]), text)
