"""Head against base by processor time: native kernels called in turn on the same tensors, with a 95 % confidence interval of the ratio.

The interval is that of a median by order statistics (the sign test), so that a machine's hiccups cost width and not truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fuzzer.gating.aim import Aim
from fuzzer.gating.changes import Before
from oracles.before import moved
from oracles.kernel import FUNCTIONS, Kernel
from oracles.native import Native
from oracles.records import Case
from oracles.rewriting import Run, listed
from oracles.variants import variants
from specs.program import Call, Program, to_numpy
from specs.rule import Unsupported

ROUNDS = 41  # of head and base in turn; the interval leaves out the outer 14 on each side
OUTER = 13
LEAST = 1e-3  # seconds of one sample: shorter calls are repeated within it
DRAWS = 16
SHAPES = 3  # the largest of the draws


@dataclass(frozen=True)
class Pace:
    """Time of head over time of base: median and ends of the 95 % interval over rounds, each round the mean over shapes."""

    kernel: str
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    shapes: int = 0
    problem: str = ""

    def slower(self, percent: float) -> bool:
        """Slower by more than this with 97.5 % confidence."""
        return self.low > 1 + percent / 100

    def line(self) -> str:
        if self.problem:
            return f"{self.kernel}: not timed: {self.problem}"
        middle, low, high = (f"{100 * (r - 1):+.1f}" for r in (self.ratio, self.low, self.high))
        return f"{self.kernel}: {middle} % time against base (95 %: {low} to {high}), {self.shapes} shapes"


def paces(kernels: Mapping[str, Kernel], base: Before | None, seed: int, say: Callable[[str], None]) -> list[Pace]:
    """Every native kernel with a source, on shapes as large as the drawing gives."""
    found = list[Pace]()
    for name, kernel in kernels.items():
        say(f"{name}: timing")
        if base is None:
            found.append(Pace(name, problem="there is no base to compare with"))
        elif kernel.form != "native" or kernel.source is None:
            found.append(Pace(name, problem=f"only C++ kernels with a source are timed, this one is of the form {kernel.form}"))
        else:
            then = moved(kernel.source, base.folder, base.root)
            found.append(_pace(kernel, replace(kernel, source=then), seed) if then.is_file() else Pace(name, problem="base does not have it"))
    return found


def _pace(head: Kernel, base: Kernel, seed: int) -> Pace:
    try:
        new, old = Native(head), Native(base)
    except (RuntimeError, Unsupported) as e:
        return Pace(head.name, problem=str(e))
    places = _places(head, seed)
    pairs = [(new.timed(*p), old.timed(*p)) for p in places]
    pairs = [(a, b) for a, b in pairs if a() == 0 and b() == 0]
    if not pairs:
        return Pace(head.name, problem="no case was drawn on which both run")
    rounds = sorted(math.exp(sum(logs) / len(logs)) for logs in zip(*(_ratios(a, b) for a, b in pairs), strict=True))
    return Pace(head.name, rounds[ROUNDS // 2], rounds[OUTER], rounds[ROUNDS - 1 - OUTER], len(pairs))


def _ratios(a: Callable[[], int], b: Callable[[], int]) -> list[float]:
    """Logarithms of the ratio of the times of `a` and `b`, one a round; who begins alternates."""
    repeat = max(1, math.ceil(LEAST / max(1e-7, min(_time(a, 3) / 3, _time(b, 3) / 3))))
    logs = list[float]()
    for k in range(ROUNDS):
        order = (a, b) if k % 2 == 0 else (b, a)
        first, second = (_time(f, repeat) for f in order)
        logs.append(math.log(first / second) * (1 if k % 2 == 0 else -1))
    return logs


def _time(f: Callable[[], int], repeat: int) -> float:
    """Seconds of the processor, in this thread: kernels are called with one, and a busy machine takes none of them."""
    started = time.thread_time()
    for _ in range(repeat):
        f()
    return max(1e-9, time.thread_time() - started)


def _places(kernel: Kernel, seed: int) -> list[tuple[Any, ...]]:
    """(attributes, inputs, outputs, types) of the largest calls among some draws."""
    aim = Aim(kernel, seed, large=True)
    cases = [made.case for _ in range(DRAWS) if (made := aim.next()) is not None]
    found = [place for case in cases if (place := place_of(kernel, case)) is not None]
    return sorted(found, key=lambda p: -sum(a.size for a in (*p[1], *p[2]) if a is not None))[:SHAPES]


def place_of(kernel: Kernel, case: Case) -> tuple[Any, ...] | None:
    """What the kernel is called with at the first node of a case where it applies."""
    found = list[tuple[Any, ...]]()
    plain = variants()["halves-in-float"].at

    def look(run: Run, node: Any, args: list[Any]) -> Any:
        results = node.evaluate(args, run) if isinstance(node, Call) else None
        if not found and kernel.applies(node, args):
            values: Sequence[Any] = results if results is not None else listed(run.honest(node, args))
            ins = [None if a is None else to_numpy(a, f) for a, f in zip(args, node.in_formats, strict=True)]
            outs = [None if not o else to_numpy(v, f) for o, v, f in zip(node.outputs, values, node.out_formats, strict=False)]
            types = [0 if f is None else f.onnx for f in node.in_formats], [0 if f is None else f.onnx for f in node.out_formats]
            found.append((dict(node.attrs), ins, outs, types))
        return results

    program = Program(case.model, keep=frozenset({FUNCTIONS}))
    with torch.no_grad():
        program.run(program.feeds(case.inputs), Run(look, base=plain))
    return found[0] if found else None
