"""What a campaign was asked to do: budget, selection, limits; and the sentences for what cannot be done."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oracles.plugin import Target
from specs.rule import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Budget:
    """Seconds or cases; exactly one of them is set."""

    seconds: float | None = None
    cases: int | None = None

    def __str__(self) -> str:
        return f"{self.cases} cases" if self.cases is not None else clock(self.seconds or 0)


@dataclass(frozen=True)
class Settings:
    """One campaign, as every worker of it is told."""

    budget: Budget
    out: Path
    targets: tuple[Target, ...]
    seed: int = 0
    max_nodes: int = 10
    names: frozenset[tuple[str, str]] | None = None
    blocks: frozenset[str] | None = None
    workers: int = 1
    timeout: float = 30.0
    memory: int = 4 * 2**30
    stop_on_first: bool = False


def parse_budget(text: str) -> Budget:
    """`90s`, `2m`, `1h30m`, `500cases`. Raises UsageError for anything else."""
    if m := re.fullmatch(r"(\d+)\s*cases?", text.strip()):
        return Budget(cases=int(m[1]))
    if (
        text.strip()
        and (m := re.fullmatch(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip()))
        and any(m.groups())
    ):
        seconds = sum(float(n) * f for n, f in zip(m.groups(), (86400, 3600, 60, 1), strict=True) if n)
        if seconds > 0:
            return Budget(seconds=seconds)
    raise UsageError(f"--budget '{text}': give a time (90s, 2m, 1h) or a number of cases (500cases)")


def parse_seconds(text: str, option: str = "--timeout") -> float:
    """`30s`, `2m`, `30`. Raises UsageError."""
    budget = parse_budget(text) if re.fullmatch(r"[\d.]+[smhd]?", text.strip()) else None
    if budget is None or budget.seconds is None:
        raise UsageError(f"{option} '{text}': give a time such as 30s or 2m")
    return budget.seconds


def parse_bytes(text: str, option: str = "--memory") -> int:
    """`4G`, `800M`. Raises UsageError."""
    m = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG])(?:i?B)?", text.strip(), re.IGNORECASE)
    if not m:
        raise UsageError(f"{option} '{text}': give a size such as 4G or 800M")
    return int(float(m[1]) * BYTES[m[2].upper()])


def lanes(text: str) -> int:
    """`auto` or a number: how many processes make cases. Raises UsageError."""
    if text == "auto":
        return max(1, len(os.sched_getaffinity(0)) // 2)
    if not text.isdigit() or not 1 <= int(text) <= 256:
        raise UsageError(f"--workers '{text}': give a number from 1 to 256, or auto")
    return int(text)


def select(patterns: str | None, known: Mapping[tuple[str, str], object]) -> frozenset[tuple[str, str]] | None:
    """Operators whose names match `conv*,!slice` (case does not matter); None for all. Raises UsageError when nothing matches."""
    if not patterns:
        return None
    found = _matching("--specs", patterns, [name for _, name in known], "operator", "specs")
    return frozenset(k for k in known if k[1] in found)


def select_blocks(patterns: str, specs: str = "") -> frozenset[str] | None:
    """Blocks whose ids match; None for all, none at all when operators were selected instead. Raises UsageError."""
    if patterns == "none" or (specs and not patterns):
        return frozenset()
    if not patterns:
        return None
    from specs.net import blocks

    return frozenset(_matching("--blocks", patterns, list(blocks()), "block", "blocks"))


def select_kernels(patterns: str, known: Mapping[str, object]) -> list[str]:
    """Kernels whose names match, all without patterns, in the order they are known. Raises UsageError when nothing matches.

    A planted defect has to be named: NAME!DEFECT.
    """
    usual = [name for name in known if "!" not in name or name in patterns]
    found = set(_matching("--kernels", patterns, usual, "kernel", "backends")) if patterns else set(usual)
    return [name for name in usual if name in found]


def _matching(option: str, patterns: str, known: Sequence[str], what: str, command: str) -> set[str]:
    parts = [p.strip() for p in patterns.split(",") if p.strip()]
    wanted = [p for p in parts if not p.startswith("!")] or ["*"]
    unwanted = [p[1:] for p in parts if p.startswith("!")]

    def matches(name: str, among: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name.lower(), p.lower()) for p in among)

    for p in [*wanted, *unwanted]:
        if not any(matches(name, [p]) for name in known):
            near = difflib.get_close_matches(p, known, n=1)
            raise UsageError(f"{option} '{p}' matches no {what}{f' (did you mean {near[0]}?)' if near else ''}; `fuzz {command}` lists them")
    found = {name for name in known if matches(name, wanted) and not matches(name, unwanted)}
    if not found:
        raise UsageError(f"{option} '{patterns}' leaves no {what}")
    return found


def clock(seconds: float) -> str:
    """00:12:44"""
    s = int(seconds)
    return f"{s // 3600:02d}:{s % 3600 // 60:02d}:{s % 60:02d}"
