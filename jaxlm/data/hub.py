"""Data sets and tokenizers of the Hugging Face hub, fetched by public name and cached.

The libraries are optional (`pip install 'jaxlm[hub]'`) and imported when something is fetched.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from jaxlm.config.corpora import Hub
from jaxlm.data.cache import digest, replacing
from jaxlm.data.corpora import TextFiles, shared_folder, text_files
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError
from jaxlm.host.progress import progress_bar

_TOKENIZERS = {  # in the shared folder
    "HuggingFaceTB/SmolLM-135M": "smollm_tokenizer.json",
}
Found = TypeVar("Found")


def hub_corpus(data: Hub, cache: Path, progress: bool) -> tuple[TextFiles, TextFiles | None]:
    """The text of data.hub, and its own validation set if it has one. Raises UserError.

    data.path, the user's own copy, takes precedence over the network. A plain-text data set is kept
    unchanged, any other as a .jsonl.gz of the requested documents.
    """
    if data.path is not None:
        return text_files(data.path, data.text_field, documents=data.documents), None
    if data.hub_file is None:
        return _documents(data, cache, progress), None
    files = [data.hub_file, *([data.hub_validation_file] if data.hub_validation_file else [])]
    assert data.hub is not None  # the configuration was checked
    found = [TextFiles([_file(data.hub, name)], data.text_field, None) for name in files]
    train = TextFiles(found[0].files, data.text_field, data.documents)
    return train, found[1] if len(found) > 1 else None


def hub_tokenizer(name: str) -> Path:
    """The tokenizer.json of a model: the shared copy, or fetched. Raises UserError."""
    shared = shared_folder() / "tokenizers" / _TOKENIZERS.get(name, name.replace("/", "_"))
    if shared.is_file():
        return shared
    return _fetched(
        f"The tokenizer of {name}",
        "set tokenizer.path to your own tokenizer.json, or use tokenizer=bpe.",
        lambda: _download(name, "tokenizer.json", "model"),
    )


def _file(name: str, file: str) -> Path:
    return _fetched(name, _OTHER_WAYS, lambda: _download(name, file, "dataset"))


def _download(name: str, file: str, kind: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, file, repo_type=kind))


def _documents(data: Hub, cache: Path, progress: bool) -> TextFiles:
    """The first documents of a data set that is a table with a column of text."""
    assert data.hub is not None
    what = digest(data.hub, data.hub_subset, data.text_field, data.documents)[:16]
    path = cache / "downloads" / f"{data.hub.replace('/', '-')}-{what}.jsonl.gz"
    if not path.is_file():
        name = f"{data.hub} {data.hub_subset or ''}".strip()
        _fetched(name, _OTHER_WAYS, lambda: _write(_rows(data), data, path, progress))
    return TextFiles([path], data.text_field, data.documents)


def _rows(data: Hub) -> Iterable[Json]:
    from datasets import load_dataset

    found = load_dataset(data.hub, data.hub_subset, split="train", streaming=True)
    return found if data.documents is None else found.take(data.documents)


def _write(rows: Iterable[Json], data: Hub, path: Path, progress: bool) -> Path:
    def lines() -> Iterator[bytes]:
        with progress_bar(f"fetching {data.hub}", data.documents, "documents", progress) as advance:
            for row in _honestly(rows):
                yield json.dumps({data.text_field: row[data.text_field]}).encode() + b"\n"
                advance(1)

    with replacing(path) as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
        packed.writelines(lines())
    return path


def _honestly(rows: Iterable[Json]) -> Iterator[Json]:
    """The rows; the network's OSErrors are not mistaken for those of the file being written."""
    try:
        yield from rows
    except OSError as error:
        raise RuntimeError(str(error)) from error


_OTHER_WAYS = (
    "set data.path to your own copy (.txt, .jsonl, ..., or a folder), or use data=stories, the "
    "built-in corpus."
)


def _fetched(what: str, other_ways: str, fetch: Callable[[], Found]) -> Found:
    """`fetch()`; any failure (no library, no network, no such name) becomes a UserError."""
    try:
        return fetch()
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed (pip install 'jaxlm[hub]')"
    except Exception as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    raise UserError(
        f"{what} could not be fetched from the Hugging Face hub: {problem}.\nInstead, {other_ways}"
    )
