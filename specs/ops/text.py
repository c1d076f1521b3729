"""Operators on strings (numpy object arrays) and the n-gram vectoriser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs.formats import FLOAT
from specs.numerics import EXACT, Policy, Radii, exact_whole, undecided
from specs.operator import meaning_only
from specs.program import Node
from specs.rule import Unsupported


def _normalise(a: Node, x: np.ndarray) -> np.ndarray:
    """Stop words go first, then the case changes; nothing left is one empty string."""
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(a.case_change_action or "NONE", str)
    fold = str if a.is_case_sensitive else str.lower
    stops = {fold(w) for w in a.stopwords or []}
    kept = [change(w) for w in x.reshape(-1).tolist() if fold(w) not in stops] or [""]
    return np.array(kept, dtype=object).reshape([-1] if x.ndim == 1 else [1, -1])


def _concatenate(a: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.asarray(x, dtype=object) + np.asarray(y, dtype=object), dtype=object)


def _split(a: Node, x: np.ndarray) -> tuple[np.ndarray, Tensor]:
    most = -1 if a.maxsplit is None else a.maxsplit
    rows = [s.split(a.delimiter or None, most) for s in x.reshape(-1).tolist()]
    if not a.delimiter and most >= 0:
        rows = [[*r[:-1], r[-1].rstrip()] if r else r for r in rows]  # the rest after the last split ends in no separator either
    widest = max(map(len, rows), default=0)
    y = np.full((len(rows), widest), "", dtype=object)
    for i, row in enumerate(rows):
        y[i, : len(row)] = row
    return y.reshape(*x.shape, widest), torch.tensor([len(r) for r in rows], dtype=torch.int64).reshape(x.shape)


def _matches(a: Node, x: np.ndarray) -> Tensor:
    try:
        pattern = re.compile(a.pattern or "")
    except re.error as e:
        raise Unsupported(f"RegexFullMatch: the pattern {a.pattern!r} is outside what RE2 and Python share ({e})") from e
    return torch.tensor([pattern.fullmatch(s) is not None for s in x.reshape(-1).tolist()], dtype=torch.bool).reshape(x.shape)


def _vectorise(a: Node, x: Any) -> Tensor:
    """Counts of the pool's n-grams, their tokens 1 to 1 + max_skip_count apart."""
    pool = a.pool_strings or a.pool_int64s or []
    known, at = dict[tuple[Any, ...], int](), 0
    starts = [*a.ngram_counts, len(pool)]
    for n, (begin, end) in enumerate(pairwise(starts), 1):
        for i in range(begin, end - n + 1, n):
            known[tuple(pool[i : i + n])] = at
            at += 1
    width = max(a.ngram_indexes) + 1
    rows = x.reshape(-1, x.shape[-1]).tolist() if x.ndim else []
    counts = torch.zeros((len(rows), width), dtype=torch.float64)
    for row, tokens in enumerate(rows):
        for n in range(a.min_gram_length, a.max_gram_length + 1):
            for step in range(1, 2 + (a.max_skip_count if n > 1 else 0)):
                for i in range(len(tokens) - (n - 1) * step):
                    found = known.get(tuple(tokens[i : i + (n - 1) * step + 1 : step]))
                    if found is not None:
                        counts[row, a.ngram_indexes[found]] += 1
    if a.mode != "TF":
        weights = torch.zeros(width, dtype=torch.float64)
        weights[torch.tensor(a.ngram_indexes)] = torch.tensor(a.weights or [1.0] * len(a.ngram_indexes), dtype=torch.float64)
        counts = (counts.clamp(max=1) if a.mode == "IDF" else counts) * weights
    return counts.reshape([width] if x.ndim == 1 else [-1, width]).to(a.torch(FLOAT))


def _vectorise_error(a: Node, policy: Policy, balls: Sequence[Any], ys: Sequence[Any]) -> Sequence[Radii]:
    """A count is exact; times a weight it is rounded once."""
    if balls[0].worst is not None and bool(balls[0].worst.any()):
        return [(undecided(ys[0]), undecided(ys[0]))]
    if a.mode == "TF" or not a.weights:
        return [EXACT]
    own = ys[0].abs().double() * policy.u(FLOAT)
    return [(own, own)]


meaning_only("StringNormalizer", _normalise, error=exact_whole)
meaning_only("StringConcat", _concatenate, error=exact_whole)
meaning_only("StringSplit", _split, error=exact_whole)
meaning_only("RegexFullMatch", _matches, error=exact_whole)
meaning_only("TfIdfVectorizer", _vectorise, error=_vectorise_error)
