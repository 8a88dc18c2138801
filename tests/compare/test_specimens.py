"""Texts of models side by side: the same prompt and seed for all, and every text scored."""

import csv
import json
import shutil

import pytest

from jaxlm.cli import main as cli
from jaxlm.compare.texts.scores import LEGEND
from jaxlm.compare.texts.specimens import (
    DEFAULTS,
    SWEEP_TEMPERATURES,
    SWEEP_TOP_P,
    _corpus,
    write_specimens,
)
from jaxlm.data import stories
from jaxlm.inference.engines import engine_class
from jaxlm.inference.generate import LoadedRun
from jaxlm.spec.sampling import Sampling

pytestmark = pytest.mark.slow  # two trainings, and a program for each of two numbers of texts
SMALL = {"samples": 2, "measured": 3, "max_tokens": 40}


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the built-in corpus, a folder that is not a run, and a run without weights."""
    folder = tmp_path_factory.mktemp("runs")
    given = ["scale=smoke", "run.samples=0", "train.duration=3", "data.train_tokens=30000"]
    given.append(f"run.cache={folder / 'cache'}")
    for name, lr in (("slow", "1e-6"), ("fast", "1e-2")):
        words = [*given, f"run.dir={folder / name}", f"optimizer.lr={lr}"]
        assert cli.main(words) == 0
    (folder / "bad").mkdir()
    (folder / "bad" / "config.yaml").write_text("model: [", "utf-8")
    shutil.copytree(folder / "fast", folder / "empty")
    shutil.rmtree(folder / "empty" / "checkpoints")
    return folder


@pytest.fixture(scope="module")
def found(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    paths = {name: runs / name for name in ("slow", "fast", "bad", "absent", "empty")}
    return write_specimens(paths, out, **SMALL), out


def test_every_model_writes_from_the_same_prompt_and_is_scored(found, runs):
    result, out = found
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result["models"]) == ["slow", "fast"] and result["prompt"] == "Once"
    assert result["settings"]["temperature"] == 1.0 and result["settings"]["measured"] == 3
    for model in result["models"].values():
        assert len(model["samples"]) == 2
        assert set(model["scores"]) | set(model["reference"]) <= set(LEGEND)
        assert model["scores"]["tokens_per_second_generating"] > 0
        assert model["scores"]["overlap_characters"] > 0
        for sample in model["samples"]:
            assert sample["text"].startswith("Once") and sample["overlap_text"] in sample["text"]
    loaded = LoadedRun(runs / "fast", "best", load_engine=lambda: engine_class("jax"))
    texts = loaded.generate("Once", samples=3, max_tokens=40, temperature=1.0)
    table = rows_of(out / "generation_comparison.csv")
    assert [row["text"] for row in table if row["variant"] == "fast"] == texts
    assert [(row["variant"], row["sample"]) for row in table] == [
        (name, str(n)) for name in ("slow", "fast") for n in range(3)
    ]
    first = result["models"]["fast"]["samples"][0]
    assert float(table[3]["overlap_characters"]) == first["overlap_characters"]


def test_real_text_of_the_same_length_is_scored_beside_the_models(found):
    reference = found[0]["models"]["fast"]["reference"]
    assert reference["grammar_read"] == 1.0 and reference["known_words"] > 0.8
    assert reference["overlap_characters"] > 10
    lost = found[0]["models"]["fast"]["scores"]
    assert lost["grammar_stories"] == 0.0 and lost["grammar_read"] < 0.5
    assert lost["overlap_characters"] < reference["overlap_characters"]


def test_unreadable_runs_are_named_and_skipped(found):
    notes = " ".join(found[0]["notes"])
    for name in ("bad", "absent", "empty"):
        assert f"{name} is skipped: " in notes


def test_the_sweep_is_of_the_best_model_over_all_settings(found):
    result, out = found
    grid = [(t, p) for t in SWEEP_TEMPERATURES for p in SWEEP_TOP_P]
    assert [(row["temperature"], row["top_p"]) for row in result["decoding"]] == grid
    assert {row["variant"] for row in result["decoding"]} == {"fast"}
    table = rows_of(out / "decoding_sweep.csv")
    assert [row["text"] for row in table] == [row["text"] for row in result["decoding"]]
    assert len({row["text"] for row in table}) > len(grid) // 2
    assert float(table[0]["distinct_1"]) == result["decoding"][0]["distinct_1"]


def test_the_same_seed_gives_the_same_texts_and_another_gives_others(found, runs, tmp_path):
    paths = {"fast": runs / "fast"}
    again = write_specimens(paths, tmp_path / "a", **SMALL, sweep=False)
    other = write_specimens(paths, tmp_path / "b", **SMALL, sweep=False, seed=1)
    texts = [[s["text"] for s in r["models"]["fast"]["samples"]] for r in (found[0], again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert not (tmp_path / "a" / "decoding_sweep.csv").exists()
    assert again["decoding"] == []


def test_both_backends_write_the_same_texts(found, runs, tmp_path):
    pytest.importorskip("torch")
    shutil.copytree(runs / "fast", tmp_path / "fast")
    config = tmp_path / "fast" / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("backend: jax", "backend: torch"), "utf-8")
    result = write_specimens({"fast": tmp_path / "fast"}, tmp_path, **SMALL, sweep=False)
    texts = [s["text"] for s in result["models"]["fast"]["samples"]]
    assert texts == [s["text"] for s in found[0]["models"]["fast"]["samples"]]


def test_copied_training_text_is_found_anywhere(runs, tmp_path, monkeypatch):
    """A model that recites a training story is caught, up to the tokens that are searched."""
    from jaxlm.inference.generate import Sample

    story = stories.document(0, stories.TRAIN_START)
    recite = lambda self, prompt, samples, **options: [Sample(f" {story}", True)] * samples  # noqa: E731
    monkeypatch.setattr(LoadedRun, "continuations", recite)
    monkeypatch.setattr(LoadedRun, "tokens_per_second", lambda self, prompt, **options: 1.0)
    whole = write_specimens({"x": runs / "fast"}, tmp_path, sweep=False, prompt="So.")
    scores = whole["models"]["x"]["scores"]
    assert scores["overlap_characters"] == len(story)  # the space before it is not in there
    part = write_specimens({"x": runs / "fast"}, tmp_path, sweep=False, searched_tokens=50)
    assert part["models"]["x"]["scores"]["overlap_characters"] == 50
    assert "refer to the first 50 of 30,000" in " ".join(part["notes"])


def test_prompt_and_decoding_come_from_the_corpus_unless_given(runs, tmp_path):
    from jaxlm.config.corpora import Shakespeare, Text
    from jaxlm.config.schema import Config, RunConfig

    names = {
        "shakespeare": Config(data=Shakespeare()),
        "stories": Config(),
        "tinystories": Config(data=Text(path="TinyStories/train.txt")),
        "other": Config(data=Text(path="a.txt")),
    }
    assert {name: _corpus(config) for name, config in names.items()} == {n: n for n in names}
    named = Config(data=Text(), run=RunConfig(experiment="tinystories_lr"))
    assert _corpus(named) == "tinystories"
    assert DEFAULTS["shakespeare"] == ("ROMEO:", Sampling(0.8, top_k=40, top_p=0.95))
    given = write_specimens(
        {"fast": runs / "fast"}, tmp_path, **SMALL, sweep=False, prompt="A", top_k=1
    )
    settings = given["settings"]
    assert (given["prompt"], settings["temperature"], settings["top_k"]) == ("A", 1.0, 1)
    texts = {sample["text"] for sample in given["models"]["fast"]["samples"]}
    assert len(texts) == 1  # always the most likely token


def test_nothing_to_show_gives_empty_tables(tmp_path):
    result = write_specimens({"x": tmp_path / "absent"}, tmp_path / "out")
    assert result["models"] == {} and result["decoding"] == [] and len(result["notes"]) == 1
    assert rows_of(tmp_path / "out" / "generation_comparison.csv") == []
