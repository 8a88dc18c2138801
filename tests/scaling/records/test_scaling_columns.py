"""The roles of columns, the rows that are runs, and the kinds of files that can be read."""

import csv
import gzip
import itertools
import json
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import shared_file
from scaling.errors import ScalingError
from scaling.records.columns import columns_said
from scaling.records.records import read_records

N, D = (
    a.ravel() for a in np.meshgrid([20e6, 50e6, 120e6, 300e6, 700e6], [1e8, 4e8, 2e9, 8e9, 3e10])
)
LOSS = 1.8 + 480 / N**0.35 + 2000 / D**0.366
TABLE = {"params": N, "tokens": D, "loss": LOSS}
NAMES = [f"run{i}" for i in range(len(N))]


def write(path, columns, separator=","):
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = zip(*columns.values(), strict=True)
        csv.writer(file, delimiter=separator).writerows([columns, *rows])
    return path


@pytest.fixture
def read(tmp_path):
    return lambda table, **options: read_records(write(tmp_path / "a.csv", table), **options)


@pytest.fixture
def refused(read):
    def message(table, **options):
        with pytest.raises(ScalingError) as caught:
            read(table, **options)
        assert len(str(caught.value).splitlines()) <= 3
        return str(caught.value)

    return message


def check(records, loss=LOSS):
    for name, values in {"N": N, "D": D, "loss": loss, "C": 6 * N * D}.items():
        np.testing.assert_allclose(getattr(records, name), values, rtol=1e-12, err_msg=name)


EXPORTS = [
    ("Name", "params", "train/tokens", "val/loss"),
    ("run_id", "num_params", "tokens_seen", "validation/loss"),
    ("Name", "n_params", "total_tokens", "eval_loss"),
    ("run_name", "parameters", "num_input_tokens_seen", "eval/loss"),
    ("name", "model_size", "trainer/tokens", "test_loss"),
    ("trial_id", "trainable_params", "consumed_tokens", "valid_loss"),
    ("Name", "model/params", "train_tokens", "val/cross_entropy"),
    ("run", "config.n_params", "summary.tokens", "metrics/val_loss"),
    ("Name", "param_count", "Training Tokens", "Group: a - val/loss"),
]


@pytest.mark.parametrize("heads", EXPORTS)
def test_the_usual_names_of_exports_are_known(read, heads):
    table = dict(zip(heads, (NAMES, N, D, LOSS), strict=True))
    # Other columns of such exports.
    table |= {"Group: a - val/loss__MIN": LOSS, "Group: a - val/loss__MAX": LOSS, "Runtime": N}
    records = read(table)
    check(records)
    assert records.run.tolist() == NAMES and not records.notes


def test_validation_loss_is_preferred_and_training_loss_is_used_with_a_note(read):
    for head in ("train/loss", "train_loss", "training loss", "loss/train"):
        both = read(TABLE | {"loss": LOSS, head: LOSS + 1})
        check(both)
        assert not both.notes
        alone = read({"params": N, "tokens": D, head: LOSS})
        check(alone)
        assert f"{head!r}, is a training loss" in alone.notes[0]


def test_losses_of_two_kinds_are_refused_with_the_choice(refused, read):
    table = {"params": N, "tokens": D, "loss": LOSS + 1, "val/loss": LOSS}
    message = refused(table)
    assert "both give loss" in message and "columns='loss=val/loss'" in message
    check(read(table, columns="loss=val/loss"))


def test_exports_of_curves_are_refused_by_their_kind(refused, read):
    steps = {"Step": np.arange(1, len(N) + 1)}
    assert "W&B" in refused(steps | {"r1 - val/loss": LOSS, "r2 - val/loss": LOSS})
    assert "W&B" in refused(steps | {"r1 - val/loss": LOSS, "r1 - val/loss__MIN": LOSS})
    curve = {"Wall time": N} | steps | {"Value": LOSS}
    message = refused(curve)
    assert "TensorBoard" in message
    option = message.partition("columns='")[2].partition("'")[0]
    records = read(curve, columns=option, keep="all")
    assert set(records.N) == {124e6} and records.D[0] == 524288 and len(set(records.run)) == 1


def test_a_missing_column_is_refused_with_an_example_of_the_option(refused, read):
    table = {"n_size": N, "tok": D, "smooth loss": LOSS}
    message = refused(table)
    assert "'n_size', 'tok', 'smooth loss'" in message
    option = message.partition("columns='")[2].partition("'")[0]
    assert option == "N=n_size, D=tok, loss=smooth loss"
    check(read(table, columns=option))


