"""Regression cases: real defects, found once, looked at, and kept with what has to be seen in them.

One folder each, named <backend>-<verdict>-<operators>-<format>: the case, and seed.json with what it shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from corpus.folders import put, put_arrays, put_before, put_json, stored_case
from oracles.records import Case
from specs.rule import UsageError

SEEDS = Path(__file__).parent / "seeds"  # those committed here


@dataclass(frozen=True)
class Seed:
    """What a regression case shows.

    version  of the backend, when it was found
    also     other verdicts under which the same may be seen: memory that nobody wrote looks like several things
    """

    backend: str
    setting: str
    verdict: str
    title: str
    version: str
    message: str = ""
    also: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Regression:
    path: Path
    seed: Seed

    @cached_property
    def case(self) -> Case:
        return stored_case(self.path)

    @property
    def shows(self) -> frozenset[str]:
        """Verdicts of which one has to be seen."""
        return frozenset((self.seed.verdict, *self.seed.also))

    def row(self) -> Mapping[str, Any]:
        return {"name": self.path.name, "path": str(self.path), **asdict(self.seed)}


def regressions(folder: Path = SEEDS) -> list[Regression]:
    """All of a folder, by name. Raises UsageError for a folder that has none, or one that cannot be read."""
    paths = sorted(folder.glob("*/seed.json"))
    if not paths:
        raise UsageError(f"{folder}: holds no regression cases (folders with a seed.json)")
    return [Regression(p.parent, _seed(p)) for p in paths]


def _seed(path: Path) -> Seed:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Seed)
    except (OSError, msgspec.DecodeError) as e:
        raise UsageError(f"{path}: is not readable ({e})") from None


def keep(case: Case, seed: Seed, ops: Sequence[str], form: str, folder: Path = SEEDS) -> Path:
    """Write a regression case; the path of an old one when the same case is there already."""
    stem = re.sub(r"[^a-z0-9]+", "-", "-".join([seed.backend, seed.verdict, *ops[:3], form]).lower()).strip("-")
    path, count = folder / stem, 1
    while path.exists():
        if stored_case(path).id == case.id:
            return path
        count += 1
        path = folder / f"{stem}-{count}"
    path.mkdir(parents=True)
    put(path / "model.onnx", case.model)
    put_arrays(path / "inputs.npz", case.inputs)
    put_before(path, case)
    put_json(path / "seed.json", {k: v for k, v in asdict(seed).items() if v or k == "message"})
    return path
