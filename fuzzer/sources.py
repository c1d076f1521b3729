"""The sources of choices: seeded for campaigns, recorded for replay and reduction. Hypothesis is in fuzzer.strategies."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Seeded:
    """A fast generator that records every choice it makes in `trail`."""

    def __init__(self, *seed: int | str) -> None:
        digest = hashlib.blake2b("/".join(map(str, seed)).encode(), digest_size=8).digest()
        self._random = random.Random(int.from_bytes(digest, "big")).random
        self.trail: list[int] = []

    def choose(self, n: int) -> int:
        value = int(self._random() * n)
        self.trail.append(value)
        return value


class Recorded:
    """Replays a list of choices; past its end, and where a choice no longer fits, the simplest one is taken.

    most   choices, after which RuntimeError is raised: where the simplest does not fit, a drawing may ask for ever
    spans  where the choices of one operator begin and end
    """

    def __init__(self, choices: Sequence[int], most: int = 1 << 20) -> None:
        self._choices, self._most = choices, most
        self.trail: list[int] = []
        self.spans: list[tuple[int, int]] = []

    def choose(self, n: int) -> int:
        at = len(self.trail)
        if at >= self._most:
            raise RuntimeError(f"a drawing does not end after {at} choices")
        value = min(self._choices[at], n - 1) if at < len(self._choices) else 0
        self.trail.append(value)
        return value

    def together(self, choosing: Callable[[], T]) -> T:
        """Choices that belong to one operator."""
        begin = len(self.trail)
        try:
            return choosing()
        finally:
            self.spans.append((begin, len(self.trail)))
