"""Configurations of small corpora for the tests of the data room."""

from pathlib import Path
from typing import Any

from jaxlm.config.corpora import CORPORA
from jaxlm.config.schema import Config
from jaxlm.config.tokenizers import TOKENIZERS


def configured(
    data: str, tokenizer: str = "byte", tokenizer_keys: dict[str, Any] | None = None, **data_keys
) -> Config:
    """The default configuration with a corpus and a tokenizer of these kinds and keys."""
    keys = {k: str(v) if isinstance(v, Path) else v for k, v in data_keys.items()}
    kind = TOKENIZERS[tokenizer](**tokenizer_keys or {})
    return Config(data=CORPORA[data](**keys), tokenizer=kind)
