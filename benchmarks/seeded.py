"""Visible cases of seeded faults: networks around the operators that have faults, each run with a fault and without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from benchmarks.cases import Outputs, Prepared, answer, bits, prepared
from fuzzer.grow import PALETTES, Menu
from fuzzer.sources import Seeded
from oracles.backends.faulty import with_fault
from oracles.faults import Fault, faults
from oracles.judge import judge_outcomes
from oracles.records import Outcome, Verdict
from oracles.rewriting import Run
from specs.operator import operators
from specs.program import to_numpy

SIZES = (1, 1, 2, 3, 5, 10)
#: Drawn beside the operator in question.
COMPANY = (
    "Add",
    "Mul",
    "Relu",
    "MatMul",
    "Conv",
    "Transpose",
    "Reshape",
    "Softmax",
    "Concat",
    "Sigmoid",
    "Sub",
    "ReduceMean",
    "Gather",
    "Clip",
    "Cast",
    "LayerNormalization",
    "Where",
)
#: Operators a fault needs in front of its own to have an effect.
BEFORE = {"relu-clip-fused": ("Relu",), "transpose-through-reshape": ("Transpose",), "transposes-cancelled": ("Transpose",), "casts-cancelled": ("Cast",),
          "bias-into-conv": ("Conv", "MatMul", "Gemm"), "attributes-ignored-by-cse": ("Softmax", "CumSum")}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One visible case: what the backend with the fault answered, once and again."""

    fault: Fault
    p: Prepared
    outputs: Outputs
    again: Outputs | None
    healthy: Outputs
    late: bool = False  # only the second run is wrong, which rules that look at one run cannot see

    def outcome(self) -> Outcome:
        return Outcome("faulty", self.fault.name, "ok", self.outputs, self.again)

    def verdicts(self) -> list[Verdict]:
        return judge_outcomes(self.p.expected, [self.outcome()], self.p.weigh)


def visible(names: list[str], each: int, tries: int, seed: str = "seeded", counts: Counter[str] | None = None) -> Iterator[Seen]:
    """Up to `each` visible cases of every fault named, from at most `tries` networks around each operator.

    Visible: another bit in some output than without the fault, at the first run or at the second; for gross and subtle faults a
    change that is more than a rounding (`_moved`), as Softmax without its maximum is a legal formula until something overflows.
    A network is used for every fault that has a place in it.
    """
    torch.set_num_threads(1)
    known = {n: faults()[n] for n in names}
    found, tried = Counter[str](), counts if counts is not None else Counter[str]()
    for op, menu, turn in _menus(known, tries):
        open_ = [f for f in known.values() if found[f.name] < each and (op in f.ops or not f.ops)]
        if not open_ or (p := prepared(_seed(seed, op, turn), SIZES[turn % len(SIZES)], menu, 1024)) is None or op not in p.ops:
            continue
        healthy = answer(with_fault(p.case.model, None), p.case)
        if healthy is None:
            continue
        for f in open_:
            tried[f.name] += 1
            seen = _run(f, p, healthy)
            if seen is not None:
                found[f.name] += 1
                yield seen


def _menus(known: Mapping[str, Fault], tries: int) -> Iterator[tuple[str, Menu, int]]:
    by_op: dict[str, list[str]] = {}
    for f in known.values():
        for op in f.ops or ("Softmax", "CumSum"):
            by_op.setdefault(op, []).append(f.name.split(":")[0])
    for turn in range(tries):
        for op, kinds in by_op.items():
            source = Seeded("company", op, turn)
            beside = [COMPANY[source.choose(len(COMPANY))] for _ in range(4)] if SIZES[turn % len(SIZES)] > 1 else []
            if turn % 3 == 2:
                beside = [b for k in kinds for b in BEFORE.get(k, ())] or beside
            yield op, _menu((op, *beside)), turn


@lru_cache(maxsize=4096)
def _menu(names: tuple[str, ...]) -> Menu:
    return Menu(frozenset(k for k in operators() if k[0] == "" and k[1] in names))


def _seed(seed: str, op: str, turn: int) -> tuple[object, ...]:
    """Every third network prefers halves: the campaign's palettes have few of them. (A network begins with its opset and palette.)"""
    for k in range(64):
        source = Seeded(seed, op, str(turn), str(k))
        source.choose(1)
        if turn % 3 != 1 or PALETTES[source.choose(len(PALETTES))][0].name == "float16":
            return (seed, op, turn, k)
    return (seed, op, turn, 0)


