"""The gate: how soon planted defects of the shipped kernels are found, and how often kernels that did not change are accused."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import Figures, Scale, benchmark
from fuzzer.gate import Gate, Order, Result
from fuzzer.gating.asking import Asking
from fuzzer.settings import Budget
from oracles.kernel import Kernel, kernels

LIMIT, SOON = 300.0, 60.0  # seconds
#: Words in the names of defects that only cost digits; all others are gross.
SUBTLE = ("bfloat16", "half", "accumulator", "rounding", "single", "carry", "up")
CASES = 12  # fresh ones of a gate on a kernel that did not change
MEMORY = 4 << 30


@benchmark(
    "gate",
    defects=(">=", 60),
    share_found_in_5_min=(">=", 0.97),
    share_gross_found_in_1_min=(">=", 1.0),
    false_reds=("<=", 0),
)
def gate(scale: Scale) -> Figures:
    """Each defect by a gate of its own that ends at the first cause; the seconds count from the first replay to the verdict.

    The kernels as they are: 200 short gates with seeds of their own, none of which may be red.
    """
    shipped = [k for k in kernels().values() if k.shipped]
    chosen = [(k, d) for k in shipped for d in k.defects]
    asking = Asking(60.0, MEMORY)
    try:
        seconds = {f"{k.name}!{d}": _found(asking, k, d, seed) for seed, (k, d) in enumerate(chosen[:: scale.count(1, 16)])}
        unchanged = [_gate(asking, {shipped[i % len(shipped)].name: shipped[i % len(shipped)]}, Budget(cases=CASES), i) for i in range(scale.count(200, 8))]
    finally:
        asking.close()
    gross = {name: s for name, s in seconds.items() if not any(word in name.partition("!")[2].split("-") for word in SUBTLE)}
    _table("not found in time", [f"{n} ({s:.0f} s)" for n, s in seconds.items() if s > (SOON if n in gross else LIMIT)])
    _table("false reds", [f"{f.kernel} seed {r.order.seed}: {f.finding.name}" for r in unchanged for f in r.red])
    return {
        "defects": len(chosen),
        "defects_tried": len(seconds),
        "share_found_in_5_min": _share(list(seconds.values()), LIMIT),
        "share_gross_found_in_1_min": _share(list(gross.values()), SOON),
        "median_s_to_verdict": statistics.median(seconds.values()),
        "largest_s_to_verdict": max(seconds.values()),
        "gates_unchanged": len(unchanged),
        "false_reds": sum(bool(r.red) for r in unchanged),
        "kernels_untested": len({n for r in unchanged for n in r.nothing}),
        "mean_s_of_gate_unchanged": statistics.mean(r.seconds for r in unchanged),
    }


def _found(asking: Asking, kernel: Kernel, defect: str, seed: int) -> float:
    """Seconds until the gate is red; infinity when it is not within the limit."""
    result = _gate(asking, {f"{kernel.name}!{defect}": kernel}, Budget(seconds=LIMIT), seed)
    if "FUZZ_BENCH_VERBOSE" in os.environ:
        what = ", ".join(f"{f.state} {f.finding.name} {f.finding.verdict.message[:80]}" for f in result.found) or "nothing"
        cases = sum(t.cases for t in result.tested.values())
        print(f"    {kernel.name}!{defect}: {result.seconds:.1f} s, {cases} cases: {what} {result.ours}", flush=True)
    return result.seconds if result.red else float("inf")


def _gate(asking: Asking, chosen: dict[str, Kernel], budget: Budget, seed: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="fuzz-bench-") as folder:
        began = time.monotonic()
        result = Gate(Order(chosen, budget, seed, Path(folder), first=True, timeout=60.0, memory=MEMORY), asking=asking).run()
        result.seconds = time.monotonic() - began
        return result


def _share(seconds: list[float], limit: float) -> float:
    return sum(s <= limit for s in seconds) / max(1, len(seconds))


def _table(title: str, lines: list[str]) -> None:
    for line in lines:
        print(f"    {title}: {line}")
