"""One check for every operator: four views of the same draw must agree.

solved shapes - ONNX's strict shape inference - onnx.reference - our torch meaning, plus ONNX Runtime where it implements
the operator. Values are compared with the float64 reference and its certified bound, so the bound is checked as well.

    python -m tests.specs.selfcheck Conv MaxPool --draws 200
    python -m tests.specs.selfcheck Conv --show 17
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import torch

from fuzzer.generate import Generated, generate_from
from fuzzer.grow import LATER, Menu, opsets
from fuzzer.sources import Seeded
from oracles.adjoint import weigher
from oracles.backends.onnxruntime import onnxruntime, warm
from oracles.compare import compare
from oracles.reference import balls, reference
from specs.formats import FLOAT
from specs.numerics import Ball
from specs.operator import Operator, operators
from specs.program import Program, run
from specs.rule import Unsupported

EXCEPTIONS = Path(__file__).parent / "exceptions.json"
BAD = ("wrong", "nonfinite", "mistyped")


@lru_cache(maxsize=1)
def exceptions() -> dict[str, dict[str, str]]:
    """Views known to be wrong for an operator: {view: {operator: reason}}. Read by the tests, written by hand.

    The operator may carry conditions: `ReduceSum, size 0` when a value is empty (size 1: has a dim of 1), `LRN, opset 13`, `LogSoftmax, float16`,
    `LpPool, auto_pad SAME_LOWER, with dilations`.
    """
    return json.loads(EXCEPTIONS.read_text()) if EXCEPTIONS.exists() else {}


def draw_one(op: Operator, seed: int) -> Generated | None:
    """A model with one node of this operator, now and then at an opset that only ONNX and we know; None when the drawing found no fit."""
    newest = () if op.domain else tuple(o for o in LATER if o >= op.since)
    menu = Menu(names=frozenset([op.key]), opsets=newest if newest and seed % 16 == 15 else opsets(op.since))
    made = generate_from(Seeded(op.name, seed), 1, menu, elements=1024, check=False, wraps=False)
    return made if any(s.op == op.name for s in made.network.steps) else None


def check_one(op: Operator, seed: int, tally: Counter[str]) -> list[str]:
    """What is wrong with one draw; `tally` counts what each view did."""
    made = draw_one(op, seed)
    if made is None:
        tally["misfit"] += 1
        return []
    tally["drawn"] += 1
    model, inputs = made.case.model, made.case.inputs
    problems = list[str]()
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as e:
        return [f"checker: {_line(e)}"]
    if not made.found.safe:
        tally["unsafe"] += 1
    program = Program(model, torch.float64)
    expected = reference(program, inputs)
    for v in made.network.outputs:
        want = expected[v.name].ball.value
        if isinstance(want, torch.Tensor) and None not in v.shape and tuple(want.shape) != v.shape:
            problems.append(f"meaning: shape {tuple(want.shape)} of {v.name}, solved {v.shape}")
        ball = expected[v.name].ball
        if ball.worst is not None and ball.worst.numel() and bool((ball.worst == torch.inf).all()):
            tally["undecided"] += 1
    problems += _propagation(program, inputs, seed, tally)
    weigh = weigher(program, inputs)
    views = {"torch": lambda: run(model, inputs), "onnx.reference": lambda: _onnx_reference(model, inputs), "onnxruntime": lambda: _ort(model, inputs)}
    for view, compute in views.items():
        if _excused(op, made, exceptions().get(view, {})):
            continue
        try:
            got = compute()
        except Unsupported:
            tally[f"{view} unsupported"] += 1
            continue
        except Exception as e:
            tally[f"{view} failed"] += 1
            if view == "torch":
                problems.append(f"torch: {_line(e)}")
            elif view == "onnx.reference":
                tally[f"onnx.reference: {_line(e)[:70]}"] += 1
            continue
        tally[f"{view} ran"] += 1
        for name, want in expected.items():
            verdict = weigh(compare(view, "", name, want, got.get(name)))
            if verdict.verdict in BAD and not _excused(op, made, exceptions().get(view, {}), verdict.verdict):
                where = f"{name}{list(verdict.element or ())} got {verdict.got} expected {verdict.expected} bound {verdict.bound}"
                problems.append(f"{view}: {verdict.verdict} {where} {verdict.message}")
    return problems


def _excused(op: Operator, made: Generated, excuses: Mapping[str, str], verdict: str = "") -> bool:
    values = made.network.values
    conditions = {verdict, f"opset {made.network.opset}", *(v.format.name for v in values), *(f"size {n}" for n in (0, 1) if any(n in v.shape for v in values))}
    for step in made.network.steps:
        conditions |= {f"{name} {value}" if isinstance(value, str) else f"with {name}" for name, value in step.attrs.items()}
    return any(name == op.name and conditions.issuperset(needed) for name, *needed in (key.split(", ") for key in excuses))


def _propagation(program: Program, inputs: Mapping[str, np.ndarray], seed: int, tally: Counter[str]) -> list[str]:
    """Inputs moved anywhere inside a radius must give outputs inside the radius the error rule makes of it."""
    rng = torch.Generator().manual_seed(seed)
    exact = program.feeds(inputs)
    size = 2.0 ** -(4 + seed % 24)
    feeds, radii = dict[str, Ball](), dict[str, torch.Tensor]()
    for name, x in exact.items():
        if isinstance(x, torch.Tensor) and x.is_floating_point() and (program.inputs[name][0] or FLOAT).bits >= 16:
            radii[name] = (x.abs() + 2.0**-8) * size
            feeds[name] = Ball(x, radii[name], radii[name] / 2)
        else:
            feeds[name] = Ball(x)
    if not radii:
        return []
    expected = balls(program, feeds)
    for trial in range(3):
        moved = dict(exact)
        for name, r in radii.items():
            step = torch.rand(r.shape, generator=rng, dtype=torch.float64) * 2 - 1
            moved[name] = exact[name] + r * (step if trial else step.sign())
        with torch.no_grad():
            got = program.run(moved)
        for name, want in expected.items():
            value, worst, _ = want.ball
            if not isinstance(value, torch.Tensor) or not value.numel():
                continue
            away = (got[name].double() - value.double()).abs() if got[name].shape == value.shape else torch.full(value.shape, torch.inf)
            bound = torch.zeros(value.shape, dtype=torch.float64) if worst is None else worst
            outside = ~(away <= bound * (1 + 1e-9) + value.double().abs() * 1e-13) & (bound < torch.inf)
            if bool(outside.any()):
                at = int(outside.flatten().double().argmax())
                far, near = float(away.flatten()[at]), float(bound.flatten()[at])
                return [f"propagation: inputs moved by {size:g} relative move {name}[{at}] by {far:g}, its radius is {near:g}"]
        tally["propagated"] += trial == 0
    return []


def _line(e: Exception) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())[:220]}"


def _onnx_reference(model: bytes, inputs: object) -> dict[str, np.ndarray]:
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(model))
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))  # type: ignore[call-overload]


def _ort(model: bytes, inputs: object) -> dict[str, np.ndarray]:
    try:
        compiled = onnxruntime(model, "off")
    except Exception as e:
        raise Unsupported(str(e)) from e
    return compiled(inputs)  # type: ignore[arg-type, return-value]


def show(op: Operator, seed: int) -> str:
    """The text of one drawn model, for the message of a failing test."""
    made = draw_one(op, seed)
    return onnx.printer.to_text(onnx.load_from_string(made.case.model)) if made else "no draw"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--show", type=int, metavar="SEED", help="print the model of one seed and check only that")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    warm()
    bad = 0
    for (_, name), op in sorted(operators().items()):
        if op.draw is None or (arguments.ops and name not in arguments.ops):
            continue
        if arguments.show is not None:
            print(show(op, arguments.show))
        tally, failures = Counter[str](), list[str]()
        for seed in range(arguments.draws) if arguments.show is None else [arguments.show]:
            try:
                failures += [f"seed {seed}: {p}" for p in check_one(op, seed, tally)]
            except Exception as e:
                failures.append(f"seed {seed}: raised {_line(e)}")
        print(f"{'FAIL' if failures else 'ok  '} {name}: {dict(tally)}")
        for f in failures[:4]:
            print(f"     {f}  (--show {f.split(':')[0][5:]})")
        bad += bool(failures)
    return bad


if __name__ == "__main__":
    sys.exit(main())
