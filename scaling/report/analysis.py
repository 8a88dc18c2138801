"""The complete analysis of a set of records: the fit, the other approaches and the hold-out."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from scaling.errors import ScalingError, writing
from scaling.estimate.envelope import Envelope, approach1
from scaling.estimate.fit import Fit, finite, fit
from scaling.estimate.holdout import HoldOut, cut_of, hold_out
from scaling.estimate.isoflop import IsoFlop, ParabolaBias, approach2, parabola_bias
from scaling.estimate.tables import approaches_table, fit_table, holdout_table
from scaling.law.laws import Law, find_law
from scaling.records.records import Records
from scaling.report.drawing import draw_all

Words = ParamSpec("Words")
Returned = TypeVar("Returned")


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A fit with approaches 1 and 2 and a hold-out; each of these is None if not available.

    `budgets` are FLOPs for the table of allocations.
    """

    records: Records
    fit: Fit
    budgets: tuple[float, ...]
    isoflop: IsoFlop | None
    bias: ParabolaBias | None
    envelope: Envelope | None
    holdout: HoldOut | None
    notes: tuple[str, ...]

    def text(self) -> str:
        """The notes on the records and all tables, for a terminal."""
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

    def save(
        self,
        folder: str | Path,
        title: str = "Scaling law",
        tell: Callable[[str], object] | None = None,
    ) -> Path:
        """Write fit.json, bootstrap.npy, approaches.json, records.csv, report.md and the figures.

        The figures are drawn last and independently: for one that cannot be drawn, the report has
        a line instead.

        Args:
          folder: where to write; created if necessary.
          title: heading of the report.
          tell: called with each line about a skipped figure.

        Returns:
          The path of report.md.

        Raises:
          ScalingError: the folder cannot be written.
        """
        folder = Path(folder)
        with writing(folder):
            self.fit.save(folder, self.budgets)
            (folder / "approaches.json").write_text(self._approaches(), encoding="utf-8")
            self.records.to_csv(folder / "records.csv")
            report = folder / "report.md"
            text = f"# {title}\n\n```text\n{self.text()}\n```\n"
            report.write_text(text, encoding="utf-8", errors="backslashreplace")
            found = self._draw(folder)
            missing = [
                f"figure {name} skipped: {reason}" for name, reason in found.items() if reason
            ]
            drawn = [name for name, reason in found.items() if not reason]
            text += "".join(f"\n{line}\n" for line in missing)
            text += "".join(
                f"\n## {name.replace('_', ' ').capitalize()}\n\n![{name}]({name}.png)\n"
                for name in drawn
            )
            report.write_text(text, encoding="utf-8", errors="backslashreplace")
        for line in missing:
            if tell is not None:
                tell(line)
        return report

    def _approaches(self) -> str:
        """The content of approaches.json."""
        parts = {
            "isoflop": self.isoflop,
            "parabola_bias": self.bias,
            "envelope": self.envelope,
            "holdout": self.holdout,
        }
        found = {name: None if part is None else part.to_dict() for name, part in parts.items()}
        return json.dumps(finite(found), indent=1) + "\n"

    def _draw(self, folder: Path) -> dict[str, str | None]:
        """Draw the figures; for each, None or the reason why it was skipped."""
        try:
            # matplotlib loads slowly, and a broken one must affect only the figures.
            from scaling.report.plots import planned
        except Exception as error:
            return {"drawing": f"matplotlib cannot be loaded ({_one_line(error)})"}
        plans = planned(
            self.fit,
            self.records,
            isoflop=self.isoflop,
            envelope=self.envelope,
            holdout=self.holdout,
        )
        return draw_all(plans, folder)


def analyse(
    records: Records,
    law: str | Law = "chinchilla",
    *,
    holdout: str | float | None = None,
    budgets: Sequence[float] = (),
    **options: Any,  # keywords of `fit`
) -> Analysis:
    """Fit `law`, and run the other approaches and the hold-out if the records allow it.

    Args:
      records: the runs.
      law: a name or a `Law`, as in `fit`.
      holdout: FLOPs above which records are predicted instead of fitted, or "10x" for a tenth of
        the largest; None for no hold-out.
      budgets: FLOPs at which to divide compute; by default 1, 10 and 100 times the largest in the
        records.
      options: keywords of `fit`.

    Raises:
      ScalingError: as in `fit` and `cut_of`. If any other part fails, it is skipped with a note.
    """
    cut = None if holdout is None else cut_of(records, holdout)
    law, level = find_law(law), options.get("level", 0.95)
    notes: list[str] = []

    def attempt(
        name: str,
        part: Callable[Words, Returned],
        *words: Words.args,
        **more: Words.kwargs,
    ) -> Returned | None:
        try:
            return part(*words, **more)
        except ScalingError as error:
            notes.append(f"{name} skipped: {_one_line(error)}")
        except Exception as error:
            notes.append(f"{name} failed: {type(error).__name__}: {_one_line(error)}")
        return None

    isoflop, bias, envelope = None, None, None
    with ThreadPoolExecutor(1) as beside:  # approaches 1 and 2 run while approach 3 compiles
        if divides := {"N", "D"} <= set(law.variables):
            two = beside.submit(attempt, "approach 2 (IsoFLOP)", approach2, records, level=level)
            one = beside.submit(attempt, "approach 1 (envelope)", approach1, records, level=level)
        whole = fit(records, law, **options)
    if divides:
        isoflop, envelope = two.result(), one.result()
    if isoflop is not None and whole.success:
        bias = attempt("the bias of parabolas", parabola_bias, records, whole.law, whole.theta)
    for part in (isoflop, envelope):
        notes += [] if part is None else part.notes
    held = None
    if cut is not None:
        held = attempt("hold-out", hold_out, records, whole, cut, **options)
    asked = tuple(float(C) for C in budgets) or whole.default_budgets()
    return Analysis(records, whole, asked, isoflop, bias, envelope, held, tuple(notes))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
