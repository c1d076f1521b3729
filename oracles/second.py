"""The second opinion on a `wrong`: is it the backend, or is it us?

Independent evaluations speak before a finding is believed: our meanings run in the declared low precision, the same in other legal
ways (sums one by one, in halves, with a fused multiply-add ...), and ONNX's own reference implementation. If one of the first breaks
the bound too, the bound is wrong; if the last breaks it in the same way as the backend, our meaning is wrong. Either way the finding
is `ours`, and a defect to look at here, not upstream.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.reference

from oracles.adjoint import Weigh
from oracles.compare import compare
from oracles.records import Outcome, Verdict
from oracles.reference import Expected
from oracles.rewriting import compiled
from oracles.variants import variants
from specs.program import run
from specs.rule import Unsupported

LONGEST = 10.0  # seconds that legal variants may take together
VALUE_VERDICTS = ("wrong", "nonfinite", "mistyped", "imprecise")


def second_opinion(
    model: bytes, inputs: Mapping[str, np.ndarray], expected: Mapping[str, Expected], verdict: Verdict, outcome: Outcome, weigh: Weigh, ways: bool = True
) -> Verdict:
    """The verdict as it stands, weakened to `likely` when nobody else could speak, or turned into `ours` with the reason.

    ways  whether the legal variants are asked as well: not where they are themselves what is judged
    """
    if verdict.verdict not in VALUE_VERDICTS:
        return verdict
    want = expected[verdict.output]
    ours = _our_low_precision(model, inputs)
    if ours is not None and weigh(compare("", "", verdict.output, want, ours.get(verdict.output))).verdict in VALUE_VERDICTS:
        return replace(verdict, verdict="ours", grade=None, message="our own run in the declared precision breaks the bound as well")
    if ways and verdict.verdict == "wrong" and (way := _legal_way(model, inputs, want, verdict.output, weigh)):
        return replace(verdict, verdict="ours", grade=None, message=f"a legal way to compute it ({way}) breaks the bound as well")
    theirs = _onnx_reference(model, inputs)
    if theirs is None:
        return verdict
    answer = theirs.get(verdict.output)
    if verdict.verdict == "mistyped" and want.format is not None and getattr(answer, "dtype", None) != want.format.numpy:
        return verdict  # the type is declared: where the reference has another, it promoted what it should not have
    if weigh(compare("", "", verdict.output, want, answer)).verdict not in VALUE_VERDICTS:
        return verdict
    got = (outcome.outputs or {}).get(verdict.output)
    if _agree(answer, got):
        return replace(verdict, verdict="ours", grade=None, message="onnx.reference agrees with the backend, not with our meaning")
    return replace(verdict, grade="likely")


def _our_low_precision(model: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    try:
        return run(model, inputs)
    except (Unsupported, NotImplementedError):
        return None
    except RuntimeError as e:  # torch has no kernel for this type on the CPU
        if "not implemented for" in str(e):
            return None
        raise


def _legal_way(model: bytes, inputs: Mapping[str, np.ndarray], want: Expected, output: str, weigh: Weigh) -> str:
    """The name of a legal variant that is wrong in the judge's eyes; empty when there is none, or time is up."""
    end = time.monotonic() + LONGEST
    for name, variant in ((n, v) for n, v in variants().items() if v.policy != "winograd"):  # whose bound is another
        if time.monotonic() > end:
            break
        try:
            got = compiled(model, variant.at)(inputs).get(output)
        except (Unsupported, NotImplementedError, RuntimeError):  # it cannot be computed in this way
            continue
        if weigh(compare("", "", output, want, got)).verdict == "wrong":
            return name
    return ""


def _onnx_reference(model: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """None when onnx.reference cannot run the model: it does not implement everything, and says so in many ways."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(model))
            return dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))  # type: ignore[arg-type]
    except Exception:  # any failure of the reference only means that it has no opinion
        return None


def _agree(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return False
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), 2e-2, 1e-3, equal_nan=True)) if a.dtype.kind not in "OUS" else bool((a == b).all())