SAID = {
    "N=size*1e6, D=t/1e-9, loss=c4_val": {"size": N / 1e6, "t": D / 1e9, "c4_val": LOSS},
    "N=1e6*size, D=t": {"size": N / 1e6, "t": D, "loss": LOSS},
    "D=t, loss=ln(p)": {"N": N, "t": D, "p": np.exp(LOSS)},
    "loss=c4/val": {"N": N, "D": D, "c4/val": LOSS, "c4": LOSS},
    "loss=a, b*2, N=x=y": {"x=y": N, "D": D, "a, b": LOSS / 2},
    "N=size_M, loss=x": {"size_M": N / 1e6, "D": D, "x": LOSS},
    "N=params_B*1e9": {"params_B": N / 1e9, "D": D, "loss": LOSS},
    "non_embedding=n0": {"n0": N, "n1": N, "params": N + 1, "D": D, "loss": LOSS},
    "C=": TABLE | {"compute": N},
    "C=,": TABLE | {"compute": N},
    "N=size, D=t, ": {"size": N, "t": D, "loss": LOSS},
    "N=size,, loss=c4_val,": {"size": N, "D": D, "c4_val": LOSS},
}


@pytest.mark.parametrize("said", SAID)
def test_the_caller_can_define_columns(read, said):
    records = read(SAID[said], columns=said)
    check(records)
    assert records.count == ("non_embedding" if said.startswith("non_") else "unstated")


@pytest.mark.parametrize(
    "said, expected",
    [
        ("N", "write it as"), ("", "write it as"), ("size*2", "write it as"),
        ("X=3", "'X' is not a role"), ("tokens=tokens, N=params", "mean D="),
        ("N=params*1, tokens=tokens, loss=loss", "'tokens' is not a role"),
        ("N=params*1, tokens=tokens, loss=loss", "mean D="), ("N=size, Params=params", "mean N="),
        ("D=tokens, flops=x", "mean C="), ("D=x; unique_tokens=y", "mean U="),
        ("D=tok, ppl=loss", "mean loss="), ("D=tok, floor=1.5", "mean entropy_floor="),
        ("wieght=loss, D=tokens", "mean weight="),
        ("N=params; D=tokens", "write a comma before D="),
        ("N=parms", "did you mean 'params'"), 
        ("loss=loss, loss=loss", "given twice"),
        ("N=params/0", "not a column"), ("N=params*-1", "not a column"),
        ("N=params*1e6*2", "not a column"), ("N=__import__('os')", "not a column"),
        ("loss=3", "not a column"), ("N=nan", "not a column"),
    ],
)  # fmt: skip
def test_a_wrong_definition_of_columns_is_refused(refused, said, expected):
    assert expected in refused(TABLE, columns=said)


name = st.text("abcxyz/*=+.", min_size=1, max_size=8)


@given(
    names=st.lists(name, min_size=3, max_size=3, unique=True),
    order=st.permutations(range(3)),
)
def test_columns_of_any_name_can_be_defined(tmp_path_factory, names, order):
    roles = ("N", "D", "loss")
    said = ", ".join(f"{roles[i]}={names[i]}" for i in order)
    if set(columns_said(said).items()) != set(zip(roles, names, strict=True)):
        return  # a name that itself reads as ", D=..."
    table = dict(zip(names, (N, D, LOSS), strict=True))
    path = write(tmp_path_factory.getbasetemp() / "said.csv", table)
    check(read_records(path, columns=said))


LABELS = [f"{x / 1e6:g}M" for x in N]


@pytest.mark.parametrize(
    "more",
    [
        {"name": LABELS},
        {"Name": [{20: "tiny", 50: "small"}.get(int(x / 1e6), f"s{x}") for x in N]},
        {"run": [f"gpt-{label}" for label in LABELS]},
        {"name": LABELS, "steps": D / 1e5},
    ],
)  # fmt: skip
def test_a_label_of_size_is_not_the_name_of_a_run(read, more):
    records = read(TABLE | more)
    check(records)
    assert len(set(records.run)) == len(N) and "names sizes rather than runs" in records.notes[0]
    head = next(iter(more))
    assert len(read(TABLE | more, columns=f"run={head}")) == 5


