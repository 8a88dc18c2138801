"""Everything about one set of records in one call: the fit, the other approaches, the hold-out."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.envelope import Envelope, approach1
from scaling.errors import ScalingError, writing
from scaling.fit import Fit, finite, fit
from scaling.holdout import HoldOut, cut_of, hold_out
from scaling.isoflop import IsoFlop, ParabolaBias, approach2, parabola_bias
from scaling.records import Records
from scaling.tables import approaches_table, fit_table, holdout_table


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A fit with approaches 1 and 2 and a hold-out, each None where the records do not allow it."""

    records: Records
    fit: Fit
    budgets: tuple[float, ...]
    isoflop: IsoFlop | None
    bias: ParabolaBias | None
    envelope: Envelope | None
    holdout: HoldOut | None
    notes: tuple[str, ...]

    def text(self) -> str:
        """How the records were read, and the tables, for a terminal."""
        read = [f"note: {note}" for note in self.records.notes]
        parts = ["\n".join(read)] if read else []
        parts.append(fit_table(self.fit, self.budgets))
        if self.isoflop is not None or self.envelope is not None:
            parts.append(approaches_table(self.fit, self.isoflop, self.envelope))
        if self.bias is not None:
            parts.append(self.bias.statement())
        if self.holdout is not None:
            parts.append(holdout_table(self.holdout))
        parts += [f"note: {note}" for note in self.notes]
        return "\n\n".join(parts)

    def save(self, folder: str | Path, title: str = "Scaling law") -> Path:
        """fit.json, bootstrap.npy, approaches.json, the records, figures, report.md: its path.

        Raises:
          ScalingError: the folder cannot be written.
        """
        with writing(folder):
            return self._save(Path(folder), title)

    def _save(self, folder: Path, title: str) -> Path:
        from scaling.plots import figures

        self.fit.save(folder, self.budgets)
        found = {
            name: None if part is None else part.to_dict()
            for name, part in (
                ("isoflop", self.isoflop),
                ("parabola_bias", self.bias),
                ("envelope", self.envelope),
                ("holdout", self.holdout),
            )
        }
        text = json.dumps(finite(found), indent=1) + "\n"
        (folder / "approaches.json").write_text(text, encoding="utf-8")
        self.records.to_csv(folder / "records.csv")
        made = figures(
            self.fit,
            self.records,
            folder,
            isoflop=self.isoflop,
            envelope=self.envelope,
            holdout=self.holdout,
        )
        lines = [f"# {title}", "", "```text", self.text(), "```", ""]
        for name, path in made.items():
            lines += [
                f"## {name.replace('_', ' ').capitalize()}",
                "",
                f"![{name}]({path.name})",
                "",
            ]
        report = folder / "report.md"
        report.write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")
        return report


def analyse(
    records: Records,
    law: Any = "chinchilla",
    *,
    holdout: str | float | None = None,
    budgets: Sequence[float] = (),
    **options: Any,
) -> Analysis:
    """Fit `law` and whatever else the records allow.

    Args:
      holdout: FLOPs above which records are predicted instead of fitted, or "10x" below the
        largest; None for no hold-out.
      budgets: FLOPs at which to divide compute; none: up to 100 times the largest record's.
      options: keywords of `fit`.

    Raises:
      ScalingError: as `fit` and `hold_out` do. What approaches 1 and 2 lack is only noted.
    """
    whole = fit(records, law, **options)
    notes, isoflop, bias, envelope = [], None, None, None
    if whole.divides_compute:
        try:
            isoflop = approach2(records, level=whole.level)
            bias = parabola_bias(records, whole.law, whole.theta) if whole.success else None
        except ScalingError as error:
            notes.append(f"approach 2 (IsoFLOP) left out: {_one_line(error)}")
        try:
            envelope = approach1(records, level=whole.level)
        except ScalingError as error:
            notes.append(f"approach 1 (envelope) left out: {_one_line(error)}")
    for part in (isoflop, envelope):
        notes += [] if part is None else part.notes
    held = None
    if holdout is not None:
        held = hold_out(records, whole, cut_of(records, holdout), **options)
    asked = tuple(float(C) for C in budgets) or whole.default_budgets()
    return Analysis(records, whole, asked, isoflop, bias, envelope, held, tuple(notes))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
