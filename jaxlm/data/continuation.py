"""Text from tokens as they arrive: whole characters, stop strings, and the sliding window."""

from collections.abc import Iterable

from jaxlm.data.spelling import StreamDecoder
from jaxlm.data.tokenizer import Tokenizer


class Continuation:
    """The text of one sample as its tokens arrive, in whole characters, up to its end.

    It ends before end_of_text, or before the first stop string to be completed; `whole` tells this
    apart from tokens that merely ran out. `prompt` holds the ids that it continues: the text is
    what further ids add to the prompt's.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Iterable[str], prompt: Iterable[int] = ()
    ) -> None:
        self.end_of_text, self.stop = tokenizer.end_of_text, list(stop)
        self.decoder, self.held = StreamDecoder(tokenizer, after=prompt), ""
        self.ended = self.whole = False

    def push(self, ids: Iterable[int]) -> str:
        """The text that is final after these ids; what may begin a stop string is held back."""
        if self.ended:
            return ""
        ids = list(ids)
        if self.end_of_text in ids:
            self.whole = True
            text = self.decoder.push(ids[: ids.index(self.end_of_text)])
            return self._cut(text + self.decoder.finish(), last=True)
        return self._cut(self.decoder.push(ids), last=False)

    def finish(self) -> str:
        """The remaining text, once there are no more tokens."""
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
    """The number of characters at the end of `text` that begin `stop`."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


def window_start(text_length: int, context: int) -> int:
    """The start of the window from which the token after a text is predicted.

    0 while the text fits. A full window advances by half the context length C, so that each token
    is predicted from between C/2 and C tokens, and the cache is rebuilt only every C/2 tokens.
    """
    half = max(1, context // 2)
    return 0 if text_length <= context else -(-(text_length - context) // half) * half
