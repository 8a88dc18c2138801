"""Text and logits from a trained run: `LoadedRun` in a notebook, `job=generate`, `job=logits`.

Legend: B rows, L length, V vocabulary, T tokens of a prompt.
"""

import contextlib
import dataclasses
import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config import checks
from jaxlm.config.compose import cache_folder
from jaxlm.config.job_options import GenerateJob
from jaxlm.config.schema import Config, ParallelConfig
from jaxlm.data.continuation import Continuation
from jaxlm.data.encodings import advice
from jaxlm.data.tokenizer import Tokenizer
from jaxlm.host.errors import UserError
from jaxlm.host.files import replacing
from jaxlm.host.names import expanded
from jaxlm.inference import guard
from jaxlm.inference.open import load_parameters
from jaxlm.spec.contract import LoadEngine
from jaxlm.spec.sampling import Sampling
from jaxlm.store.directory import RunDirectory
from jaxlm.store.weights import write_weights

_STREAM_CHUNK, _STOP_CHUNK = 4, 32
_FORWARD_TOKENS, _FORWARD_LOGITS = 2**14, 2**25
_TIMED_RUNS, _TIMED_SECONDS = 3, 5.0


class Sample(NamedTuple):
    """A continuation. `whole`: it ended by itself, not because of max_tokens."""

    text: str
    whole: bool


