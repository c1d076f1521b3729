"""Detection against false positives for every threshold: our bounds and the rules of others, as JSON and, with matplotlib, as a picture."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import Figures, Scale, benchmark
from benchmarks.cases import Outputs, Prepared, answer, bits, stream
from benchmarks.noise import SIZES, implementations
from benchmarks.seeded import FIXED, TESTING, visible
from oracles.faults import faults
from specs.program import to_numpy

FOLDER = Path("build/curves")
RULES = ("ball", "spread", *FIXED, "testing", "same")
#: False positives per output at which the curves are compared.
RATES = (1e-2, 1e-3, 1e-4)


def scores(p: Prepared, name: str, got: Any, low: Any) -> dict[str, float]:
    """How far one output is beyond each rule: 1 where the rule as published would just report it."""
    want = p.expected[name]
    value, worst, spread = want.ball
    if not isinstance(value, torch.Tensor) or not isinstance(got, np.ndarray) or want.format is None or want.format.kind == "string" or not value.numel():
        return {}
    if tuple(got.shape) != tuple(value.shape):
        return {} if worst is not None and not bool((worst < math.inf).any()) else dict.fromkeys(RULES, math.inf)
    a, b = got.astype(np.float64), to_numpy(value, want.format).astype(np.float64)
    with np.errstate(all="ignore"):
        error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.nan_to_num(np.abs(a - b), nan=math.inf))
        found = dict.fromkeys(("ball", "spread"), math.inf if worst is None and error.any() else 0.0)
        if worst is not None:
            decided = (worst < math.inf).numpy() & np.isfinite(b)
            for rule, r, unit in (("ball", worst, 1.0), ("spread", spread, 2.0)):
                ratio = np.where(error == 0, 0.0, error / (unit * r.numpy()))
                found[rule] = float(np.nan_to_num(ratio[decided], nan=0.0, posinf=1e300).max(initial=0.0))
        for rule, (rtol, atol) in {**FIXED, "testing": TESTING.get(want.format.name, (1e-300, 1e-300))}.items():
            found[rule] = float(np.nan_to_num(error / (atol + rtol * np.abs(b)), nan=0.0, posinf=1e300).max(initial=0.0))
        found["same"] = _same(error, b, low, want.format.name)
    return found


def _same(error: np.ndarray, exact: np.ndarray, low: Any, form: str) -> float:
    """The factor by which the RMSE multiplier of torch._dynamo.utils.same would have to grow; 0 where the values are close."""
    tol = 1e-4 if form in ("float", "double") else 1e-3
    if bool((error <= tol + tol * np.abs(exact)).all()):
        return 0.0
    if not isinstance(low, np.ndarray) or low.shape != error.shape or form not in ("float", "double", "float16", "bfloat16"):
        return math.inf
    multiplier = 3.0 if form in ("float16", "bfloat16") or error.size < 1000 else 2.0
    ours, theirs = (float(np.sqrt(np.mean(np.nan_to_num(e, nan=1e150, posinf=1e150) ** 2))) for e in (error, np.abs(low.astype(np.float64) - exact)))
    return max(0.0, (ours - tol / 10) / max(multiplier * theirs, 1e-300))


def _clean(p: Prepared) -> list[dict[str, float]]:
    """Scores of every distinct answer of every legal variant."""
    found, seen = list[dict[str, float]](), set[Any]()
    answers = [answer(call, p.case) for _, call in implementations(p)]
    low = answers[0]
    for outputs in answers:
        for name in p.expected:
            if outputs is not None and (key := (name, bits(outputs[name]))) not in seen:
                seen.add(key)
                found.append(scores(p, name, outputs[name], (low or {}).get(name)))
    return [s for s in found if s]


def _worst(p: Prepared, outputs: Outputs, low: Outputs) -> dict[str, float]:
    found = [s for name in p.expected if (s := scores(p, name, outputs.get(name), low.get(name)))]
    return {rule: max((s[rule] for s in found), default=0.0) for rule in RULES}


def curve(clean: Sequence[float], faulty: Sequence[float]) -> list[tuple[float, float, float]]:
    """(threshold, false positives per clean output, share of faulty cases flagged), from strict to loose."""
    a, b = np.sort(clean), np.sort(faulty)
    at = np.unique(np.concatenate([np.geomspace(1e-4, 1e6, 101), [1.0]]))
    return [(float(t), float(1 - np.searchsorted(a, t, "right") / len(a)), float(1 - np.searchsorted(b, t, "right") / len(b))) for t in at]


@benchmark("curves")
def curves(scale: Scale) -> Figures:
    """For every rule the share of visible faults flagged where at most one clean output in 100, 1,000, 10,000 is.

    Published thresholds are 1 of each rule's score. Writes build/curves/curves.json and, if matplotlib is there, curves.png beside it.
    """
    clean = {"fp32": list[dict[str, float]](), "fp16": list[dict[str, float]]()}
    for p in stream("curves", scale.count(900, 20), SIZES):
        if p.kind in ("float", "double", "float16", "bfloat16"):
            clean["fp16" if "16" in p.kind else "fp32"] += _clean(p)
    faulty = {(s, k): list[dict[str, float]]() for s in ("gross", "subtle", "precision") for k in clean}
    for s in visible([n for n, f in faults().items() if f.severity != "legal"], scale.count(8, 1), scale.count(24, 2), seed="curves"):
        if not s.late and s.p.kind in ("float", "double", "float16", "bfloat16"):
            faulty[s.fault.severity, "fp16" if "16" in s.p.kind else "fp32"].append(_worst(s.p, s.outputs, s.healthy))
    lines: dict[str, list[tuple[float, float, float]]] = {}
    figures: Figures = {f"outputs_{k}": len(v) for k, v in clean.items()}
    for (severity, kind), cases in faulty.items():
        figures[f"cases_{severity}_{kind}"] = len(cases)
        for rule in RULES:
            if not cases or not clean[kind]:
                continue
            line = lines[f"{severity} {kind} {rule}"] = curve([s[rule] for s in clean[kind]], [c[rule] for c in cases])
            for rate in RATES:
                figures[f"share_{severity}_{kind}_{rule}_at_{rate:g}"] = max((y for _, x, y in line if x <= rate), default=0.0)
    _write(lines)
    return figures


def _write(lines: Mapping[str, list[tuple[float, float, float]]]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "curves.json").write_text(json.dumps(lines, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        print(f"  {FOLDER}/curves.json (for a picture: pip install matplotlib)")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds, severities = ("fp32", "fp16"), ("gross", "subtle", "precision")
    figure, axes = pyplot.subplots(len(kinds), len(severities), figsize=(13, 7.5), sharex=True, squeeze=False)
    for i, kind in enumerate(kinds):
        for j, severity in enumerate(severities):
            ax = axes[i][j]
            for rule in RULES:
                line = lines.get(f"{severity} {kind} {rule}", [])
                xs, ys = [max(x, 1e-5) for _, x, _ in line], [y for *_, y in line]
                ax.plot(xs, ys, label=rule, linewidth=2 if rule in ("ball", "spread") else 1, linestyle="-" if rule in ("ball", "spread") else "--")
                ax.plot([max(x, 1e-5) for t, x, _ in line if t == 1.0], [y for t, _, y in line if t == 1.0], "o", color=ax.lines[-1].get_color(), markersize=5)
            ax.set_xscale("log")
            ax.set_title(f"{severity}, {kind}")
            ax.set_xlabel("clean outputs accused")
            ax.set_ylabel("visible faults flagged")
    axes[0][0].legend(fontsize=8)
    figure.suptitle("Dots: each rule as published. Left of 1e-5: none.")
    figure.tight_layout()
    figure.savefig(FOLDER / "curves.png", dpi=110)
    pyplot.close(figure)
    print(f"  {FOLDER}/curves.png")
