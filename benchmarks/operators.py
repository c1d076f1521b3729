"""How far the operators reach: what runs, what agrees, what is drawn, what a spec costs."""

from __future__ import annotations

import inspect
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import Figures, Scale, benchmark
from fuzzer.coverage import covered, fresh, table
from fuzzer.generate import generate_from
from fuzzer.grow import OPSETS, Menu, opsets
from fuzzer.menus import avoided
from fuzzer.sources import Seeded
from oracles.plugin import Target
from oracles.pool import run
from specs.operator import Operator, operators

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 2


@benchmark(
    "operators",
    share_of_drawn_models_that_run_on_onnxruntime=(">=", 0.90),
    share_of_node_tests_passed=(">=", 0.995),
    median_lines_of_a_drawing=("<=", 12.0),
    attribute_classes_never_drawn=("<=", 0.0),
    self_check_failures=("<=", 0.0),
    self_check_seconds=("<=", 240.0),
)
def operators_(scale: Scale) -> Figures:
    """Single-node models on ONNX Runtime, ONNX's own node tests, lines of drawings, attribute classes, the self-check."""
    figures = Figures(operators=len(operators()), operators_drawn=len(covered()))
    figures["share_of_drawn_models_that_run_on_onnxruntime"] = _running(scale.count(12, 1), frozenset(avoided("onnxruntime")))
    figures["share_that_runs_of_models_drawn_without_steering"] = _running(scale.count(12, 1), frozenset())
    passed, tests, random = _node_tests(scale.count(1, 25))
    figures["node_tests"] = tests
    figures["share_of_node_tests_passed"] = passed / (tests - random)
    figures["share_of_node_tests_passed_counting_random_samples"] = passed / tests
    lines = [_lines(o) for o in operators().values() if o.draw is not None]
    figures["median_lines_of_a_drawing"] = statistics.median(lines)
    figures["most_lines_of_a_drawing"] = max(lines)
    rows = table(fresh(scale.count(30000, 3000)))
    figures["operator_draws"] = sum(r["draws"] for r in rows)
    figures["attribute_classes"] = sum(len(r["attributes"]) for r in rows)
    figures["attribute_classes_never_drawn"] = sum(len(r["never"]) for r in rows)
    figures |= _self_check(scale.count(200, 3))
    return figures


def _running(draws: int, avoid: frozenset[str]) -> float:
    """Of models of one operator each, every operator of the opsets of campaigns equally often; drawn as for ONNX Runtime, or not."""
    ran = models = 0
    for op in (o for o in covered().values() if o.draw is not None and o.since <= max(OPSETS)):
        menu = Menu(frozenset([op.key]), opsets(op.since), avoid)
        for seed in range(draws):
            made = generate_from(Seeded("runs", op.domain, op.name, seed), 1, menu, wraps=False, check=False)
            if made.found.safe and made.network.steps:
                models += 1
                ran += all(o.status == "ok" for o in run(made.case, [Target("onnxruntime", ("off",))]))
    return ran / models


def _node_tests(every: int) -> tuple[int, int, int]:
    """(passed, all, random) of ONNX's node tests at their own tolerance; one without a meaning counts as failed.

    random: those that expect one sample of numpy's generator in the state it happened to be in, which nobody can compute.
    """
    from onnx.backend.test.loader import load_model_tests

    import specs
    from tests.specs.test_node_tests import EXCEPTIONS, array, similar

    passed = random = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")[::every]
        for case in tests:
            random += EXCEPTIONS.get(case.name, "").startswith("random:")
            assert case.model is not None and case.data_sets is not None
            try:
                for given, wanted in case.data_sets:
                    got = specs.run(case.model, {i.name: array(v) for i, v in zip(case.model.graph.input, given, strict=False)})
                    for o, want in zip(case.model.graph.output, wanted, strict=True):
                        similar(got[o.name], array(want), case.rtol, case.atol)
            except Exception:  # a wrong value, or anything that a meaning raises, is a failed test
                continue
            passed += 1
    return passed, len(tests), random


def _lines(op: Operator) -> int:
    """Lines of the function that draws an operator, its decorator included; what several operators share counts for each."""
    assert op.draw is not None
    return len(inspect.getsource(op.draw).splitlines())


def _self_check(draws: int) -> Figures:
    """The self-check of every drawn operator in two processes, as `python -m tests.specs.selfcheck` runs it."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    names = sorted({o.name for o in covered().values() if o.draw is not None})
    with ThreadPoolExecutor(PROCESSES) as pool:
        outputs = list(pool.map(lambda part: _checked(names[part::PROCESSES], draws), range(PROCESSES)))
    counts = Counter(line.split(" ")[0] for text in outputs for line in text.splitlines() if line.startswith(("ok ", "FAIL ")))
    for text in outputs:
        print("\n".join(line for line in text.splitlines() if line.startswith(("FAIL", "    "))), end="")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "self_check_operators": sum(counts.values()),
        "self_check_failures": counts["FAIL"],
        "self_check_seconds": time.perf_counter() - started,
        "self_check_cpu_seconds_per_process": spent / PROCESSES,  # what it takes where nothing else runs
    }


def _checked(names: list[str], draws: int) -> str:
    command = [sys.executable, "-m", "tests.specs.selfcheck", *names, "--draws", str(draws)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
