"""Records: every common file gives the same arrays, and bad input is one clear error."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT, shared_file
from scaling.errors import ScalingError
from scaling.records.records import Records, read_records

N, D = np.array([1e6, 1e6, 3e7, 1e8]), np.array([2e7, 4e7, 5e8, 1e9])
LOSS = np.array([4.5, 4.25, 3.5, 3.125])
TABLE = {"N": N, "D": D, "C": 6 * N * D, "loss": LOSS}
SPELLINGS = {
    "N": ["n", "params", "Parameters", "n_params", "num params", "Model Size", "MODEL-SIZE"],
    "D": ["d", "tokens", "Training Tokens", "n_tokens", "train-tokens", "Tokens Seen"],
    "C": ["c", "FLOPs", "flop", "compute", "compute_budget", "Training FLOP", "training-flops"],
    "loss": ["Loss", "final_loss", "val_loss", "Validation Loss", "valid-loss", "train_loss"],
}


def write(path, columns):
    """A file of these columns, in the format of its suffix."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    plain = [{k: getattr(v, "item", lambda v=v: v)() for k, v in row.items()} for row in rows]
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *(row.values() for row in plain)])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")
    elif path.name == "columns.json":
        path.write_text(json.dumps({k: list(v) for k, v in columns.items()}), encoding="utf-8")
    else:
        path.write_text(json.dumps(plain), encoding="utf-8")
    return path


