"""`prepare` turns a configuration into two splits of memory-mapped tokens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxlm.config.corpora import Documents, FromFiles, Shakespeare, Text
from jaxlm.config.schema import Config
from jaxlm.data import corpora
from jaxlm.data.cache import digest
from jaxlm.data.corpora import Piece, Survey, TextFiles, between
from jaxlm.data.dataset import Dataset
from jaxlm.data.encoding import (
    cached_tokens,
    document_end,
    encode_pieces,
    make_tokenizer,
    note_of_loss,
    refuse_early,
)
from jaxlm.data.endless import prepare_stories
from jaxlm.data.flat import prepare_flat
from jaxlm.data.hub import hub_corpus
from jaxlm.data.lossless import Comparison
from jaxlm.data.markov import prepare_markov
from jaxlm.host.errors import UserError
from jaxlm.host.kinds import has_fields
from jaxlm.host.names import expanded, shown
from jaxlm.host.progress import progress_bar


def prepare(
    config: Config, *, cache: Path, train_tokens: int | None = None, progress: bool = True
) -> Dataset:
    """The dataset that a configuration names, encoded once into `cache`. Raises UserError.

    `train_tokens` is how much of an endless corpus (stories, markov) training needs, unless
    data.train_tokens is set; without either, the training split is empty.
    """
    config.data.check(config.tokenizer.name)
    return PREPARE[config.data.name](config, config.data, expanded(cache), train_tokens, progress)


@dataclass(frozen=True)
class _Part:
    """The characters from start to stop of a surveyed corpus: one split."""

    corpus: TextFiles
    survey: Survey
    start: int
    stop: int

    def pieces(self) -> Iterator[Piece]:
        return between(self.corpus.pieces(), self.start, self.stop)

    @property
    def identity(self) -> list[object]:
        return [self.survey.sha256, self.start, self.stop]


def prepare_text(
    config: Config, data: FromFiles, cache: Path, train_tokens: int | None, progress: bool
) -> Dataset:
    """Files of documents, split and encoded. Raises UserError."""
    train, validation = _parts(data, cache, progress)
    documents = train.survey.documents > 1 or validation.survey.documents > 1
    tokenizer = make_tokenizer(
        config.tokenizer,
        train.pieces,
        train.identity,
        "".join(sorted({*train.survey.alphabet, *validation.survey.alphabet})),
        documents,
        cache,
        progress,
    )
    end_of_text = document_end(tokenizer) if documents else None
    lossy = config.tokenizer.lossy
    splits, fingerprints, notes = [], [], []
    for split, part in (("train", train), ("validation", validation)):
        fingerprint = digest("text", part.identity, tokenizer.fingerprint, end_of_text)
        name, characters = f"{config.data.name}-{split}", part.stop - part.start
        comparison = Comparison(tokenizer)
        with progress_bar(f"encoding {name}", characters, "characters", progress) as advance:
            encoded = encode_pieces(part.pieces(), tokenizer, end_of_text, comparison, advance)
            encoded = refuse_early(encoded, comparison, name, lossy)
            tokens = cached_tokens(
                name, encoded, tokenizer.vocab_size, fingerprint, cache, comparison.found
            )
        notes += note_of_loss(tokens, name, lossy)
        splits.append(tokens)
        fingerprints.append(fingerprint)
    fingerprint = digest("dataset", fingerprints)
    read = [train.survey.line(train.corpus)]
    if validation.corpus is not train.corpus:
        read.append(f"validation: {validation.survey.line(validation.corpus)}")
    return Dataset(
        splits[0].ids_N,
        splits[1].ids_N,
        tokenizer,
        tokenizer.vocab_size,
        fingerprint,
        documents,
        train_bytes=splits[0].bytes_N,
        validation_bytes=splits[1].bytes_N,
        notes=(*read, *notes),
    )


def _check_field(data: Documents, files: list[Path]) -> None:
    """Raises UserError if data.text_field is set but no file has fields."""
    if data.text_field != Documents.text_field and not any(map(has_fields, files)):
        raise UserError(
            f"data.text_field={shown(data.text_field)} has no effect: {shown(files[0])} is plain "
            "text.\nIt requires .jsonl, .json, .csv, .tsv or .parquet. Omit it here."
        )


def _parts(data: FromFiles, cache: Path, progress: bool) -> tuple[_Part, _Part]:
    """The training and the validation split. Raises UserError."""
    corpus, own = SOURCES[data.name](data, cache, progress)
    if data.validation_path is not None:
        field = data.text_field if isinstance(data, Documents) else Documents.text_field
        own = corpora.text_files(data.validation_path, field, "data.validation_path")
    if isinstance(data, Text):
        _check_field(data, corpus.files + (own.files if own else []))
    if own is not None:
        found = corpora.survey(corpus, None, cache, progress)
        other = corpora.survey(own, None, cache, progress)
        return _Part(corpus, found, 0, found.characters), _Part(own, other, 0, other.characters)
    found = corpora.survey(corpus, data.validation_fraction, cache, progress)
    return _Part(corpus, found, 0, found.cut), _Part(corpus, found, found.cut, found.characters)


Source = tuple[TextFiles, TextFiles | None]
"""The files of a corpus, and its own validation set if it has one."""


def _text(data: Text, cache: Path, progress: bool) -> Source:
    return corpora.text_files(str(data.path), data.text_field, documents=data.documents), None


def _shakespeare(data: Shakespeare, cache: Path, progress: bool) -> Source:
    return TextFiles([corpora.shakespeare(data.path, cache)], Documents.text_field), None


SOURCES: dict[str, Callable[..., Source]] = {
    "text": _text,
    "hub": hub_corpus,
    "shakespeare": _shakespeare,
}
"""Corpora of documents in files: data.name -> (its keys, cache, progress) -> files."""

PREPARE: dict[str, Callable[..., Dataset]] = {
    "stories": prepare_stories,
    "markov": prepare_markov,
    "tokens": prepare_flat,
    **dict.fromkeys(SOURCES, prepare_text),
}
"""data.name -> (config, its keys, cache, train_tokens, progress) -> dataset."""