@pytest.mark.parametrize("head", ["run_name", "run_id", "run", "trial"])
@pytest.mark.parametrize("grid", [True, False])
def test_names_that_may_be_sizes_give_a_warning_if_most_rows_are_dropped(read, head, grid):
    tokens = D if grid else 20 * N * (D / 1e8)
    names = [{20: "tiny", 50: "small", 120: "base"}.get(int(x / 1e6), f"d{x:.0f}") for x in N]
    table = TABLE | {"tokens": tokens, head: names}
    records = read(table)
    assert len(records) == 5 and len(records.warnings) == 1
    assert f"column {head!r} has 5 names for 25 rows" in records.warnings[0]
    assert ("the same token counts" in records.warnings[0]) == grid
    option = records.warnings[0].partition("columns='")[2].partition("'")[0]
    every = read(table, columns=option)
    assert len(every) == 25 and not every.warnings
    for told in ({"columns": f"run={head}"}, {"keep": "all"}):
        assert not read(table, **told).warnings
    assert not read(table | {"step": tokens / 1e5}).warnings
    assert not read(table | {head: NAMES}).warnings


def test_a_name_shared_by_models_of_several_sizes_is_not_the_name_of_a_run(read):
    records = read(TABLE | {"run": ["ladder"] * len(N)})
    check(records)
    assert "shared by models of several sizes" in records.notes[0]


@pytest.mark.parametrize(
    "more",
    [{"name": LABELS, "step": D / 1e5}, {"run": [f"w{x / 1e4:g}" for x in N]}, {"model": NAMES}],
)
def test_runs_are_identified_by_their_name(read, more):
    assert len(read(TABLE | more)) == (len(N) if "model" in more else 5)


def test_runs_at_one_size_with_steps_are_runs_unless_they_share_a_name(read):
    table = {"params": [2e7] * 4, "tokens": [1e8, 2e8, 4e8, 8e8], "loss": [4, 3.7, 3.5, 3.3]}
    steps = {"steps": [1000, 2000, 4000, 8000]}
    assert len(read(table | steps)) == 4
    assert len(read(table | steps | {"run": ["a"] * 4})) == 1
    curve = read(table | {"step": steps["steps"]})
    assert len(curve) == 1 and "columns='step='" in curve.notes[0]
    assert len(read(table | {"step": steps["steps"]}, columns="step=")) == 4
    falling = read(table | {"step": steps["steps"][::-1]})
    assert len(falling) == 4, "batches differ: no curve"


def test_a_history_is_read_at_its_evaluations(read, refused):
    table = {"run": list("aaaabbbb"), "_step": [1, 2, 3, 4] * 2, "params": [2e7] * 4 + [5e7] * 4}
    table |= {"tokens": [1e8, 2e8, 3e8, 4e8] * 2, "train/loss": [5, 4, 3.5, 3.2] * 2}
    records = read(table | {"val/loss": ["", 4.1, "", 3.3, "", 4, 3.2, ""]})
    assert records.loss.tolist() == [3.3, 3.2] and records.D.tolist() == [4e8, 3e8]
    assert "4 of 8 rows without 'val/loss' skipped" in records.notes[0]
    lacking = TABLE | {"tokens": [*D[:-1], ""]}
    assert "where='tokens>0'" in refused(lacking)
    assert len(read(lacking, where="tokens>0")) == len(N) - 1


def test_unfinished_runs_are_skipped(read):
    states = ["finished"] * (len(N) - 2) + ["crashed", "running"]
    records = read(TABLE | {"State": states})
    assert len(records) == len(N) - 2 and "'State'" in records.notes[0]
    assert len(read(TABLE | {"State": ["Ohio"] * len(N)})) == len(N)


@pytest.mark.parametrize("separator", ";\t|")
def test_cells_may_have_other_separators(tmp_path, separator):
    for name in ("a.csv", "a.tsv"):
        path = write(tmp_path / name, {"a, note": ["x; y"] * len(N)} | TABLE, separator)
        check(read_records(path))
    path.write_text(f"sep={separator}\n" + path.read_text())
    check(read_records(path))


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("separator", ",;\t|:")
def test_a_line_that_states_the_separator_is_not_the_header(tmp_path, separator, suffix):
    path = write(tmp_path / f"a.{suffix}", {"note": ["x"] * len(N)} | TABLE, separator)
    table = path.read_text()
    words = [f"sep={separator}", f'"sep={separator}"', f"SEP={separator}{separator * 3}"]
    words += ["\ufeff" + words[0], *["sep=\\t"] * (separator == "\t")]
    for word, end in itertools.product(words, ("\n", "\r\n", "\r")):
        path.write_text(f"{word}{end}{table}", "utf-8", newline="")
        check(read_records(path))


