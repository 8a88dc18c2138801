"""Every typed key of data and tokenizer has an effect or is refused."""

import pytest

from jaxlm.config.compose import compose, from_file, to_yaml
from jaxlm.config.corpora import Stories
from jaxlm.config.effective import without_effect
from jaxlm.config.tokenizers import Byte
from jaxlm.host.errors import UserError
from jaxlm.study.variants import members_of, words_of


def typed(*words):
    """The configuration of a typed command line."""
    return compose(list(words), strict=True)


def test_a_path_alone_selects_data_text():
    for words in (
        ["data.path=book.txt"],
        ["data.path=books/"],
        ["scale=smoke", "data.path=x.JSON"],
    ):
        config = typed(*words)
        assert config.data.name == "text" and config.run.options["data"] == "text"
        assert config.data.path == words[-1].removeprefix("data.path=")
    assert typed("data=shakespeare", "data.path=copy.txt").data.name == "shakespeare"
    assert typed("data=tinystories", "data.path=copy.txt").data.name == "hub"
    assert typed("data.path=null").data.name == "stories"


@pytest.mark.parametrize("name", ["train.bin", "IDS.NPY", "a.idx", "x.bin.gz"])
def test_a_path_of_token_ids_alone_requires_data_tokens(name):
    with pytest.raises(UserError, match="data=tokens data.vocab_size=N"):
        typed(f"data.path={name}")


@pytest.mark.parametrize("data", ["data=stories", "data.name=stories", "data=markov"])
def test_a_path_is_refused_if_the_typed_corpus_has_none(data):
    with pytest.raises(UserError, match="data.path=x.txt has no effect: it requires data=text"):
        typed(data, "data.path=x.txt")


@pytest.mark.slow
def test_ids_need_no_tokenizer():
    tokens = ["data=tokens", "data.path=ids.bin", "data.vocab_size=59"]
    for words in (tokens, [*tokens, "scale=smoke"], [*tokens, "experiment=shakespeare_cpu"]):
        config = typed(*words)
        assert config.tokenizer.name == "none" and config.run.options["tokenizer"] == "none"
    assert typed("data=markov").tokenizer.name == "none"
    assert typed(*tokens, "tokenizer=byte").tokenizer.name == "byte"
    with pytest.raises(UserError, match="data.vocab_size"):
        typed("data=tokens", "data.path=ids.bin")
    with pytest.raises(UserError, match="tokenizer"):
        typed("data=markov", "tokenizer=char")


TEXT = ("data=text", "data.path=x.txt")
IDS = ("data=tokens", "data.path=x.bin", "data.vocab_size=9")
HUB = ("data=hub", "data.hub=a/b")


@pytest.mark.parametrize(
    "words",
    [
        (*TEXT, "data.hub=a/b"),
        (*TEXT, "data.hub_subset=c"),
        (*TEXT, "data.hub_file=c"),
        (*TEXT, "data.hub_validation_file=c"),
        (*TEXT, "data.seed=3"),
        (*TEXT, "data.choices=3"),
        (*TEXT, "data.train_tokens=3M"),
        (*TEXT, "data.validation_documents=3"),
        (*TEXT, "data.vocab_size=300"),
        (*TEXT, "data.dtype=int32"),
        (*TEXT, "data.validation_path=y.txt", "data.validation_fraction=0.2"),
        (*IDS, "data.documents=3"),
        (*IDS, "data.text_field=story"),
        (*IDS, "tokenizer.vocab_size=300"),
        (*IDS, "tokenizer.path=tokenizer.json"),
        ("data=shakespeare", "data.documents=3"),
        ("data=shakespeare", "data.text_field=story"),
        ("data=stories", "data.documents=3"),
        ("data.text_field=story",),
        ("data.validation_path=y.txt",),
        ("data.validation_fraction=0.2",),
        ("data.vocab_size=300",),
        ("data=markov", "data.choices=3"),
        (*HUB, "data.path=x.txt", "data.hub_file=c"),
        (*HUB, "data.path=x.txt", "data.hub_subset=c"),
        (*HUB, "data.hub_file=c", "data.hub_subset=d"),
        (*HUB, "data.hub_validation_file=d"),
        (*HUB, "data.hub_file=c", "data.hub_validation_file=d", "data.validation_fraction=0.2"),
        ("tokenizer=byte", "tokenizer.vocab_size=300"),
        ("tokenizer=char", "tokenizer.training_bytes=3M"),
        ("tokenizer=char", "tokenizer.path=tokenizer.json"),
        ("tokenizer.path=tokenizer.json",),
        ("tokenizer.hub=a/b",),
        ("tokenizer=pretrained", "tokenizer.path=t.json", "tokenizer.hub=a/b"),
    ],
)
def test_a_typed_key_without_effect_is_refused_naming_what_it_requires(words):
    key, _, value = words[-1].partition("=")
    with pytest.raises(UserError, match=f"{key}={value} has no effect: it requires"):
        typed(*words)


