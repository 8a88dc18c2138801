"""A text as its tokens come: whole characters, stop strings, and the sliding window."""

from collections.abc import Iterable

from jaxlm.data.spelling import StreamDecoder
from jaxlm.data.tokenizer import Tokenizer


class Continuation:
    """The text of one sample as its tokens come: whole characters, up to its end.

    It ends before end_of_text, or before the stop string that is complete first; `whole` says
    that it did, rather than that no more tokens came. `prompt` are the ids that it goes on from:
    the text is what further ids add to theirs.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Iterable[str], prompt: Iterable[int] = ()
    ) -> None:
        self.end_of_text, self.stop = tokenizer.end_of_text, list(stop)
        self.decoder, self.held = StreamDecoder(tokenizer, after=prompt), ""
        self.ended = self.whole = False

    def push(self, ids: Iterable[int]) -> str:
        """The text that is certain after these further ids; what may begin a stop string waits."""
        if self.ended:
            return ""
        ids = list(ids)
        if self.end_of_text in ids:
            self.whole = True
            text = self.decoder.push(ids[: ids.index(self.end_of_text)])
            return self._cut(text + self.decoder.finish(), last=True)
        return self._cut(self.decoder.push(ids), last=False)

    def finish(self) -> str:
        """What is left when no more tokens come."""
        return "" if self.ended else self._cut(self.decoder.finish(), last=True)

    def _cut(self, new: str, last: bool) -> str:
        text = self.held + new
        found = [(at + len(s), at) for s in self.stop if (at := text.find(s)) >= 0]
        self.ended, self.whole = last or bool(found), self.whole or bool(found)
        waiting = 0 if self.ended else max(map(lambda s: _overlap(text, s), self.stop), default=0)
        end = min(found)[1] if found else len(text) - waiting
        self.held = text[end:]
        return text[:end]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that begin `stop`."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


def window_start(text_length: int, context: int) -> int:
    """Where the window of a text of T tokens begins, when its next token is predicted.

    0 while the text fits. A full window moves on by half a context, so that each token is
    predicted from between C/2 and C tokens, and the cache is made anew only every C/2 tokens.
    """
    half = max(1, context // 2)
    return 0 if text_length <= context else -(-(text_length - context) // half) * half