def _run(f: Fault, p: Prepared, healthy: Outputs) -> Seen | None:
    touched = [False]

    def at(run: Run, node: Any, args: list[Any]) -> Any:
        result = f.at(run, node, args)
        touched[0] |= result is not None
        return result

    call = with_fault(p.case.model, at)
    outputs = answer(call, p.case)
    if outputs is None or not touched[0]:
        return None
    again = answer(call, p.case)
    right = {k: bits(v) for k, v in healthy.items()}
    first, second = ({k: bits(v) for k, v in o.items()} for o in (outputs, again or {}))
    if first == right and second == right:
        return None
    if f.severity in ("gross", "subtle") and not any(_moved(p, healthy, o) for o in (outputs, again or {})):
        return None
    return Seen(f, p, outputs, again if second != first else None, healthy, first == right)


def _moved(p: Prepared, healthy: Outputs, outputs: Outputs) -> bool:
    """Some element changed by more than 32 roundings of itself and of the array's root mean square; any change of an integer counts."""
    for name, got in outputs.items():
        want, form = healthy[name], p.expected[name].format
        if not isinstance(got, np.ndarray) or form is None or not form.is_float or got.shape != want.shape or not got.size:
            if bits(got) != bits(want):
                return True
            continue
        a, b = got.astype(np.float64), want.astype(np.float64)
        with np.errstate(all="ignore"):
            room = 32 * form.u * (np.abs(b) + np.sqrt(np.mean(np.square(b))))
            if bool(((np.isnan(a) != np.isnan(b)) | (np.abs(a - b) > room)).any()):
                return True
    return False


def flagged(verdicts: list[Verdict]) -> bool:
    return any(v.is_finding for v in verdicts)


# the rules of others -----------------------------------------------------------------------------------------------------
TESTING = {"float16": (1e-3, 1e-5), "bfloat16": (1.6e-2, 1e-5), "float": (1.3e-6, 1e-5), "double": (1e-7, 1e-7)}
FIXED = {"1e-2 1e-3": (1e-2, 1e-3), "1e-3 1e-7": (1e-3, 1e-7)}


def peers(p: Prepared, outputs: Outputs, low: Outputs | None) -> dict[str, bool]:
    """What the rules of others say of these outputs: True where they would report.

    "1e-2 1e-3" NNSmith's (rtol, atol); "1e-3 1e-7" that of ONNX's own tests; "testing" torch.testing's table by type; "same" the
    rule of torch._dynamo.utils.same: close at 1e-4, or an RMSE against float64 of at most 2 (3) times that of `low`, plus 1e-5.
    """
    said = dict.fromkeys([*FIXED, "testing", "same"], False)
    for name, want in p.expected.items():
        got, value = outputs.get(name), want.ball.value
        if not isinstance(value, torch.Tensor) or not isinstance(got, np.ndarray) or want.format is None or not value.numel() or want.format.kind == "string":
            continue
        if tuple(got.shape) != tuple(value.shape):
            said = dict.fromkeys(said, True)
            continue
        a, b = got.astype(np.float64), to_numpy(value, want.format).astype(np.float64)
        for rule, (rtol, atol) in {**FIXED, "testing": TESTING.get(want.format.name, (0.0, 0.0))}.items():
            said[rule] |= not np.allclose(a, b, rtol, atol, equal_nan=True)
        said["same"] |= not _same(a, b, (low or {}).get(name), want.format.name)
    return said


def _same(got: np.ndarray, exact: np.ndarray, low: Any, form: str) -> bool:
    tol = 1e-4 if form in ("float", "double") else 1e-3
    if np.allclose(got, exact, tol, tol, equal_nan=True):
        return True
    if form not in ("float", "double", "float16", "bfloat16") or not isinstance(low, np.ndarray) or low.shape != got.shape:
        return False
    with np.errstate(all="ignore"):
        ours, theirs = (float(np.sqrt(np.mean((a - exact) ** 2))) for a in (got, low.astype(np.float64)))
    multiplier = 3.0 if form in ("float16", "bfloat16") or got.size < 1000 else 2.0
    return bool(ours <= multiplier * theirs + tol / 10) or (np.isnan(theirs) and not np.isnan(ours))


def strict(verdicts: list[Verdict]) -> bool:
    """Certified findings alone."""
    return any(v.is_finding and v.grade != "likely" for v in verdicts)
