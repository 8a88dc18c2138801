"""The data room: text -> tokenizer -> token file -> batches. `prepare` is its door."""

from jaxlm.data.dataset import Dataset
from jaxlm.data.prepare import prepare

__all__ = ["Dataset", "prepare"]
