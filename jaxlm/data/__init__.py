"""The data room: text -> tokenizer -> token file -> batches. `prepare` is its door."""

from jaxlm.data.dataset import Dataset, prepare

__all__ = ["Dataset", "prepare"]