def run_directory(folder, tokens=(100, 200), losses=(4.0, 3.5), status="finished", **more):
    """A run directory as the project writes it."""
    settings = {"data": "stories", "schedule": "cosine", "floor": 0.5, "params": 1000} | more
    folder.mkdir(parents=True)
    size = settings["params"]
    summary = {"status": status, "step": len(tokens), "val_loss": losses[-1], "best_val_loss": 1.0}
    summary |= {"parameters": 2 * size, "embedding_parameters": size, "tokens": tokens[-1]}
    summary |= {"non_embedding_parameters": size, "flops": 6.0 * size * tokens[-1]}
    summary |= {"flops_exact": 1e9, "entropy_floor": settings["floor"]}
    (folder / "summary.json").write_text(json.dumps(summary))
    text = "seed: 0\nmodel:\n  name: no\ndata:\n  path: null\n  name: {data}\n"
    text += "schedule:\n  name: {schedule}\nrun:\n  name: other\n"
    (folder / "config.yaml").write_text(text.format(**settings))
    lines = []
    for step, (count, loss) in enumerate(zip(tokens, losses, strict=True), 1):
        point = {"step": step, "tokens": count, "flops": 6.0 * size * count, "loss": loss}
        lines += [{"kind": "train"} | point | {"loss": 9.0}, {"kind": "eval"} | point]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def refusal(path, content=None, **arguments):
    """The message with which `read_records` refuses a file with this content."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ScalingError) as caught:
        read_records(path, **arguments)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3 and "Traceback" not in message
    return message


def check(records):
    for name, values in TABLE.items():
        np.testing.assert_allclose(getattr(records, name), values, rtol=1e-14, err_msg=name)
        assert getattr(records, name).dtype == np.float64


@pytest.mark.parametrize("name", ["a.csv", "rows.json", "columns.json", "a.jsonl"])
@given(data=st.data())
def test_any_order_and_spelling_of_columns_gives_the_same_records(tmp_path_factory, name, data):
    order = data.draw(st.permutations(list(TABLE)))
    left_out = data.draw(st.sampled_from([None, "N", "D", "C"]))
    columns = {"note": ["x"] * 4} if data.draw(st.booleans()) else {}
    for role in order:
        if role != left_out:
            columns[data.draw(st.sampled_from(SPELLINGS[role]))] = TABLE[role]
    check(read_records(write(tmp_path_factory.getbasetemp() / name, columns)))


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_tolerated(tmp_path):
    text = "\ufeffN,D,loss\r\n" + "".join(
        f"{n},{d},{loss}\r\n\r\n" for n, d, loss in zip(N, D, LOSS, strict=True)
    )
    (tmp_path / "a.csv").write_bytes(text.encode())
    check(read_records(tmp_path / "a.csv"))


def test_the_count_of_n_is_chosen_and_kept(tmp_path):
    columns = {"parameters": 2 * N, "non_embedding_parameters": N, "D": D, "loss": LOSS}
    path = write(tmp_path / "a.csv", columns)
    message = refusal(path)
    assert "'non_embedding_parameters' and 'parameters'" in message and "count='total'" in message
    for count, expected in (("non_embedding", N), ("total", 2 * N)):
        records = read_records(path, count=count)
        np.testing.assert_array_equal(records.N, expected)
        assert records.count == count
    one = write(tmp_path / "b.csv", {"Total Params": N, "D": D, "loss": LOSS + 1})
    assert read_records(one).count == "total"
    assert "'Total Params'" in refusal(one, count="non_embedding")
    open_ = write(tmp_path / "c.csv", TABLE)
    assert read_records(open_).count == "unstated"
    assert read_records(open_, count="total").count == "total"
    assert "count='both'" in refusal(open_, count="both")
    assert "different things" in refusal(tmp_path / "[bc].csv")
    assert len(read_records([one, open_], count="total")) == 8


def test_where_selects_rows_and_errors_keep_the_rows_of_the_file(tmp_path):
    path = write(tmp_path / "a.csv", TABLE | {"in_fit": [1, 0, 1, 1], "kind": list("abca")})
    kept = {"in_fit=1": [0, 2, 3], "In Fit = 1.0": [0, 2, 3], "kind=a": [0, 3]}
    kept |= {"loss<3.5": [3], "loss<4": [2, 3], "N > 1e6": [2, 3]}
    for where, rows in kept.items():
        np.testing.assert_array_equal(read_records(path, where=where).loss, LOSS[rows])
    assert "no row has loss<0" in refusal(path, where="loss<0")
    for wrong in ("fit=1", "loss", "=1", "loss~3"):
        assert "'in_fit'" in refusal(path, where=wrong)
    bad = write(tmp_path / "b.csv", TABLE | {"loss": [-1, 4, 0, 3], "in_fit": [0, 0, 1, 1]})
    assert "row 3 (0)" in refusal(bad, where="in_fit=1")
    assert len(read_records(bad, where="loss>0")) == 2


def test_the_last_point_of_each_run_or_all_of_them(tmp_path):
    columns = {"run": list("baab"), "step": [0, 9, 10, 10], "D": [0, 9e6, 1e7, 2e7]}
    columns |= {"N": [5e5, 1e5, 1e5, 5e5], "loss": [9, 4, 3, 2]}
    path = write(tmp_path / "a.csv", {"name": list("xxxx")} | columns)
    final = read_records(path)
    assert final.run.tolist() == ["a", "b"] and final.loss.tolist() == [3, 2]
    assert final.middle.tolist() == [False, False] and "keep='all'" in final.notes[0]
    every = read_records(path, keep="all")
    assert every.run.tolist() == ["a", "a", "b"], "step 0 is skipped: nothing was trained"
    assert every.middle.tolist() == [True, False, False] and every.notes
    nameless = {name: columns[name] for name in ("step", "D", "N", "loss")}
    records = read_records(write(tmp_path / "b.csv", nameless | {"D": [1e6, 9e6, 1e7, 2e7]}))
    assert len(records) == 4 and "each row counts as the end of a run" in records.notes[0]
    one = {"step": [10, 20, 30], "tokens": [1e6, 2e6, 3e6], "loss": [3, 2, 1]}
    one["flops"] = [60e10, 120e10, 180e10]
    one = read_records(write(tmp_path / "c.csv", one))
    assert (one.N, one.D, one.loss) == (1e5, 3e6, 1)


def test_arrays_of_other_trainers_are_one_run_each(tmp_path):
    steps = np.array([30, 10, 20])
    for size in (10, 20):
        flops = 6 * size * 10_000 * (steps * 100_000)
        curve = np.stack([steps, steps * 100_000, flops, 5 - steps / 10], axis=1)
        np.save(tmp_path / f"{size}.npy", curve)
        np.save(tmp_path / f"int{size}.npy", curve.astype(np.int64))
    records = read_records(tmp_path / "?0.npy")
    assert records.N.tolist() == [1e5, 2e5] and records.D.tolist() == [3e6] * 2
    assert records.loss.tolist() == [2, 2] and records.count == "unstated"
    every = read_records(tmp_path / "?0.npy", keep="all", count="total")
    assert every.middle.tolist() == [False, True, True] * 2 and every.count == "total"
    assert len(set(every.run)) == 2
    assert read_records(tmp_path / "int10.npy").N.tolist() == [1e5]
    fields = [("Step", "i4"), ("Tokens", "i8"), ("loss", "f4"), ("n_params", "i8")]
    np.save(
        tmp_path / "named.npy", np.array([(1, 50_000, 2.5, 7000), (2, 60_000, 1.5, 7000)], fields)
    )
    named = read_records(tmp_path / "named.npy")
    assert (named.N, named.D, named.loss, named.C) == (7000, 60_000, 1.5, 2.52e9)


def test_run_directories_give_their_final_evaluation(tmp_path):
    for seed, size in enumerate((1000, 2000)):
        run_directory(tmp_path / f"ladder/w{size}/seed{seed}", params=size)
    run_directory(tmp_path / "ladder/broken/seed0", status="diverged")
    (tmp_path / "ladder/new").mkdir()
    (tmp_path / "ladder/new/metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    (tmp_path / "ladder/config.yaml").write_text("a study's own: not a run\n")
    run_directory(tmp_path / "ladder/.removed/seed0", params=5)
    (tmp_path / "ladder/report.md").write_text("# Report\n")
    records = read_records(tmp_path / "ladder")
    assert records.N.tolist() == [1000, 2000] and records.D.tolist() == [200, 200]
    assert records.loss.tolist() == [3.5, 3.5] and records.C.tolist() == [1.2e6, 2.4e6]
    assert records.count == "non_embedding" and not records.natural_text and records.floor == 0.5
    assert records.middle.tolist() == [False, False]
    assert len(records.notes) == 2
    assert "status is diverged" in records.notes[0] and "status is unfinished" in records.notes[1]
    for same in ("ladder/*", "ladder/*/*", "ladder/*/seed*/summary.json", "ladder/w*/seed?"):
        np.testing.assert_array_equal(read_records(tmp_path / same).N, records.N)
    total = read_records(tmp_path / "ladder", count="total")
    assert total.N.tolist() == [2000, 4000] and total.count == "total"
    np.testing.assert_allclose(total.C, 6 * total.N * total.D)
    assert len(read_records(tmp_path / "ladder", where="parameters>3000")) == 1


def test_every_evaluation_of_run_directories_states_whether_the_decay_has_ended(tmp_path):
    run_directory(tmp_path / "a")
    run_directory(tmp_path / "b", schedule="constant", data="text", floor=None)
    records = read_records([tmp_path / "a", tmp_path / "b"], keep="all")
    assert records.D.tolist() == [100, 200] * 2 and records.loss.tolist() == [4, 3.5] * 2
    assert records.middle.tolist() == [True, False, False, False]
    assert len(set(records.run)) == 2
    assert records.natural_text and records.floor is None and "floor" in records.notes[0]


def test_runs_with_different_floors_share_none(tmp_path):
    for name, floor in (("a", 0.5), ("b", 0.5 + 1e-8), ("c", 0.51)):
        run_directory(tmp_path / name, floor=floor)
    assert read_records(tmp_path / "[ab]").floor == pytest.approx(0.5, abs=1e-7)
    records = read_records(tmp_path)
    assert records.floor is None and "entropy floor" in records.notes[0]


def test_no_finished_run_is_an_error_with_its_reason(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "contains no run" in refusal(tmp_path / "empty")
    run_directory(tmp_path / "a", status="interrupted")
    assert "interrupted" in refusal(tmp_path / "a")
    run_directory(tmp_path / "b", losses=(4.0, None))
    assert "never evaluated" in refusal(tmp_path / "b")


HEAD = "N,D,loss\n"
BAD = {
    "empty.csv": ("", "contains no points"),
    "header.csv": (HEAD, "contains no points"),
    "ragged.csv": (HEAD + "1,2,3\n1,2\n", "row 2: 2 cells, but the header has 3"),
    "text.csv": (HEAD + "1,2,3\n1,many,3\n", "row 2, column 'D': 'many' is not a number"),
    "blank.csv": (HEAD + "1,2,\n", "row 1, column 'loss': an empty cell"),
    "double.csv": ("N,D,N,loss\n1,2,3,4\n", "two columns are called 'N'"),
    "alike.csv": ("N,D,loss,val_loss\n1,2,3,4\n", "'loss' and 'val_loss' both give loss"),
    "nan.csv": (
        HEAD + "1,2,nan\n1,2,3\n1,2,inf\n",
        "'loss': values must be finite and positive, but are not in rows 1 (nan), 3",
    ),
    "zero.csv": (
        "Model Size,D,loss\n0,2,3\n",
        "'Model Size': values must be finite and positive, but are not in row 1 (0)",
    ),
    "many.csv": (HEAD + "-1,2,3\n" * 9, "and 4 more"),
    "missing.csv": ("N,width,loss\n1,2,3\n", "columns are 'N', 'width', 'loss'.\nRequired"),
    "noloss.csv": ("N,D,accuracy\n1,2,3\n", "final_loss"),
    "weight.csv": (
        "N,D,loss,weight\n1,2,3,-1\n",
        "'weight': values must be finite and not negative, but are not in row 1",
    ),
    "floor.csv": ("N,D,loss,entropy_floor\n1,2,3,\n1,2,3,low\n", "row 2, column 'entropy_floor'"),
    "quote.csv": (HEAD + '1,2,"3\n', "is not CSV"),
    "utf16.csv": (HEAD.encode("utf-16"), "is not UTF-8"),
    "broken.json": ("[{", "is not JSON"),
    "scalar.json": ("3", "a list of objects"),
    "numbers.json": ("[1, 2]", "a list of objects"),
    "unequal.json": ('{"N": [1], "D": [1, 2], "loss": [1]}', "different lengths, [1, 2]"),
    "twice.json": ('{"N": [1], "N": [2]}', "two columns are called 'N'"),
    "null.json": ('[{"N": 1, "D": 2, "loss": null}]', "row 1, column 'loss': an empty cell"),
    "true.json": ('[{"N": true, "D": 2, "loss": 1}]', "column 'N': True is not a number"),
    "huge.json": ('[{"N": 1' + "0" * 400 + ', "D": 2, "loss": 1}]', "row 1 (inf)"),
    "list.json": ("[]", "contains no points"),
    "line.jsonl": ('{"N": 1}\n\n{"N": \n', "row 2 is not JSON"),
    "array.jsonl": ("[1]\n", "an object on each line"),
    "junk.npy": ("junk", "is not an array"),
    "records.txt": (HEAD + "1,2,3\n", "end in .csv, .json, .jsonl, .npy"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_that_names_the_file_and_the_place(tmp_path, name):
    content, said = BAD[name]
    message = refusal(tmp_path / name, content)
    assert said in message and str(tmp_path / name) in message


def test_missing_files_and_arrays_without_four_columns_are_refused(tmp_path):
    assert "no file or folder" in refusal(tmp_path / "absent.csv")
    assert "matches" in refusal(tmp_path / "*.csv")
    for name, array in (("a", np.ones((3, 5))), ("b", np.arange(9)), ("c", np.ones((2, 4)) > 0)):
        np.save(tmp_path / f"{name}.npy", array)
        assert "step, tokens, FLOPs, loss" in refusal(tmp_path / f"{name}.npy")
    np.save(tmp_path / "d.npy", np.array([None]), allow_pickle=True)
    assert "is not an array" in refusal(tmp_path / "d.npy")
    with pytest.raises(ScalingError, match="keep='last'"):
        read_records(tmp_path / "a.npy", keep="last")
    with pytest.raises(ScalingError, match="an empty list"):
        read_records([])


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".npy"])
@given(content=st.binary(max_size=200), shaped=st.booleans())
def test_arbitrary_content_raises_no_other_error(tmp_path_factory, suffix, content, shaped):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    head = {".csv": b"N,D,loss\n1,", ".json": b'[{"N":1,"D":', ".jsonl": b'{"N":1,"D":'}
    path.write_bytes(head.get(suffix, b"\x93NUMPY\x01\x00") * shaped + content)
    try:
        assert len(read_records(path)) > 0
    except ScalingError:
        pass


positive = st.floats(1e-30, 1e30)


@given(
    data=st.data(),
    size=st.integers(1, 8),
    count=st.sampled_from(["non_embedding", "total", "unstated"]),
)
def test_a_written_file_reads_back_to_the_same_bits(tmp_path_factory, data, size, count):
    def column(values):
        return data.draw(st.lists(values, min_size=size, max_size=size))

    names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)
    names = names.filter(lambda name: name.strip())
    runs = [f"{i}{name}" for i, name in enumerate(column(names))]
    others = {"natural_text": data.draw(st.booleans()), "floor": data.draw(st.none() | positive)}
    for name, values in {"unique": positive, "weight": positive, "middle": st.booleans()}.items():
        others[name] = data.draw(st.sampled_from([None, column(values)]))
    N = np.array(column(st.floats(1e3, 1e13)))
    D = N * column(st.floats(1, 150))
    loss = np.array(column(st.floats(0.01, 1))) + np.arange(size)
    C = 6 * N * D * column(st.floats(0.2, 5))
    written = Records(N, D, loss, C, run=runs, count=count, **others)
    path = tmp_path_factory.getbasetemp() / "written.csv"
    written.to_csv(path)
    read = read_records(path, keep="all")
    assert read.arrays() == written.arrays()
    for name in written.arrays():
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), err_msg=name)
    for name in ("count", "floor", "natural_text"):
        assert getattr(read, name) == getattr(written, name)


def test_names_and_floors_survive_a_file(tmp_path):
    names = ["a\rb", 'c,"d"\n', " g "]
    Records.from_arrays(N[1:], D[1:], LOSS[1:], run=names, floor=0.1).to_csv(tmp_path / "a.csv")
    read = read_records(tmp_path / "a.csv")
    assert read.run.tolist() == names and read.floor == 0.1


def test_arrays_are_checked_and_selected(tmp_path):
    records = Records.from_arrays(N, D, LOSS, unique=D, source="notebook")
    check(records)
    assert len(set(records.run)) == 4 and len(records) == 4
    chosen = records.where(records.loss < 4)
    assert chosen.loss.tolist() == [3.5, 3.125] and chosen.unique.tolist() == [5e8, 1e9]
    assert len(records.where(np.zeros(4, bool))) == 0 and chosen.source == "notebook"
    for wrong, said in (
        ((N, D[:3], LOSS), r"D has the shape \(3,\)"),
        ((N, D, LOSS, D[:2]), "C has the shape"),
        ((N[0], D[0], LOSS[0]), r"the shape \(\)"),
        ((N, D, -LOSS), r"'loss': .* rows 1 \(-4.5\), 2"),
        ((N, D, ["a"] * 4), "loss is not an array of numbers"),
        ((N, D, LOSS, None, None, "all"), "count='all'"),
    ):
        with pytest.raises(ScalingError, match=said):
            Records.from_arrays(*wrong)


def test_files_that_record_different_things_do_not_join(tmp_path):
    write(tmp_path / "a.csv", TABLE | {"weight": [1.0] * 4})
    write(tmp_path / "b.csv", TABLE)
    assert "b.csv has no weight column" in refusal(tmp_path / "?.csv")


def test_the_same_file_or_run_counts_once(tmp_path):
    path = write(tmp_path / "a.csv", TABLE)
    assert len(read_records([path, tmp_path / "*.csv", str(path)])) == 4
    both = read_records([path, write(tmp_path / "b.jsonl", TABLE | {"loss": LOSS + 1})])
    assert len(both) == 8 and len(set(both.run)) == 8


def test_recorded_compute_is_kept_and_a_difference_noted(tmp_path):
    records = read_records(write(tmp_path / "a.csv", TABLE | {"C": 7.5 * N * D}))
    np.testing.assert_array_equal(records.C, 7.5 * N * D)
    assert "C is 1.25 times 6 N D" in records.notes[0]


def test_the_shared_points_are_read():
    path = shared_file("scaling/chinchilla_points.csv")
    assert (len(read_records(path)), len(read_records(path, where="in_fit=1"))) == (245, 240)
    records = read_records(shared_file("scaling/isoflops_curves.json"))
    assert len(records) == 72 and len(set(records.C)) == 9
    np.testing.assert_allclose(records.C, 6 * records.N * records.D)


def test_records_are_read_without_jax():
    code = "import sys, scaling; scaling.read_records; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
