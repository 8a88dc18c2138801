"""Records are read in their units, and refused if they are implausible in every unit."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.errors import ScalingError
from scaling.records.heads import read_head
from scaling.records.numerals import COMMA, POINT, number, styles
from scaling.records.records import Records, read_records
from scaling.records.units import COMPUTE, factor

N, D = (
    a.ravel() for a in np.meshgrid([20e6, 50e6, 120e6, 300e6, 700e6], [1e8, 4e8, 2e9, 8e9, 3e10])
)
C, LOSS = 6 * N * D, 1.8 + 480 / N**0.35 + 2000 / D**0.366
TABLE = {"params": N, "tokens": D, "loss": LOSS}


def write(path, columns, separator=","):
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = zip(*columns.values(), strict=True)
        csv.writer(file, delimiter=separator).writerows([columns, *rows])
    return path


@pytest.fixture
def read(tmp_path):
    return lambda table, separator=",", **options: read_records(
        write(tmp_path / "a.csv", table, separator), **options
    )


@pytest.fixture
def refused(read):
    def message(table):
        with pytest.raises(ScalingError) as caught:
            read(table)
        assert len(str(caught.value).splitlines()) <= 3
        return str(caught.value)

    return message


HEADS = {
    "params_M": ("unstated", 1e6), "params (M)": ("unstated", 1e6),
    "#params (B)": ("unstated", 1e9),
    "N [millions]": ("unstated", 1e6), "N_B": ("unstated", 1e9), "Mparams": ("unstated", 1e6),
    "params/1e6": ("unstated", 1e6), "params in millions": ("unstated", 1e6),
    "params, M": ("unstated", 1e6), "paramsM": ("unstated", 1e6), "N (×10⁶)": ("unstated", 1e6),
    "Model size (M params)": ("unstated", 1e6), "million_params": ("unstated", 1e6),
    "non-embedding params (M)": ("non_embedding", 1e6), "total_params_B": ("total", 1e9),
    "N (non-embedding)": ("non_embedding", 1), "n_vals": ("unstated", 1),
    "tokens (B)": ("D", 1e9), "tokens_billions": ("D", 1e9), "D_B": ("D", 1e9),
    "BTokens": ("D", 1e9), "tokens_T": ("D", 1e12), "training tokens (Mio)": ("D", 1e6),
    "flops (1e18)": ("C", 1e18), "FLOPs (×10^18)": ("C", 1e18), "C (PF-days)": ("C", 8.64e19),
    "compute_pfdays": ("C", 8.64e19), "compute (petaflop/s-days)": ("C", 8.64e19),
    "gflops": ("C", 1e9), "ZFLOPs": ("C", 1e21), "train_compute_exaflops": ("C", 1e18),
    "PF-days": ("C", 8.64e19), "GMACs": ("C", 2e9), "total_flos": ("C", 1),
    "loss (bits)": ("loss", math.log(2)), "val loss (nats/token)": ("loss", 1),
    "loss (C4)": ("loss", 1), "train_loss_nats": ("training", 1),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_a_heading_gives_role_and_unit_of_its_column(head):
    assert read_head(head) == HEADS[head]


@pytest.mark.parametrize(
    "head",
    [
        "d_model", "d_k", "d_ff", "n_layers", "n_heads", "n_b", "D/N", "tokens_per_step",
        "tokens_per_second", "tokens_per_param", "flops_per_token", "flops_exact", "smooth loss",
        "best_val_loss", "compute (GPU hours)", "embedding_parameters", "peak_memory_bytes",
        "lr", "bs", "loss (%)", "val/loss__MIN", "mfu", "Model", "Middle layers",
    ],
)  # fmt: skip
def test_a_heading_of_something_else_has_no_role(head):
    assert read_head(head) is None


@pytest.mark.parametrize("first", ["n_", "num_", "N_", "n "])
@pytest.mark.parametrize(
    "what, role",
    [("params", "unstated"), ("tokens", "D"), ("flops", "C"), ("parameters", "unstated")],
)
def test_a_leading_n_counts_the_word_after_it(first, what, role):
    units = {"_M": 1e6, "_B": 1e9, "_m": 1e6, " (M)": 1e6, "_millions": 1e6, "_in_B": 1e9, "": 1.0}
    for unit, scale in units.items():
        assert read_head(first + what + unit) == (role, scale), first + what + unit


@pytest.mark.parametrize(
    "head", ["n_tok_B", "c_params_M", "c_tokens_B", "u_params_M", "d_params_M", "N (M tokens)",
             "tokens (M params)", "params (B tokens)", "D (TFLOPs)", "U [B FLOPs]"],
)  # fmt: skip
def test_a_unit_of_another_role_is_not_accepted(head):
    assert read_head(head) is None


def test_sizes_and_tokens_that_both_begin_with_n_are_distinguished(read):
    for of_n, of_d in (("_M", "_B"), ("_millions", "_billions"), ("_m", "_b")):
        table = {f"n_params{of_n}": N / 1e6, f"n_tokens{of_d}": D / 1e9, "loss": LOSS}
        records = read(table)
        np.testing.assert_allclose(records.N, N)
        np.testing.assert_allclose(records.D, D)
    records = read({"n_tokens_B": D / 1e9, "flops": C, "loss": LOSS})
    np.testing.assert_allclose(records.D, D)
    np.testing.assert_allclose(records.N, N)


@given(
    base=st.sampled_from([("params", "unstated"), ("N", "unstated"), ("training tokens", "D")]),
    unit=st.sampled_from([("M", 1e6), ("B", 1e9), ("millions", 1e6), ("1e9", 1e9), ("bn", 1e9)]),
    form=st.sampled_from(["{} ({})", "{}({})", "{} [{}]", "{} in {}", "{}, {}"]),
)
def test_every_way_to_write_a_unit_gives_the_same_result(base, unit, form):
    assert read_head(form.format(base[0], unit[0])) == (base[1], unit[1])


@pytest.mark.parametrize("head, scale", [("params_M", 1e6), ("N [thousands]", 1e3)])
def test_columns_are_scaled_by_the_unit_in_their_heading_with_a_note(read, head, scale):
    records = read({head: N / scale, "tokens (B)": D / 1e9, "loss": LOSS, "PF-days": C / 8.64e19})
    for name, values in {"N": N, "D": D, "C": C}.items():
        np.testing.assert_allclose(getattr(records, name), values, rtol=1e-12)
    assert len(records.notes) == 3 and any(repr(head) in note for note in records.notes)


def test_a_column_with_an_unknown_unit_is_skipped_with_a_note(read):
    records = read(TABLE | {"compute (GPU hours)": N})
    np.testing.assert_allclose(records.C, C)
    assert "the unit 'GPU hours' is unknown" in records.notes[0]


CELLS = {
    "10.2M": 10.2e6, "16.33B": 16.33e9, "1.3e9": 1.3e9, "1,234,567": 1234567, "-5": -5,
    "1_234_567": 1234567, "1 234 567": 1234567, "1\u202f234\u202f567": 1234567, ".5": 0.5,
    "1'234'567": 1234567, "20 million": 20e6, "1,234.5": 1234.5, "16B tokens": 16e9,
    "6.1 × 10^18": 6.1e18, "6.1x10^18 FLOPs": 6.1e18, "0.5 PF-days": 4.32e19,
}  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_read_as_a_person_reads_it(cell):
    assert number(cell)[0] == pytest.approx(CELLS[cell], rel=1e-14)


@pytest.mark.parametrize(
    "cell", ["12%", "abc", "1,23,456", "12 34", "1.2.3", "~3B", "3 apples", ""]
)
def test_a_cell_that_is_not_a_number_is_refused(cell):
    with pytest.raises(ValueError):
        number(cell)


@given(value=st.integers(0, 10**15), places=st.integers(0, 6), data=st.data())
def test_grouped_and_decimal_numbers_read_back(value, places, data):
    """In either style, with either of its group separators or none."""
    text = f"{value / 10**places:,.{places}f}"
    expected = float(text.replace(",", ""))
    assert number(text.replace(",", data.draw(st.sampled_from(["", ",", " ", "'"]))))[0] == expected
    german = text.translate(str.maketrans(",.", ".,"))
    assert number(german, COMMA)[0] == expected


def test_the_whole_column_and_its_file_decide_what_a_comma_means():
    columns = {"loss": ["3,960", "3,7657"], "N": ["1.234", "12.345"], "D": ["1,234", "2"]}
    assert styles(columns, False) == {"loss": COMMA, "N": COMMA, "D": COMMA}
    assert styles({"loss": ["3.96"], "N": ["1,234"]}, False) == {"loss": POINT, "N": POINT}
    assert styles({"name": ["a, b", "1,5 or so"], "N": ["0.001"]}, True) == {"N": POINT}


def test_files_with_semicolons_and_decimal_commas_are_read_with_a_note(read):
    for decimals in (3, 4):
        loss = [f"{x:.{decimals}f}".replace(".", ",") for x in LOSS]
        grouped = [f"{x:,.0f}".replace(",", ".") for x in N]
        records = read({"params": grouped, "tokens": D.astype(int), "loss": loss}, ";")
        np.testing.assert_allclose(records.N, N)
        np.testing.assert_allclose(records.loss, LOSS, atol=10.0**-decimals)
        assert "separated by semicolons" in records.notes[0]
        assert any("'5,497' is read as 5.497" in note for note in records.notes) == (decimals == 3)


def test_a_number_with_two_possible_meanings_is_refused(read):
    N = ["1,234", "5,678"]
    with pytest.raises(ScalingError, match=r"'1,234' can mean 1.234 or 1234"):
        read({"params": N, "tokens": ["20000000", "30000000"], "loss": ["4", "3"]}, ";")
    # In quotes between commas it has only one.
    assert read({"params": N, "tokens": [2e7, 3e7], "loss": [4, 3]}).N.tolist() == [1234, 5678]


def test_cells_with_suffixes_are_read_with_a_note(read):
    suffixed = {"params": [f"{x / 1e6:g}M" for x in N], "tokens": [f"{x / 1e9:g}B" for x in D]}
    records = read(suffixed | {"loss": LOSS})
    np.testing.assert_allclose(records.N, N)
    np.testing.assert_allclose(records.D, D)
    assert any("'20M' is read as 20000000" in note for note in records.notes)
    twice = read({"params_M": suffixed["params"], "tokens": D, "loss": LOSS})
    np.testing.assert_allclose(twice.N, N)


@pytest.mark.parametrize("unit", COMPUTE)
def test_compute_in_another_unit_is_refused_with_the_factor_and_the_unit(read, refused, unit):
    wrong = TABLE | {"compute": C / COMPUTE[unit]}
    message = refused(wrong)
    assert "times smaller than 6 N D" in message and f"{unit} would fit" in message
    option = message.partition("columns='")[2].partition("'")[0]
    np.testing.assert_allclose(read(wrong, columns=option).C, C, rtol=1e-12)
    np.testing.assert_allclose(read(wrong, columns="C=").C, C, rtol=1e-12)
    head = message.partition("name the column '")[2].partition("'")[0]
    assert read_head(head) == ("C", COMPUTE[unit]) and factor(unit) == COMPUTE[unit]


@pytest.mark.parametrize("ratio, said", [(1 / 3, "2 N D"), (0.5, "3 N D"), (1 / 6, "N D, the MACs"),
                                         (4 / 3, "8 N D"), (9.9, "9.9 times")])  # fmt: skip
def test_compute_within_a_factor_of_10_is_noted_as_a_factor(read, ratio, said):
    records = read(TABLE | {"C": C * ratio})
    np.testing.assert_array_equal(records.C, C * ratio)
    assert said in records.notes[0] and "%" not in records.notes[0]


def test_compute_that_is_not_of_a_whole_training_is_refused(refused):
    assert "FLOPs per token" in refused(TABLE | {"flops": 6 * N})
    assert "No common unit" in refused(TABLE | {"flops": C / 30})
    assert "N or D in thousands" in refused(TABLE | {"params": N / 1e3, "flops": C})
    one = C.copy()
    one[3] /= 1e3
    message = refused(TABLE | {"flops": one})
    assert "1,000 times smaller than 6 N D in row 4, but about equal" in message


@pytest.mark.parametrize("name, log", [("log10", np.log10), ("ln", np.log)])
def test_logarithms_are_named_and_no_unit_is_offered_for_them(read, refused, name, log):
    message = refused(TABLE | {"C": log(C)})
    assert f"looks like {name} of FLOPs" in message and "would fit" not in message
    with pytest.raises(ScalingError, match=f"looks like {name} of FLOPs"):
        read(TABLE | {"C": log(C)}, columns="C=C*8.64e16")
    np.testing.assert_allclose(read(TABLE | {"C": log(C)}, columns="C=").C, C)
    for columns, said in (
        ({"params": log(N), "tokens": log(D)}, "N and D look"),
        ({"params": log(N), "tokens": D}, "N looks"),
        ({"params": N, "tokens": log(D), "flops": C}, "D looks"),
        ({"params": N, "flops": log(C)}, "C looks"),
        ({"params": log(N), "tokens": log(D), "flops": log(C)}, "N and D and C look"),
    ):
        message = refused(columns | {"loss": LOSS})
        assert f"{said} like {name} (" in message and "would fit" not in message
    one_budget = {"params": N, "tokens": 1e19 / N, "flops": log(np.full(len(N), 6e19))}
    assert f"looks like {name} of FLOPs" in refused(one_budget | {"loss": LOSS})


def test_compute_off_by_a_different_factor_in_each_row_fits_no_unit(read, refused):
    uneven = TABLE | {"C": np.geomspace(30, 1, len(N))}
    assert "No unit fits, because C / 6 N D differs from row to row" in refused(uneven)
    stated = read(uneven, columns="C=C*1e18")
    assert "so no unit fits all rows" in stated.warnings[0]
    assert not read(TABLE | {"C": C}, columns="C=C*1e-3").warnings


def test_narrow_sizes_in_millions_and_billions_are_not_called_logarithms(refused):
    sizes, tokens = np.linspace(5, 9, 9), np.linspace(9, 6, 9)
    loss = 1.82 + 482 / (sizes * 1e6) ** 0.348 + 2085 / (tokens * 1e9) ** 0.366
    message = refused({"params": sizes, "tokens": tokens, "loss": loss})
    assert "N in millions and D in billions would fit" in message


def test_n_with_embeddings_and_compute_without_is_recognised(read):
    records = read(TABLE | {"params": N + 5e7, "flops": C})
    assert "does N count embeddings, while C does not?" in records.notes[0]


UNITS = {"M": 1e6, "B": 1e9, "k": 1e3, "": 1.0}
WORDS = {"M": "millions", "B": "billions", "k": "thousands"}


@pytest.mark.parametrize(
    "of_n, of_d", [("M", "B"), ("M", ""), ("B", "B"), ("", "B"), ("", "M"), ("M", "M"), ("", "k")]
)
def test_implausible_sizes_are_refused_with_the_units_that_fit(read, refused, of_n, of_d):
    wrong = TABLE | {"params": N / UNITS[of_n], "tokens": D / UNITS[of_d]}
    for compute in ({}, {"flops": C}):
        message = refused(wrong | compute)
        for role, unit in (("N", of_n), ("D", of_d)):
            assert (
                (f"{role} in {WORDS[unit]}" in message) if unit else (f"{role} in" not in message)
            )
        option = message.partition("would fit: columns='")[2].partition("'")[0]
        records = read(wrong | compute, columns=option)
        np.testing.assert_allclose(records.N, N)
        np.testing.assert_allclose(records.D, D)


def test_compute_alone_is_judged_by_the_size_or_tokens_it_implies(refused):
    for unit in ("GFLOPs", "TFLOPs", "exaFLOPs", "PF-days"):
        wrong = {"compute": C / COMPUTE[unit], "loss": LOSS}
        for known, role in (({"tokens": D}, "N"), ({"params": N}, "D")):
            message = refused(wrong | known)
            assert f"{role} (computed as C / 6" in message and f"C in {unit} would fit" in message


def test_one_row_in_another_unit_is_named(refused):
    for column, by, said in (("params", 1e6, "N (column 'params')"), ("tokens", 1e6, "D (column")):
        values = TABLE[column].copy()
        values[3] /= by
        message = refused(TABLE | {column: values})
        assert said in message and "in row 4." in message


def test_a_unit_in_the_heading_that_the_numbers_do_not_have_is_refused(refused):
    message = refused({"params_M": N, "tokens": D, "loss": LOSS})
    assert "without the unit in its heading" in message and "columns='N=params_M*1'" in message


def test_units_stated_by_the_caller_are_accepted(read):
    tiny = TABLE | {"params": N / 1e6, "tokens": D / 1e6}
    records = read(tiny, columns="N=params*1, D=tokens*1")
    np.testing.assert_allclose(records.N, N / 1e6)
    assert len(read(tiny | {"natural_text": [0] * len(N)})) == len(N), "toy corpora may be tiny"


def test_tiny_models_are_accepted_with_a_warning(read):
    small = {"params": [2e3, 1e4, 5e4], "tokens": [1e5, 1e6, 5e6], "loss": [4, 3, 2]}
    assert "in thousands or millions" in read(small).warnings[0]
    assert not read(TABLE).warnings


def test_losses_that_are_not_cross_entropies_are_refused_or_converted(read, refused):
    exponential = {"params": N, "tokens": D, "loss": np.exp(LOSS)}
    message = refused(exponential)
    assert "perplexities" in message
    option = message.partition("columns='")[2].partition("'")[0]
    np.testing.assert_allclose(read(exponential, columns=option).loss, LOSS)
    for head, values in (
        ("val_ppl", np.exp(LOSS)),
        ("loss (bits)", LOSS / np.log(2)),
        ("val_bpb", LOSS / np.log(2)),
    ):
        records = read({"params": N, "tokens": D, head: values})
        np.testing.assert_allclose(records.loss, LOSS)
        assert repr(head) in records.notes[0]
    negative = TABLE | {"loss": -LOSS}
    assert "log-likelihoods" in refused(negative)
    np.testing.assert_allclose(read(negative, columns="loss=loss*-1").loss, LOSS)
    one = LOSS.copy()
    one[2] = 80
    assert "(row 3)" in refused(TABLE | {"loss": one}) and "'55%'" in refused(
        TABLE | {"loss": ["55%"] * len(N)}
    )


def test_losses_below_the_entropy_floor_give_a_warning(read):
    records = read(TABLE | {"entropy_floor": [3.0] * len(N)})
    below = int(np.sum(LOSS < 3))
    assert f"{below} of {len(N)} losses are below the entropy floor" in records.warnings[0]
    assert read(TABLE, columns="entropy_floor=3").warnings == records.warnings
    assert not read(TABLE | {"entropy_floor": [1.5] * len(N)}).warnings


@given(
    data=st.data(),
    size=st.integers(1, 12),
    of_n=st.sampled_from([1, 1e-6, 1e6]),
    of_c=st.sampled_from([1, 1e-12, 1e3]),
)
def test_a_refusal_never_raises_another_error(tmp_path_factory, data, size, of_n, of_c):
    def column(low, high):
        return np.array(data.draw(st.lists(st.floats(low, high), min_size=size, max_size=size)))

    N, D = column(1e3, 1e12), column(1e3, 1e15)
    columns = {"N": N * of_n, "D": D, "C": 6 * N * D * of_c, "loss": column(0.1, 30)}
    for left_out in (None, "N", "C"):
        chosen = {name: values for name, values in columns.items() if name != left_out}
        path = write(tmp_path_factory.getbasetemp() / "units.csv", chosen)
        try:
            assert isinstance(read_records(path), Records)
        except ScalingError as error:
            assert len(str(error).splitlines()) <= 3


def test_fewer_tokens_than_parameters_in_a_typical_run_give_a_warning(read):
    doubt = "tokens per parameter, fewer than any model is trained on"
    few = TABLE | {"tokens": D / 100}  # 0.01 to 15 per parameter, 0.17 in a typical run
    (said,) = [w for w in read(few).warnings if doubt in w]
    assert "columns='D=tokens*1000'" in said
    right = read(few, columns="D=tokens*1e3")
    np.testing.assert_allclose(right.D, 10 * D)
    for records in (right, read(TABLE), read(few, columns="N=params*1, D=tokens*1")):
        assert not any(doubt in w for w in records.warnings)