@pytest.mark.parametrize(
    "words",
    [
        (*TEXT, "data.documents=3", "data.text_field=story", "data.stride=3"),
        (*TEXT, "data.validation_fraction=0.2"),
        (*TEXT, "data.validation_path=y.txt"),
        (*IDS, "data.dtype=int32", "data.validation_path=y.bin"),
        (*HUB, "data.hub_subset=c", "data.documents=9", "data.text_field=body"),
        (*HUB, "data.hub_file=c", "data.validation_fraction=0.2"),
        ("data.seed=3", "data.train_tokens=3M", "data.choices=3", "data.stride=3"),
        ("data=markov", "data.seed=3", "data.vocab_size=12"),
        ("tokenizer.vocab_size=300", "tokenizer.training_bytes=3M"),
        ("tokenizer=pretrained", "tokenizer.path=t.json"),
        ("tokenizer=smollm", "tokenizer.path=t.json"),
        ("data.path=null", "data.documents=null"),  # the default
    ],
)
def test_a_typed_key_with_an_effect_is_kept(words):
    config = typed(*words)
    kept = to_yaml(config)
    for word in words:
        key, _, value = word.partition("=")
        group, _, name = key.partition(".")
        if name:
            held = getattr(getattr(config, group), name, None)  # None also if the key is absent
            assert str(held) == value.replace("null", "None")
            assert f"{name}: {value}" in kept or held is None


def test_keys_of_options_and_scales_without_effect_are_not_shown(tmp_path):
    config = typed("scale=cpu", *TEXT, "tokenizer=char")
    assert set(vars(config.tokenizer)) == {"name", "lossy"}
    assert not {"validation_documents", "choices", "hub"} & set(vars(config.data))
    assert typed("scale=cpu").data.validation_documents == 100
    assert typed("experiment=tinystories_17m", *TEXT).tokenizer.training_bytes == "100M"
    assert typed("experiment=tinystories_17m", "tokenizer=byte").tokenizer == Byte()
    copy = typed("data=tinystories", "data.path=copy.txt")
    assert copy.data.hub == "roneneldan/TinyStories" and copy.data.hub_file is None
    assert not set(without_effect(copy)) & {"data.hub", "data.path"}


def test_an_older_run_resumes_even_if_it_holds_keys_without_effect(tmp_path):
    file = tmp_path / "run" / "config.yaml"
    file.parent.mkdir()
    config = typed(*TEXT, "tokenizer=char")
    assert from_file_of(file, to_yaml(config)) == config
    old = to_yaml(config).replace("  documents: null", "  documents: null\n  seed: 7", 1)
    lines = [line for line in old.splitlines() if line != "  seed: 0"]
    assert from_file_of(file, "\n".join(lines) + "\n") == config
    stories = to_yaml(typed()).replace("  path: null", "  path: old.txt", 1)
    assert from_file_of(file, stories).data.name == "stories"  # as it was trained


def from_file_of(file, text):
    file.write_text(text)
    return from_file(file)


@pytest.mark.slow
def test_a_study_may_vary_the_corpus_that_a_key_of_its_base_requires():
    base = typed(*TEXT, "data.documents=3", "tokenizer.vocab_size=300", "job=study")
    assert {"data.path=x.txt", "data.documents=3"} <= set(words_of(base))
    variants = {"text": [], "stories": ["data=stories"], "bytes": ["tokenizer=byte"]}
    text, stories, of_bytes = members_of(base, variants, [0])
    assert text.config.data.path == "x.txt" and text.config.data.documents == 3
    assert stories.config.data == Stories() and of_bytes.config.tokenizer == Byte()
    with pytest.raises(UserError, match="variant seeds: data.seed=1 has no effect"):
        members_of(base, {"base": [], "seeds": ["data.seed=1"]}, [0])


def test_a_job_that_opens_a_run_accepts_keys_of_the_kind_of_that_run():
    config = typed("job=evaluate", "data.text_field=story", "run.name=x")
    assert config.data.text_field == "story"
