"""Corpora and tokenizers by public name: fetched once, or an error that names alternatives."""

import json
import sys
import types

import pytest

from jaxlm.cli import main as cli
from jaxlm.config.compose import compose
from jaxlm.data import hub
from jaxlm.data.corpora import survey, text_files
from jaxlm.data.prepare import prepare
from jaxlm.host.errors import UserError

STORIES = [f"Once upon a time there was a cat called Number {n}. It sat." for n in range(40)]


@pytest.fixture
def library(monkeypatch, tmp_path):
    """Stand-ins for the hub's two libraries, which count the requests."""
    asked = []

    class Rows(list):
        def take(self, count):
            return self[:count]

    def load_dataset(name, subset, split, streaming):
        asked.append((name, subset, split, streaming))
        return Rows({"text": story, "other": 1} for story in STORIES)

    def hf_hub_download(name, file, repo_type):
        asked.append((name, file, repo_type))
        path = tmp_path / "hub" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text("<|endoftext|>".join(STORIES[::-1] if "valid" in file else STORIES))
        return str(path)

    datasets, hugging = types.ModuleType("datasets"), types.ModuleType("huggingface_hub")
    datasets.load_dataset, hugging.hf_hub_download = load_dataset, hf_hub_download
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hugging)
    return asked


def prepared(tmp_path, *words):
    config = compose(["tokenizer=byte", *words])
    return prepare(config, cache=tmp_path / "cache", progress=False)


def test_a_data_set_is_fetched_once_and_only_as_much_as_requested(library, tmp_path):
    for _ in range(2):
        dataset = prepared(tmp_path, "data=cosmopedia", "data.documents=10")
    assert library == [("HuggingFaceTB/smollm-corpus", "cosmopedia-v2", "train", True)]
    text = dataset.tokenizer.decode([*dataset.train, *dataset.validation])
    assert text == "".join(f"{story}<|endoftext|>" for story in STORIES[:10])
    prepared(tmp_path, "data=cosmopedia", "data.documents=20")
    assert len(library) == 2


def test_a_text_file_of_a_data_set_comes_with_its_own_validation_set(library, tmp_path):
    dataset = prepared(tmp_path, "data=tinystories", "data.documents=3")
    assert [file for _, file, _ in library] == [
        "TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt",
    ]  # fmt: skip
    assert dataset.tokenizer.decode(dataset.train).count("<|endoftext|>") == 3
    assert dataset.tokenizer.decode(dataset.validation).startswith(STORIES[-1])
    alone = prepared(tmp_path, "data=tinystories", "data.hub_validation_file=null")
    assert alone.tokenizer.decode(alone.validation).startswith(STORIES[36])


def test_a_local_copy_needs_no_network(library, tmp_path):
    lines = [json.dumps({"text": story}) for story in STORIES]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    path = f"data.path={tmp_path / 'own.jsonl'}"
    dataset = prepared(tmp_path, "data=tinystories", path, "data.documents=5")
    assert library == [] and dataset.has_documents
    text = dataset.tokenizer.decode([*dataset.train, *dataset.validation])
    assert text.count("<|endoftext|>") == 5


@pytest.mark.parametrize("option", ["cosmopedia", "tinystories", "openwebtext"])
@pytest.mark.parametrize("problem", ["library", "network"])
def test_without_library_or_network_the_error_names_alternatives(
    option, problem, library, monkeypatch, tmp_path, capsys
):
    if problem == "library":
        monkeypatch.setitem(sys.modules, "datasets", None)
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    else:

        def offline(*_, **__):
            raise ConnectionError("Temporary failure in name resolution\nand more")

        monkeypatch.setattr(sys.modules["datasets"], "load_dataset", offline)
        monkeypatch.setattr(sys.modules["huggingface_hub"], "hf_hub_download", offline)
    monkeypatch.chdir(tmp_path)
    assert cli.main([f"data={option}", "scale=smoke", f"run.cache={tmp_path / 'cache'}"]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) <= 3
    said = "pip install 'jaxlm[hub]'" if problem == "library" else "name resolution"
    assert all(way in message for way in (said, "set data.path", "data=stories"))


def test_a_broken_stream_leaves_nothing_behind(library, monkeypatch, tmp_path):
    def rows(*_, **__):
        yield {"text": "the first"}
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(hub, "_rows", rows)
    with pytest.raises(UserError, match="reset by peer"):
        prepared(tmp_path, "data=cosmopedia")
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []


def test_a_tokenizer_by_name_is_the_shared_one_or_fetched(library, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXLM_SHARED", str(tmp_path / "absent"))
    hub.hub_tokenizer("HuggingFaceTB/SmolLM-135M")
    assert library == [("HuggingFaceTB/SmolLM-135M", "tokenizer.json", "model")]
    shared = tmp_path / "shared" / "tokenizers" / "smollm_tokenizer.json"
    shared.parent.mkdir(parents=True)
    shared.write_text("{}")
    monkeypatch.setenv("JAXLM_SHARED", str(tmp_path / "shared"))
    assert hub.hub_tokenizer("HuggingFaceTB/SmolLM-135M") == shared and len(library) == 1
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="tokenizer=bpe"):
        hub.hub_tokenizer("another/model")


def test_the_first_documents_are_a_different_corpus_from_all(tmp_path):
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(STORIES))
    facts = []
    for documents in (None, 3, 40, 100):
        corpus = text_files(str(tmp_path / "a.txt"), "text", documents=documents)
        facts.append(survey(corpus, 0.1, tmp_path / "cache", progress=False))
    assert [found.documents for found in facts] == [40, 3, 40, 40]
    assert facts[0] == facts[2] == facts[3] and facts[1].sha256 != facts[0].sha256