class LoadedRun:
    """A trained run opened for generation, with its parameters on the first device of this machine.

    Attributes: `config`, `engine` (its `model` is the Flax or torch module), `parameters` (in the
    engine's form), `tokenizer` (None if the run was trained on ids), `step`, and `skipped` (damaged
    checkpoints that were passed over). `operation` decides the folder of compiled programs and the
    kernels. `load_engine` returns the backend's class; either backend opens the runs of both.
    Raises UserError if there is no run or no checkpoint.
    """

    def __init__(
        self,
        run_dir: str | Path,
        checkpoint: str | int = "last",
        operation: Config | None = None,
        *,
        load_engine: LoadEngine,
    ) -> None:
        self.path = Path(run_dir)
        RunDirectory(self.path).check_format()
        stored = guard.stored_config(self.path)
        how = operation or dataclasses.replace(Config(), run=stored.run)
        one_device = ParallelConfig(
            data=1, attention=how.parallel.attention, tf32=how.parallel.tf32
        )
        self.config = dataclasses.replace(
            stored, parallel=one_device, debug=how.debug, run=how.run, torch=how.torch
        )
        self.tokenizer: Tokenizer | None = None
        if stored.tokenizer.name != "none":
            self.tokenizer = guard.stored_tokenizer(self.path)
            self.tokenizer.lossy = stored.tokenizer.lossy
        sized: Any = self.tokenizer or stored.data  # data of token ids state it
        vocabulary = sized.vocab_size
        self.engine = load_engine()(self.config, vocabulary, cache_folder(self.config))
        found = load_parameters(self.engine, self.path, checkpoint)
        self.step, self.parameters, self.skipped = found.step, found.content, found.skipped
        end = self.tokenizer.end_of_text if self.tokenizer else None
        self.has_documents = found.metadata.get("documents", end is not None)
        self._decode = self.engine.decoder(self.parameters)

    def generate(
        self,
        prompt: str = "",
        samples: int = 1,
        *,
        stop: str | list[str] | None = None,
        **options: Any,
    ) -> str | list[str]:
        """The prompt with its continuation; a list if `samples` is more than 1.

        The options are the keys of job=generate, with the same defaults: max_tokens (256),
        temperature (0.8; 0 is greedy), top_k, top_p, min_p, repetition_penalty and seed. A text
        ends after max_tokens, before end_of_text, or before a stop string. A sample depends only
        on the seed and its own number. Texts may outgrow the context: see
        `continuation.window_start`. Raises UserError for options out of range and for a prompt
        that the tokenizer cannot express.

        If the corpus has documents, end_of_text precedes the prompt, as it precedes a document in
        training. Otherwise an empty prompt starts from a line break if the tokenizer has one, or
        from id 0. These tokens are not printed and incur no repetition penalty.
        """
        found = self.continuations(prompt, samples, stop, **options)
        texts = [prompt + sample.text for sample in found]
        return texts if samples > 1 else texts[0]

    def continuations(
        self, prompt: str, samples: int, stop: str | list[str] | None = None, **options: Any
    ) -> list[Sample]:
        """The continuations of `generate` without the prompt, and whether each ended by itself."""
        job = GenerateJob(samples=samples, **options)
        rows = self._rows(prompt, samples, stop)
        texts = [""] * samples
        for pieces in self._pieces(prompt, job, rows, _STOP_CHUNK if stop else None):
            texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        return [Sample(text, row.whole) for text, row in zip(texts, rows, strict=True)]

    def tokens_per_second(self, prompt: str = "", **options: Any) -> float:
        """Speed of generating one text of max_tokens, without compilation: the median of three.

        The options are those of `generate`. end_of_text does not end the text, so that all models
        generate equally many tokens. Slow models are timed fewer times.
        """
        job = GenerateJob(samples=1, **options)
        decoded = lambda: list(self._decoded(prompt, job, None, None))  # noqa: E731
        decoded()
        seconds: list[float] = []
        while len(seconds) < _TIMED_RUNS and sum(seconds) < _TIMED_SECONDS:
            started = time.perf_counter()
            decoded()
            seconds.append(time.perf_counter() - started)
        return job.max_tokens / statistics.median(seconds)

    def stream(
        self, prompt: str = "", stop: str | list[str] | None = None, **options
    ) -> Iterator[str]:
        """The text that `generate` returns for one sample, piece by piece."""
        job = GenerateJob(samples=1, **options)
        pieces = self._pieces(prompt, job, self._rows(prompt, 1, stop), _STREAM_CHUNK)
        yield prompt
        yield from (piece for (piece,) in pieces if piece)

    def save_weights(self, path: str | Path) -> None:
        """Write the parameters to a .safetensors file, under the names of a state_dict.

        Read it with `safetensors.torch.load_file` in PyTorch, and with `job.checkpoint=FILE` here.
        """
        about = {"step": self.step, "documents": self.has_documents}
        write_weights(path, self.engine.canonical(self.parameters), about)

    def logits(self, tokens_BxL: np.ndarray) -> np.ndarray:
        """float32 logits (B, L, V) of ids (B, L), L at most the context. Raises UserError."""
        return np.concatenate(list(self.logits_by_rows(tokens_BxL)))

    def logits_by_rows(self, tokens_BxL: np.ndarray) -> Iterator[np.ndarray]:
        """`logits` a few rows at a time, so that not all need to fit into memory."""
        tokens_BxL = np.asanyarray(tokens_BxL)
        self._check_tokens(tokens_BxL)
        length, vocabulary = tokens_BxL.shape[1], self.engine.model_config.vocab_size
        rows = min(_FORWARD_TOKENS // length, _FORWARD_LOGITS // (length * vocabulary))
        rows = min(max(1, rows), len(tokens_BxL))
        for first in range(0, len(tokens_BxL), rows):
            part = tokens_BxL[first : first + rows].astype(np.int32)
            padded = np.pad(part, ((0, rows - len(part)), (0, 0)))
            logits_BxLxV = self.engine.logits(self.parameters, padded)
            yield logits_BxLxV[: len(part)].astype(np.float32, copy=False)

    def _check_tokens(self, tokens_BxL: np.ndarray) -> None:
        model = self.engine.model_config
        if tokens_BxL.ndim != 2 or tokens_BxL.dtype.kind not in "iu" or not tokens_BxL.size:
            raise UserError(
                f"The tokens are {tokens_BxL.dtype} of shape {tokens_BxL.shape}.\n"
                "They must be integers of shape batch x length, neither of them zero."
            )
        if tokens_BxL.shape[1] > model.context_length:
            raise UserError(
                f"The rows of tokens have length {tokens_BxL.shape[1]}, which exceeds the model's "
                f"context length of {model.context_length}.\nCut them into shorter rows."
            )
        outside = (tokens_BxL < 0) | (tokens_BxL >= model.vocab_size)
        if outside.any():
            row, column = np.argwhere(outside)[0]
            raise UserError(
                f"The tokens contain the id {tokens_BxL[row, column]} at row {row}, position "
                f"{column}.\nThe model's ids are 0 to {model.vocab_size - 1}."
            )

    def _rows(self, prompt: str, samples: int, stop: str | list[str] | None) -> list[Continuation]:
        """One empty continuation for each sample. Raises UserError."""
        stop = [stop] if isinstance(stop, str) else list(stop or [])
        if "" in stop:
            raise UserError("job.stop is empty.\nGive a string to stop at, or null.")
        tokenizer, (_, prompt_T) = _tokenizer_of(self), self._start(prompt)
        return [Continuation(tokenizer, stop, prompt_T) for _ in range(samples)]

    def _pieces(
        self, prompt: str, job: GenerateJob, rows: list[Continuation], chunk: int | None
    ) -> Iterator[list[str]]:
        """The new text of each row, chunk after chunk. Raises UserError before the first."""
        end_of_text = _tokenizer_of(self).end_of_text
        return _texts(self._decoded(prompt, job, end_of_text, chunk), rows)

    def _decoded(
        self, prompt: str, job: GenerateJob, end_of_text: int | None, chunk: int | None
    ) -> Iterator[np.ndarray]:
        """The new ids (B, N), chunk after chunk. Raises UserError before the first."""
        checks.check(dataclasses.replace(self.config, job=job))
        start, prompt_T = self._start(prompt)
        self.engine.activate()
        return self._decode(
            np.concatenate([start, prompt_T]),
            rows=job.samples,
            max_tokens=job.max_tokens,
            sampling=Sampling.of(job),
            seed=job.seed,
            end_of_text=end_of_text,
            unpenalised=len(start),
            chunk=chunk,
        )

    def _start(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        """(ids before the prompt, ids of the prompt), together at least one. See `generate`."""
        tokenizer = _tokenizer_of(self)
        prompt_T, start = tokenizer.encode(prompt), np.empty(0, np.int32)
        if self.has_documents and tokenizer.end_of_text is not None:
            start = np.array([tokenizer.end_of_text], np.int32)
        elif not len(prompt_T):
            with contextlib.suppress(UserError):
                start = tokenizer.encode("\n")
            start = start if len(start) else np.zeros(1, np.int32)
        return start, prompt_T


def _tokenizer_of(run: LoadedRun) -> Tokenizer:
    if run.tokenizer is None:
        raise UserError(
            f"{run.path} was trained on ids without a tokenizer, so it cannot continue text.\n"
            "Use job=logits or LoadedRun.logits instead."
        )
    return run.tokenizer


def _texts(decoded: Iterator[np.ndarray], continuations: list[Continuation]) -> Iterator[list[str]]:
    for new_BxN in decoded:
        yield [c.push(ids) for c, ids in zip(continuations, new_BxN.tolist(), strict=True)]
        if all(c.ended for c in continuations):
            return
    yield [c.finish() for c in continuations]


def _open(config: Config, load_engine: LoadEngine) -> LoadedRun:
    run = LoadedRun(config.run.dir, config.job.checkpoint, config, load_engine=load_engine)
    for line in run.skipped:
        print(f"skipped {line}", file=sys.stderr)
    which = f"with {config.job.checkpoint}" if run.step is None else f"at step {run.step}"
    print(f"{run.path} {which}", file=sys.stderr)
    return run


def generate_job(config: Config, load_engine: LoadEngine) -> int:
    """job=generate: write the text to standard output as UTF-8, with `---` between samples.

    Everything else goes to standard error. A reader that closes the pipe ends the job quietly.
    """
    job = config.job
    prompt = _prompt(job)
    run = _open(config, load_engine)
    options = {
        name: getattr(job, name) for name in ("max_tokens", "stop", "seed", *Sampling._fields)
    }
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        if job.samples == 1 and job.stream:
            for piece in run.stream(prompt, **options):
                print(piece, end="", flush=True)
            print(flush=True)
        else:
            texts = run.generate(prompt, samples=job.samples, **options)
            print(*([texts] if job.samples == 1 else texts), sep="\n---\n", flush=True)
    except BrokenPipeError:
        # Python flushes standard output again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _prompt(job: GenerateJob) -> str:
    """job.prompt, or the content of job.prompt_file without its final line break."""
    if job.prompt_file is None:
        return job.prompt
    if job.prompt:
        raise UserError(
            f"job.prompt={job.prompt!r} and job.prompt_file={job.prompt_file} are both given.\n"
            "Remove one of them."
        )
    try:
        if job.prompt_file == "-":
            content = sys.stdin.buffer.read()
        else:
            content = expanded(job.prompt_file).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"job.prompt_file={job.prompt_file}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"job.prompt_file={job.prompt_file} is not UTF-8: byte {error.start:,} is "
            f"0x{content[error.start]:02x}.\n{advice(content, Path(job.prompt_file))}"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def logits_job(config: Config, load_engine: LoadEngine) -> int:
    """job=logits: write the float32 logits (B, L, V) of job.tokens to job.out."""
    tokens_BxL = _read_tokens(config.job.tokens)
    run = _open(config, load_engine)
    by_rows = run.logits_by_rows(tokens_BxL)
    by_rows = itertools.chain([next(by_rows)], by_rows)  # find bad ids before creating a file
    shape = (*tokens_BxL.shape, run.engine.model_config.vocab_size)
    out = expanded(config.job.out)
    _write_npy(out, shape, by_rows)
    print(f"logits {' x '.join(map(str, shape))}, float32, written to {out}", file=sys.stderr)
    return 0


def _write_npy(path: Path, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """Write a float32 .npy file of `shape` from its rows in order, completely or not at all."""
    try:
        with replacing(path) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(part.astype("<f4").tobytes())
    except OSError as error:
        raise UserError(f"Cannot write job.out={path}: {error.strerror}.") from None


def _read_tokens(name: str | None) -> np.ndarray:
    """The array of job.tokens. Raises UserError if it is not a .npy file."""
    if name is None:
        raise UserError("job=logits needs token ids.\nSet job.tokens=FILE.npy (batch x length).")
    try:
        tokens = np.load(expanded(name), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"No such file: job.tokens={name} (from {Path.cwd()}).") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"job.tokens={name} is not an intact .npy file: {error}") from None
    if not isinstance(tokens, np.ndarray):
        raise UserError(
            f"job.tokens={name} is an archive of arrays.\nGive a .npy file of one array."
        )
    return tokens
