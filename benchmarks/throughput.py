"""Whole cases per second: generate, search, reference, run, judge."""

from __future__ import annotations

import time

from benchmarks import Figures, Scale, benchmark
from fuzzer.generate import generate_from
from fuzzer.grow import Menu
from fuzzer.menus import avoided
from fuzzer.process import settle
from fuzzer.sources import Seeded
from oracles.adjoint import weigher
from oracles.judge import judge_outcomes
from oracles.plugin import parse
from oracles.pool import run
from oracles.reference import reference


@benchmark("throughput", cases_per_second_onnxruntime=(">=", 60.0))
def throughput(scale: Scale) -> Figures:
    """10 nodes, ONNX Runtime with optimisation off and all, one worker, each case run twice at each level."""
    settle()
    targets, menu = parse("onnxruntime:off+all"), Menu(avoid=avoided("onnxruntime"))
    run(generate_from(Seeded("warm"), 1, menu).case, targets)
    spent = {"generate": 0.0, "reference": 0.0, "run": 0.0, "judge": 0.0}
    cases, start = 0, time.perf_counter()
    for i in range(scale.count(600, 30)):
        marks = [time.perf_counter()]
        made = generate_from(Seeded("throughput", i), 10, menu)
        marks.append(time.perf_counter())
        if not made.found.safe:
            continue
        expected = made.expected or reference(made.program, made.case.inputs)
        marks.append(time.perf_counter())
        outcomes = run(made.case, targets)
        marks.append(time.perf_counter())
        judge_outcomes(expected, outcomes, weigher(made.program, made.case.inputs))
        marks.append(time.perf_counter())
        for name, a, b in zip(spent, marks, marks[1:], strict=False):
            spent[name] += b - a
        cases += 1
    seconds = time.perf_counter() - start
    return {"cases_per_second_onnxruntime": cases / seconds, **{f"ms_{k}": v / cases * 1e3 for k, v in spent.items()}}
