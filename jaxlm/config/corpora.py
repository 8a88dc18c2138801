"""The corpora (data.name=...): one dataclass for each, with exactly its keys.

`jaxlm.data.prepare` turns each of them into tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxlm.config.keys import Kinds, key
from jaxlm.host.errors import UserError


@dataclass
class DataConfig:
    """The keys that all corpora share."""

    is_text: ClassVar[bool] = True
    """Whether the corpus is text for a tokenizer, rather than token ids."""

    name: str = key("", "the corpus")
    stride: int | None = key(
        None, "tokens between the starts of training windows; null: the context length"
    )

    def check(self, tokenizer: str) -> None:
        """Raise UserError if the keys do not fit together or do not fit the named tokenizer."""
        if self.is_text and tokenizer == "none":
            raise UserError(
                f"data={self.name} is text, but tokenizer=none.\nSet tokenizer=char, byte, bpe, ..."
            )
        if not self.is_text and tokenizer in ("char", "bpe"):
            raise UserError(
                f"data={self.name} has ids, but tokenizer={tokenizer} is built from text.\n"
                "Use tokenizer=none, or tokenizer=pretrained tokenizer.path=FILE."
            )

    def idle(self) -> dict[str, str]:
        """Key -> what it requires, for keys that other keys leave without effect."""
        return {}


@dataclass
class Endless(DataConfig):
    """A built-in corpus, generated as far as a run needs it."""

    seed: int = key(0, "seed of the text (the order of batches uses data_seed)")
    train_tokens: str | None = key(
        None, "training tokens to generate, such as 20M; null: as many as the duration needs"
    )


@dataclass
class Stories(Endless):
    """Small stories from a grammar, with the exact probability of each."""

    name: str = key("stories", "the built-in stories")
    validation_documents: int = key(500, "number of validation documents")
    choices: int | None = key(
        None,
        "keep only this many alternatives, the most frequent, of every choice of the grammar; "
        "null: "
        "all. Fewer alternatives make an easier corpus",
    )


@dataclass
class Markov(Endless):
    """Ids from a Markov chain whose entropy is known exactly."""

    is_text = False

    name: str = key("markov", "ids from a Markov chain")
    vocab_size: int | None = key(None, "number of states")

    def check(self, tokenizer: str) -> None:
        if tokenizer != "none":
            raise UserError(
                f"data=markov has ids and no text, but tokenizer={tokenizer}: add tokenizer=none."
            )


@dataclass
class FromFiles(DataConfig):
    """A corpus read from files and split into training and validation text."""

    path: str | None = key(
        None,
        "text, or hub with a local copy: a file of text (.txt, .md, ...) or of records (.jsonl, "
        ".json, .csv, .tsv, .parquet), also compressed (.gz, .bz2, .xz, .zst), or a folder of "
        "these; tokens: a file of ids (raw, .npy or llm.c). Without data=..., it means data=text",
    )
    validation_path: str | None = key(
        None, "your own validation set, in any form that data.path takes"
    )
    validation_fraction: float = key(
        0.1, "share of the text held out at its end, cut at a document boundary if there is one"
    )

    def idle(self) -> dict[str, str]:
        if self.validation_path is None:
            return {}
        return {"validation_fraction": "a corpus without data.validation_path"}

    def _needs_path(self) -> None:
        if self.path is None:
            raise UserError(f"data={self.name} needs a file.\nSet data.path=FILE.")


@dataclass
class Shakespeare(FromFiles):
    """Tiny Shakespeare, verified by its hash."""

    name: str = key("shakespeare", "Tiny Shakespeare")


@dataclass
class Documents(FromFiles):
    """Files of documents: plain text, or records with a field of text."""

    documents: int | None = key(None, "use only this many documents from the start; null: all")
    text_field: str = key(
        "text",
        "the field that holds the text in records (.jsonl, .json, .csv, .tsv, .parquet); dots "
        "select nested fields, such as instruction.prompt",
    )


@dataclass
class Text(Documents):
    """The user's own text files."""

    name: str = key("text", "text files")

    def check(self, tokenizer: str) -> None:
        self._needs_path()
        super().check(tokenizer)


@dataclass
class Hub(Documents):
    """A data set on the Hugging Face hub, or a local copy of it at `path`."""

    name: str = key("hub", "a data set on the Hugging Face hub")
    hub: str | None = key(None, "the data set's public name, such as roneneldan/TinyStories")
    hub_subset: str | None = key(None, "one of the data set's configurations")
    hub_file: str | None = key(None, "one text file of the data set, with end-of-text marks")
    hub_validation_file: str | None = key(None, "the text file of the validation set")

    def check(self, tokenizer: str) -> None:
        super().check(tokenizer)
        if self.hub is None:
            raise UserError("data=hub needs a name.\nSet data.hub=OWNER/NAME, or data=tinystories.")

    def idle(self) -> dict[str, str]:
        found = super().idle()
        if self.path is not None:
            files = ("hub_subset", "hub_file", "hub_validation_file")
            return found | dict.fromkeys(files, "a data set without data.path")
        if self.hub_file is None:
            return found | {"hub_validation_file": "data.hub_file"}
        if self.hub_validation_file is not None:
            found.setdefault("validation_fraction", "a corpus without data.hub_validation_file")
        return found | {"hub_subset": "a data set without data.hub_file"}


@dataclass
class Tokens(FromFiles):
    """A flat file of token ids."""

    is_text = False

    name: str = key("tokens", "a flat file of token ids")
    dtype: str = key(
        "uint16",
        "type of the ids in a raw file; files with a header state it themselves",
        choices=("uint16", "int32", "uint32"),
    )
    vocab_size: int | None = key(None, "number of ids; required without a tokenizer")

    def check(self, tokenizer: str) -> None:
        self._needs_path()
        if tokenizer in ("char", "bpe") and self.vocab_size is not None:
            super().check(tokenizer)
        if self.vocab_size is None and tokenizer not in ("pretrained", "byte"):
            raise UserError(
                "data=tokens needs the number of ids.\n"
                "Set data.vocab_size=N, or tokenizer=pretrained tokenizer.path=FILE."
            )


CORPORA = Kinds(Stories, Markov, Text, Hub, Shakespeare, Tokens)
