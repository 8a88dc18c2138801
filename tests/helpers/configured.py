"""Configurations of small corpora, as tests of the data room need them."""

from pathlib import Path
from typing import Any

from jaxlm.config.corpora import CORPORA
from jaxlm.config.schema import Config
from jaxlm.config.tokenizers import TOKENIZERS


def configured(
    data: str, tokenizer: str = "byte", tokenizer_keys: dict[str, Any] | None = None, **data_keys
) -> Config:
    """The defaults, but for a corpus and a tokenizer of these kinds with these keys."""
    keys = {k: str(v) if isinstance(v, Path) else v for k, v in data_keys.items()}
    kind = TOKENIZERS[tokenizer](**tokenizer_keys or {})
    return Config(data=CORPORA[data](**keys), tokenizer=kind)