def test_every_common_shape_of_json_is_read(tmp_path):
    rows = [dict(zip(TABLE, map(float, row), strict=True)) for row in zip(N, D, LOSS, strict=True)]
    shapes = [
        {"runs": rows},
        {key: {str(i): row[key] for i, row in enumerate(rows)} for key in TABLE},
        {f"run{i}": row for i, row in enumerate(rows)},
        [{"config": {"n_params": r["params"]}, "val": {"loss": r["loss"]}, "tokens": r["tokens"]}
         for r in rows],
    ]  # fmt: skip
    for shape in shapes:
        (tmp_path / "a.json").write_text(json.dumps(shape))
        check(read_records(tmp_path / "a.json"))
    one = {"config": {"n_params": 2e7}, "summary": {"val": {"loss": 3.3}, "tokens": 2e9}}
    (tmp_path / "a.json").write_text(json.dumps(one))
    assert read_records(tmp_path / "a.json").D.tolist() == [2e9]


def test_folders_of_files_are_read_and_skipped_files_are_named(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    for i, row in enumerate(zip(N, D, LOSS, strict=True)):
        content = dict(zip(TABLE, map(float, row), strict=True))
        (folder / f"run{i:02}.json").write_text(json.dumps(content))
    check(read_records(folder))
    for name, content in (("config.json", '{"lr": 1}'), ("readme.txt", "x"), ("x.json", "[1]")):
        (folder / name).write_text(content)
    records = read_records(folder)
    check(records)
    assert len(records.notes) == 2 and all("skipped" in note for note in records.notes)
    tables = tmp_path / "tables"
    (tables / "below").mkdir(parents=True)
    write(tables / "a.CSV", {name: values[:9] for name, values in TABLE.items()})
    write(tables / "below" / "b.tsv", {name: values[9:] for name, values in TABLE.items()}, "\t")
    check(read_records(tables))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ScalingError, match="no records in .*\n.*'a', 'b'"):
        read_records(tmp_path / "none")


def test_compressed_files_are_read(tmp_path):
    plain = write(tmp_path / "a.csv", TABLE).read_bytes()
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(plain))
    check(read_records(tmp_path / "b.csv.gz"))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(plain)[:-20])
    with pytest.raises(ScalingError, match="gzip"):
        read_records(tmp_path / "b.csv.gz")


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was opened')",)


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.pt", "a.csv", "a.json", "a.npy", "a.PKL"])
def test_pickles_are_refused_and_never_opened(tmp_path, name):
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, np.array([Trap()]), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ScalingError, match="pickle"):
        read_records(path)


@pytest.mark.parametrize(
    "content, said",
    [(b"PAR1", ".parquet"), (b"PK\3\4\xff", "spreadsheet"), (b"\x1f\x8b\xff", ".gz"),
     ("größe".encode("cp1252"), "iconv -f cp1252"), ("N,D".encode("utf-16"), "UTF-16")],
)  # fmt: skip
def test_a_file_of_another_kind_is_named(tmp_path, content, said):
    path = tmp_path / "a.csv"
    path.write_bytes(content + b"\xff\xfe" * (content == b"PAR1"))
    with pytest.raises(ScalingError) as caught:
        read_records(path)
    assert said in str(caught.value)


def test_parquet_is_read_or_asks_for_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ScalingError, match="pip install pyarrow"):
            read_records(path)
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    with pytest.raises(ScalingError, match="not a parquet file"):
        read_records(path)
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(TABLE), path)
    check(read_records(path))


def test_published_tables_are_read_with_their_original_column_names():
    porian = read_records(shared_file("scaling/porian_tuned.csv"))
    with open(shared_file("scaling/porian_tuned.csv"), encoding="utf-8") as file:
        tokens = [float(row["t_vals"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(porian.D, tokens, rtol=1e-9)
    steps = read_records(shared_file("scaling/step_law_dense.csv"))
    assert len(steps) == 1911 and "differ in 'lr', 'bs'" in steps.warnings[0]
    assert len(read_records(shared_file("scaling/step_law_dense.csv"), keep="best")) == 17
    olmo = read_records(shared_file("scaling/olmo_ladder_c4.csv"), where="mode=train")
    assert len(set(olmo.run)) == len(olmo) and not olmo.warnings
    with pytest.raises(ScalingError, match="where='D>0'"):
        read_records(shared_file("scaling/olmo_ladder_c4.csv"))
