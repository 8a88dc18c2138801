"""The tokenizers (tokenizer.name=...): one dataclass for each, with exactly its keys."""

from dataclasses import dataclass

from jaxlm.config.keys import Kinds, key
from jaxlm.host.errors import UserError


@dataclass
class TokenizerConfig:
    """The keys that all tokenizers share."""

    name: str = key("", "the tokenizer")
    lossy: bool = key(
        False,
        "pretrained: accept a tokenizer that loses text; the run reports what is lost",
    )

    def check(self) -> None:
        """Raise UserError if the keys do not fit together."""

    def idle(self) -> dict[str, str]:
        """Key -> what it requires, for keys that other keys leave without effect."""
        return {}


@dataclass
class Byte(TokenizerConfig):
    """The 256 bytes of UTF-8."""

    name: str = key("byte", "one id per byte")


@dataclass
class Char(TokenizerConfig):
    """The characters that occur in the corpus."""

    name: str = key("char", "one id per character")


@dataclass
class BPE(TokenizerConfig):
    """A byte-level BPE, trained on the corpus."""

    name: str = key("bpe", "byte-level BPE, trained on the corpus")
    vocab_size: int = key(1024, "number of entries, including the 256 bytes and <|endoftext|>")
    training_bytes: str = key("20M", "train on at most this many bytes of the training text")

    def check(self) -> None:
        if self.vocab_size < 257:
            raise UserError(
                f"tokenizer.vocab_size={self.vocab_size} is below 257: the 256 bytes and "
                "<|endoftext|>."
            )


@dataclass
class Pretrained(TokenizerConfig):
    """A tokenizer from a local file or from the Hugging Face hub."""

    name: str = key("pretrained", "a pretrained tokenizer")
    path: str | None = key(
        None, "a tokenizer.json, or a folder with GPT-2's vocab.json and merges.txt"
    )
    hub: str | None = key(
        None, "without a path: the model on the Hugging Face hub whose tokenizer to use"
    )

    def check(self) -> None:
        if self.path is None and self.hub is None:
            raise UserError(
                "tokenizer=pretrained needs a file.\nSet tokenizer.path=tokenizer.json."
            )

    def idle(self) -> dict[str, str]:
        return {} if self.path is None else {"hub": "a tokenizer without tokenizer.path"}


@dataclass
class NoTokenizer(TokenizerConfig):
    """For a corpus of ids."""

    name: str = key("none", "no tokenizer: the corpus is ids")


TOKENIZERS = Kinds(BPE, Char, Byte, Pretrained, NoTokenizer)
