"""Operators on strings (numpy object arrays) and the n-gram vectoriser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import FLOAT, INT32, INT64, STRING
from specs.numerics import EXACT, Policy, Radii, exact_whole, undecided
from specs.program import Node
from specs.rule import Unsupported
from specs.terms import broadcast

#: Words for stop lists and pools, a few of which the inputs of the campaign hold as well.
WORDS = ["a", "tea", "Tea", "two words", "x-y-z", ""]


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


# drawing ---------------------------------------------------------------------------------------------------------------
#: Patterns that RE2 and Python read alike.
PATTERNS = ["a.*", "", "[a-z]+", "(tea|Tea)?", r"\w*-\w*", ".{2,4}", r"[^\s]+\s?"]


@op("StringNormalizer", meaning=_normalise, error=exact_whole, weight=0.2)
def string_normalizer(g: Draw) -> Rule:
    """One row of words; how many are left depends on the words."""
    x = g.operand(like=[None] if g.flag(0.6) else [1, None], among=[STRING])
    attrs: dict[str, Any] = {}
    if g.flag(0.7):
        attrs["case_change_action"] = g.pick(["NONE", "LOWER", "UPPER"])
    if g.flag():
        attrs["is_case_sensitive"] = g.int(0, 1)
    if g.flag(0.7):
        attrs["stopwords"] = [g.pick(WORDS) for _ in range(g.int(1, 4))]
    if g.flag(0.2):
        attrs["locale"] = "en_US.UTF-8"
    return Rule([x], [[*x[:-1], None]], attrs)


@op("StringConcat", meaning=_concatenate, error=exact_whole, since=20, weight=0.2)
def string_concat(g: Draw) -> Rule:
    x = g.operand(low=0, among=[STRING])
    y = g.broadcastable(x, among=[STRING])
    return Rule([x, y], [broadcast(x, y)])


@op("StringSplit", meaning=_split, error=exact_whole, since=20, weight=0.2)
def string_split(g: Draw) -> Rule:
    """Rows are padded to the longest, which the words decide."""
    x = g.operand(among=[STRING])
    attrs: dict[str, Any] = {}
    if g.flag(0.7):
        attrs["delimiter"] = g.pick(["-", " ", "", "ea"])
    if g.flag():
        attrs["maxsplit"] = g.int(-1, 3)
    return Rule([x], [[*x, None], x], attrs)


@op("RegexFullMatch", meaning=_matches, error=exact_whole, since=20, weight=0.2)
def regex_full_match(g: Draw) -> Rule:
    x = g.operand(low=0, among=[STRING])
    return Rule([x], [x], {"pattern": g.pick(PATTERNS)})


@op("TfIdfVectorizer", meaning=_vectorise, error=_vectorise_error, weight=0.3)
def tf_idf_vectorizer(g: Draw) -> Rule:
    """A pool of one to three lengths of n-grams, of numbers or words, some of them skipping tokens."""
    form = g.type("T", among=[STRING] if g.flag(0.3) else [INT64, INT32])
    longest = g.int(1, 3)
    x = g.given([g.int(1, 12)] if g.flag() else [g.int(1, 4), g.int(1, 12)], 0, 5) if form is not STRING else g.operand(rank=(1, 2))
    pools = [
        list(dict.fromkeys(tuple(g.pick(WORDS) if form is STRING else g.int(0, 5) for _ in range(n)) for _ in range(g.int(1, 4))))
        for n in range(1, longest + 1)
    ]
    counts = [sum(n * len(pools[n - 1]) for n in range(1, k)) for k in range(1, longest + 1)]
    grams = sum(map(len, pools))
    flat = [token for pool in pools for gram in pool for token in gram]
    attrs: dict[str, Any] = {"mode": g.pick(["TF", "IDF", "TFIDF"]), "ngram_counts": counts, "ngram_indexes": g.permutation(grams)}
    attrs["pool_strings" if form is STRING else "pool_int64s"] = flat
    attrs["min_gram_length"] = g.int(1, longest)
    attrs["max_gram_length"] = g.int(attrs["min_gram_length"], longest)
    attrs["max_skip_count"] = g.int(0, 2)
    if g.flag():
        attrs["weights"] = [g.int(1, 8) / 4 for _ in range(grams)]
    return Rule([x], [[*x[:-1], grams]], attrs)
