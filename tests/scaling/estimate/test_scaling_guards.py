"""A part of an analysis that fails is only a note; the fit and the other parts remain."""

import numpy as np
import pytest

from scaling import ScalingError
from scaling.law.laws import CHINCHILLA
from scaling.records.records import Records
from scaling.report import analysis
from scaling.report.analysis import analyse

THETA = CHINCHILLA.from_natural({"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37})


def ladder() -> Records:
    """Three budgets of five sizes, with 0.3 % noise."""
    N = np.tile(np.geomspace(1e8, 2e9, 5), 3)
    D = np.repeat([1e19, 1e20, 1e21], 5) / 6 / N
    noise = np.exp(0.003 * np.random.default_rng(0).normal(size=15))
    return Records.from_arrays(N, D, CHINCHILLA.loss(THETA, N=N, D=D) * noise)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("approach2", np.linalg.LinAlgError("Singular\nmatrix")),
        ("approach1", FloatingPointError("overflow")),
        ("parabola_bias", ValueError("zero-size array")),
        ("hold_out", np.linalg.LinAlgError("Singular\nmatrix")),
    ],
)
def test_a_part_that_fails_is_one_note(monkeypatch, part, error):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(analysis, part, failing)
    found = analyse(ladder(), holdout="5x", resamples=0, profiles=False)
    assert found.fit.success
    kept = [found.isoflop, found.envelope, found.holdout]
    assert sum(part is not None for part in kept) >= 2
    said = [note for note in found.notes if type(error).__name__ in note]
    assert len(said) == 1 and "\n" not in said[0]
    assert said[0] in found.text()


@pytest.mark.slow
def test_an_impossible_hold_out_leaves_the_rest_intact():
    found = analyse(ladder(), holdout=1e30, resamples=0, profiles=False)
    assert found.fit.success and found.holdout is None
    assert any("hold-out skipped: no record is above" in note for note in found.notes)
    with pytest.raises(ScalingError, match="neither FLOPs"):
        analyse(ladder(), holdout="x", resamples=0, profiles=False)
