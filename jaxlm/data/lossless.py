"""Whether ids decode to the text that they encode, and what is lost if they do not.

A document is compared as it will be decoded, without control ids: text that a tokenizer replaces
by `<unk>` is lost, even if the text itself contains `<unk>`.
"""

from collections import Counter
from typing import Any

import numpy as np

from jaxlm.data.spelling import StreamDecoder
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError

_SHOWN = 10
_KEPT = 100
_CONTEXT = 20


class Comparison:
    """Compares texts with what their ids spell, piece by piece, and counts what differs."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.characters, self.documents = 0, 0
        self.lost: Counter[str] = Counter()
        self.added: Counter[str] = Counter()
        self.first: Json | None = None
        self._is_text = np.ones(tokenizer.vocab_size, bool)
        self._is_text[list(tokenizer.control_ids)] = False
        self._begin()

    def _begin(self) -> None:
        self._decoder = StreamDecoder(self.tokenizer)
        self._text, self._decoded = "", ""  # not compared yet
        self._place = 0
        self._difference: Counter[str] | None = None

    def add(self, text: str, ids: np.ndarray, ends: bool = True) -> bool:
        """Compare a further piece, which ends its document if `ends`.

        Returns whether decoding has restored the document so far.
        """
        self.characters += len(text)
        self._text += text
        self._decoded += self._decoder.push(ids[self._is_text[ids]].tolist())
        if ends:
            self._decoded += self._decoder.finish()
        n = min(len(self._text), len(self._decoded))
        same = self._text[:n] == self._decoded[:n] and not (
            ends and len(self._text) != len(self._decoded)
        )
        if same and self._difference is None:
            self._text, self._decoded = self._text[n:], self._decoded[n:]
            self._place += n
        else:
            self._differ()
        same = self._difference is None
        if ends:
            self._end()
        return same

    def finish(self) -> None:
        """End the last document, unless it has ended."""
        if self._text or self._decoded or self._place or self._difference is not None:
            self.add("", np.empty(0, np.int32))

    def _differ(self) -> None:
        text, decoded = self._text, self._decoded
        if self._difference is None:
            self._difference = Counter()
            at = _common(text, decoded)
            self.first = self.first or {
                "document": self.documents + 1,
                "character": self._place + at + 1,
                "text": text[max(0, at - _CONTEXT) : at + _CONTEXT],
                "decoded": decoded[max(0, at - _CONTEXT) : at + _CONTEXT],
            }
        self._difference.update(text)
        self._difference.subtract(decoded)
        self._text = self._decoded = ""

    def _end(self) -> None:
        if self._difference is not None:
            self.lost += self._difference
            self.added += Counter({c: -n for c, n in self._difference.items()})
        self.documents += 1
        self._begin()

    def found(self) -> Json:
        """What is stored with a token file: characters compared, and `loss`, None without one."""
        loss = None
        if self.first is not None:
            loss = {"first": self.first} | {
                name: {
                    "characters": sum(counts.values()),
                    "kinds": len(counts),
                    "most_common": dict(counts.most_common(_KEPT)),
                }
                for name, counts in (("lost", self.lost), ("added", self.added))
            }
        return {"characters": self.characters, "documents": self.documents, "loss": loss}

    def refuse(self, what: str) -> None:
        """Raises UserError if anything was lost."""
        refuse_loss(self.found(), what)


def _common(a: str, b: str) -> int:
    """The length of the common prefix."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def refuse_loss(found: Json, what: str) -> None:
    """Raises UserError if `found`, from `Comparison.found`, reports a loss in `what`."""
    if found["loss"] is not None:
        first = found["loss"]["first"]
        where = f"character {first['character']:,}"
        where += f" of document {first['document']:,}" if found["documents"] > 1 else ""
        raise UserError(
            f"The tokenizer does not preserve {what}: {loss_in_words(found)}.\n"
            f"First at {where}: {first['text']!r} becomes {first['decoded']!r}.\n"
            "Use a tokenizer that preserves it (bpe, byte), or accept the loss with "
            "tokenizer.lossy=true."
        )


def loss_in_words(found: Json) -> str:
    """What is lost and added, with its share of the characters compared."""
    parts = []
    for name, verb in (("lost", "lost"), ("added", "added")):
        counts = found["loss"][name]
        if counts["characters"]:
            share = f"{100 * counts['characters'] / max(1, found['characters']):.3g}%"
            shown = list(counts["most_common"].items())[:_SHOWN]
            named = ", ".join(f"{character!r} {count:,} times" for character, count in shown)
            named += ", ..." if counts["kinds"] > len(shown) else ""
            parts.append(f"{share} of {found['characters']:,} characters are {verb} ({named})")
    return " and ".join(parts) or "characters change places"
