"""Points that occur twice in the records, and searches whose losses must not count equally."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.estimate.fit import warn
from scaling.law.laws import find_law
from scaling.law.problem import Problem
from scaling.records.records import Records, read_records
from scaling.records.repeats import best, groups

N, D = (
    a.ravel() for a in np.meshgrid([20e6, 50e6, 120e6, 300e6, 700e6], [1e8, 4e8, 2e9, 8e9, 3e10])
)
LOSS = 1.8 + 480 / N**0.35 + 2000 / D**0.366
TABLE = {"params": N, "tokens": D, "loss": LOSS}


def write(path, columns):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return path


def longer(columns, rows):
    return {name: [*values, *list(values)[:rows]] for name, values in columns.items()}


@pytest.fixture
def read(tmp_path):
    return lambda table, **options: read_records(write(tmp_path / "a.csv", table), **options)


@pytest.mark.parametrize("more", [{}, {"": range(33)}, {"name": [f"r{i}" for i in range(33)]}])
def test_an_exact_duplicate_counts_once_with_a_warning(read, more):
    records = read(longer(TABLE, 8) | more)
    np.testing.assert_array_equal(records.loss, LOSS)
    assert "8 of 33 points repeat others and count once" in records.warnings[0]


def test_short_losses_are_duplicates_only_if_all_cells_agree(read):
    short = longer(TABLE | {"loss": np.round(LOSS, 2)}, 8)
    assert len(read(short)) == 25
    for column in ("seed", "lr", "name", "dataset"):
        assert len(read(short | {column: ["a"] * 25 + ["b"] * 8})) == 33, column
    assert not read(short | {"seed": ["a"] * 25 + ["b"] * 8}).warnings


def test_a_search_in_one_table_may_share_losses(read):
    swept = longer(TABLE, 8) | {"lr": [1e-3] * 25 + [3e-3] * 8}
    assert len(read(swept)) == 33


def test_duplicates_are_found_across_files(tmp_path):
    names = {"name": [f"run{i}" for i in range(25)]}
    first = write(tmp_path / "a.csv", names | TABLE)
    rounded = write(tmp_path / "b.csv", names | TABLE | {"loss": np.round(LOSS, 4)})
    records = read_records([first, rounded])
    np.testing.assert_array_equal(records.loss, LOSS)
    assert "25 of 50" in records.warnings[0]
    others = write(tmp_path / "c.csv", {"name": [f"x{i}" for i in range(25)]} | TABLE)
    assert len(read_records([first, others])) == 25
    seeds = write(tmp_path / "d.csv", names | TABLE | {"loss": LOSS * 1.01})
    both = read_records([first, seeds])
    assert len(both) == 50 and not both.warnings


@pytest.mark.parametrize(
    "column", ["lr", "learning_rate", "bs", "Batch Size", "weight_decay", None]
)
def test_a_search_for_settings_gives_a_warning_and_its_best_can_be_kept(read, column):
    swept = {name: np.repeat(values, 3) for name, values in TABLE.items()}
    spread = 0.01 if column else 0.1
    swept["loss"] = swept["loss"] * (1 + np.tile([0, spread, spread / 2], 25))
    if column:
        swept[column] = np.tile([1, 2, 3], 25)
    records = read(swept)
    assert len(records) == 75 and "keep='best'" in records.warnings[0]
    assert f"{spread:.0%} apart" in records.warnings[0]
    assert column is None or f"differ in {column!r}" in records.warnings[0]
    kept = read(swept, keep="best")
    np.testing.assert_array_equal(kept.loss, LOSS)
    assert not kept.warnings and "25 of 75" in kept.notes[-1]


def test_seeds_are_not_a_search(read):
    seeds = {name: np.repeat(values, 3) for name, values in TABLE.items()}
    seeds["loss"] = seeds["loss"] * (1 + np.tile([0, 0.01, 0.02], 25))
    assert not read(seeds).warnings
    assert not read(seeds | {"seed": np.tile([1, 2, 3], 25)}).warnings


@given(data=st.data(), size=st.integers(1, 30))
def test_the_best_of_each_place_is_its_lowest_loss(data, size):
    def column(values):
        return np.array(data.draw(st.lists(values, min_size=size, max_size=size)), float)

    places = st.sampled_from([1e6, 1.001e6, 2e6, 5e7])
    N, D, loss = column(places), column(places), column(st.floats(1, 9))
    group, kept = groups(N, D), best(N, D, loss)
    assert sorted(group[kept]) == sorted(set(group.tolist()))
    for index in kept:
        assert loss[index] == loss[group == group[index]].min()


def test_sizes_in_small_steps_are_not_one_size():
    sizes = np.geomspace(1e6, 1e9, 10_000)
    assert len(set(groups(sizes, sizes).tolist())) > 1000


def test_warnings_of_records_are_warnings_of_their_fit(read):
    records = read(longer(TABLE, 8))
    found = _warnings(records)
    assert found[0] == records.warnings[0]


def test_one_budget_is_not_called_rising():
    sizes = np.geomspace(1e7, 1e9, 9)
    for tokens, said in (
        (1e18 / 6 / sizes, "vary inversely"),
        (20 * sizes, "rise together"),
    ):
        records = Records.from_arrays(sizes, tokens, np.linspace(4, 3, 9))
        assert any(f"N and D {said}" in warning for warning in _warnings(records))


def _warnings(records):
    law = find_law("chinchilla")
    problem = Problem.of(records, law, 1e-3)
    size = len(law.coordinates)
    return warn(records, problem, np.zeros(size), np.empty((0, size)), np.ones(3, bool))
