"""The longest run of items that a short text shares with a long one, exactly.

Every run of the short texts gets a number, and equal runs have equal numbers; a run of twice the
length is a pair of such numbers (Karp, Miller and Rosenberg, "Rapid identification of repeated
patterns in strings, trees and arrays", STOC 1972). Places of the long text whose run occurs in no
short one drop out on the way, so most of the work is on the shortest runs.

Legend: N items of the long text, M items of all short ones together, C remaining places.
"""

from collections.abc import Sequence

import numpy as np

_TABLE = 1 << 24  # up to so many possible pairs are looked up in a table instead of searched
_CHUNK = 1 << 22


def longest_common_runs(texts: Sequence[np.ndarray], long_N: np.ndarray) -> list[tuple[int, int]]:
    """(length, first place in the text) of the longest run of each text that `long_N` contains.

    Items are integers from 0 up, such as code points or numbers of words; (0, 0) if no item is
    shared. It takes about 12 bytes of memory for each item of `long_N`.
    """
    lengths = [len(text) for text in texts]
    own_M = np.concatenate([np.empty(0, np.int64), *texts]).astype(np.int64)
    start_M = np.repeat(np.cumsum([0, *lengths])[:-1], lengths)
    room_M = start_M + np.repeat(lengths, lengths) - np.arange(len(own_M))  # items left, incl. own
    best = [(0, 0)] * len(texts)
    if not len(own_M) or not len(long_N):
        return best
    bounds = np.cumsum([0, *lengths])
    spans = [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    level = _first_level(own_M, long_N)
    alive = [i for i, span in enumerate(spans) if level.own_M[span].any()]
    while alive:
        following = level.doubled(room_M)
        on = [i for i in alive if following.own_M[spans[i]].any()]
        ending = [i for i in alive if i not in on]
        at_C = np.flatnonzero(level.long_N) if ending else np.empty(0, np.int64)
        for i in ending:
            best[i] = _longest(level, level.own_M[spans[i]], at_C)
        level, alive = following, on
    return best


class _Level:
    """The numbers of all runs of one length: equal runs have equal ones, 0 means no common run."""

    def __init__(self, length: int, own_M: np.ndarray, long_N: np.ndarray) -> None:
        self.length, self.long_N, self.size = length, long_N, int(own_M.max(initial=0)) + 1
        found = np.zeros(self.size, bool)
        found[long_N] = True
        found[0] = False
        self.own_M = np.where(found[own_M], own_M, 0)

    def doubled(self, room_M: np.ndarray) -> "_Level":
        """The level of twice this length."""
        own_M = np.zeros(len(self.own_M), np.int32)
        at = np.flatnonzero((self.own_M > 0) & (room_M >= 2 * self.length))
        keys = self.pairs(self.own_M, at, self.length)
        at, keys = at[keys > 0], keys[keys > 0]
        known, own_M[at] = np.unique(keys, return_inverse=True)
        own_M[at] += 1
        long_N = np.zeros(len(self.long_N), np.int32)
        if not len(known):
            return _Level(2 * self.length, own_M, long_N)
        table = None
        if self.size**2 <= _TABLE:
            table = np.zeros(self.size**2, np.int32)
            table[known] = np.arange(1, len(known) + 1)
        for first in range(0, len(long_N) - self.length, _CHUNK):
            at = first + np.flatnonzero(self.long_N[first : first + _CHUNK])
            keys = self.pairs(self.long_N, at, self.length)
            if table is not None:
                long_N[at] = table[keys]
                continue
            place = np.searchsorted(known, keys)
            hit = known[np.minimum(place, len(known) - 1)] == keys
            long_N[at[hit]] = place[hit] + 1
        return _Level(2 * self.length, own_M, long_N)

    def pairs(self, numbers: np.ndarray, at: np.ndarray, distance: int) -> np.ndarray:
        """One key for the two runs at `at` and `distance` on; 0 if either is not common."""
        then = at + distance
        inside = then < len(numbers)
        second = np.where(inside, numbers[np.where(inside, then, 0)], 0).astype(np.int64)
        first = numbers[at].astype(np.int64)
        return np.where((first > 0) & (second > 0), first * self.size + second, 0)


def _first_level(own_M: np.ndarray, long_N: np.ndarray) -> _Level:
    known, numbers_M = np.unique(own_M, return_inverse=True)
    table = np.zeros(int(known[-1]) + 2, np.int32)
    table[known] = np.arange(1, len(known) + 1)
    found_N = np.empty(len(long_N), np.int32)
    for first in range(0, len(long_N), _CHUNK):
        part = np.minimum(long_N[first : first + _CHUNK], len(table) - 1)
        found_N[first : first + _CHUNK] = table[part]
    return _Level(1, (numbers_M + 1).astype(np.int32), found_N)


def _longest(level: _Level, own_T: np.ndarray, at_C: np.ndarray) -> tuple[int, int]:
    """(length, first place) for one text of T items, whose longest run is 1 to 2 levels long.

    A run of length n, level.length <= n < 2 level.length, is two overlapping runs of the level.
    """
    wanted = np.zeros(level.size, bool)
    wanted[own_T] = True
    at_C = at_C[wanted[level.long_N[at_C]]]
    length, place = level.length, int(np.argmax(own_T > 0))
    low, high = level.length, 2 * level.length - 1
    while low < high:
        middle = (low + high + 1) // 2
        distance = middle - level.length
        at_T = np.flatnonzero(own_T)
        own = level.pairs(own_T, at_T, distance)
        keys_C = level.pairs(level.long_N, at_C, distance)
        found = at_T[(own > 0) & np.isin(own, keys_C)]
        if len(found):
            low, length, place = middle, middle, int(found[0])
            at_C = at_C[np.isin(keys_C, own[own > 0])]
        else:
            high = middle - 1
    return length, place
