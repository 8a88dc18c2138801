"""Which keys of the corpus and of the tokenizer count for the ones that are chosen.

A key without effect is at its default in every configuration, so that no report shows it; where a
person typed it, it is refused. What a typed key implies is chosen with it: a path is a text's.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from jaxlm.config.schema import ENDLESS, Config, keys_of
from jaxlm.host.errors import UserError
from jaxlm.host.names import shown

_READ = ("text", "hub", "shakespeare", "tokens")
_CORPORA = {  # data.KEY: the corpora it goes with; any other key goes with all
    "path": _READ,
    "validation_path": _READ,
    "validation_fraction": _READ,
    "hub": ("hub",),
    "hub_subset": ("hub",),
    "hub_file": ("hub",),
    "hub_validation_file": ("hub",),
    "documents": ("text", "hub"),
    "text_field": ("text", "hub"),
    "dtype": ("tokens",),
    "vocab_size": ("tokens", "markov"),
    "seed": ENDLESS,
    "train_tokens": ENDLESS,
    "validation_documents": ("stories",),
    "choices": ("stories",),
}
_TOKENIZERS = {
    "vocab_size": "bpe",
    "training_bytes": "bpe",
    "path": "pretrained",
    "hub": "pretrained",
}
_OPENING = ("evaluate", "generate", "logits")  # jobs whose data are those of a trained run


def without_effect(config: Config) -> dict[str, str]:
    """Key -> what it goes with, for every key of data and tokenizer that changes nothing."""
    data, tokenizer = config.data, config.tokenizer
    idle = {
        f"data.{key}": f"{' or '.join(map(_corpus, corpora))}, and this is {_corpus(data.name)}"
        for key, corpora in _CORPORA.items()
        if data.name not in corpora
    }
    idle |= {
        f"tokenizer.{key}": f"tokenizer={name}, and this is tokenizer={tokenizer.name}"
        for key, name in _TOKENIZERS.items()
        if tokenizer.name != name
    }
    own_set = data.name == "hub" and data.path is None and data.hub_file is not None
    own_set = own_set and data.hub_validation_file is not None
    if data.validation_path is not None or own_set:
        which = "hub_validation_file" if data.validation_path is None else "validation_path"
        idle.setdefault("data.validation_fraction", f"a corpus without data.{which}")
    if data.name == "hub":
        idle |= _of_hub(config)
    if tokenizer.name == "pretrained" and tokenizer.path is not None:
        idle["tokenizer.hub"] = "a tokenizer without tokenizer.path"
    return idle


def _corpus(name: str) -> str:
    return f"data.name={name}" if name == "hub" else f"data={name}"


def _of_hub(config: Config) -> dict[str, str]:
    data = config.data
    if data.path is not None:
        files = ("hub_subset", "hub_file", "hub_validation_file")
        return {f"data.{key}": "a data set without data.path" for key in files}
    if data.hub_file is not None:
        return {"data.hub_subset": "a data set without data.hub_file"}
    return {"data.hub_validation_file": "data.hub_file"}


def settle(config: Config, typed: Collection[str] | None, *, strict: bool = False) -> None:
    """Choose what typed keys imply, and put keys without effect at their defaults.

    `typed` are the keys and groups of the command line, or None for the configuration of a run,
    which is taken as it stands but for keys without effect. Under `strict`, one of them that has no
    effect is refused; otherwise it yields as others do, since a study's variants may change the
    corpus. Jobs that open a trained run compare what was typed with the run itself.
    """
    if typed is None:
        typed = ()
    else:
        _imply(config, typed)
    opening = config.job is not None and config.job.name in _OPENING
    for name, goes_with in without_effect(config).items():
        group, key = name.split(".")
        default = _default(name)
        value = getattr(getattr(config, group), key)
        if value == default or (opening and name in typed):
            continue
        if strict and name in typed:
            raise _refused(name, value, goes_with)
        setattr(getattr(config, group), key, default)


def refuse_idle(config: Config, words: Sequence[str]) -> None:
    """Raises UserError where one of a variant's own words sets a key without effect."""
    for name, goes_with in without_effect(config).items():
        for word in words:
            key, _, value = word.partition("=")
            if key.strip().lstrip("+") == name and value != _shown(_default(name)):
                raise _refused(name, value, goes_with)


def _refused(name: str, value: object, goes_with: str) -> UserError:
    return UserError(
        f"{name}={shown(str(value))} has no effect: it goes with {goes_with}.\n"
        "Leave it out, or choose what it goes with."
    )


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


def _default(name: str) -> Any:
    return keys_of(Config)[name].default


def _imply(config: Config, typed: Collection[str]) -> None:
    """data.path alone means data=text; corpora of ids need no tokenizer."""
    data, options = config.data, config.run.options
    if data.name in ENDLESS and data.path is not None and not {"data", "data.name"} & set(typed):
        from jaxlm.host.kinds import holds_tokens  # the data room takes a while to import

        if holds_tokens(Path(data.path)):
            raise UserError(
                f"data.path={shown(data.path)} looks like a file of token ids.\n"
                "Add data=tokens data.vocab_size=N; for a text, add data=text."
            )
        data.name = "text"
        options |= {"data": "text"} if "data" in options else {}
    ids = data.name == "markov" or (data.name == "tokens" and data.vocab_size is not None)
    if ids and not {"tokenizer", "tokenizer.name", "tokenizer.path", "tokenizer.hub"} & set(typed):
        if data.name == "markov" or config.tokenizer.name != "pretrained":
            config.tokenizer.name = "none"
            options |= {"tokenizer": "none"} if "tokenizer" in options else {}
