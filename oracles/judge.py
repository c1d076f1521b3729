"""From outcomes to verdicts: every output of every backend against the float64 reference and its bound, never against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch

from oracles.adjoint import Weigh, weigher
from oracles.compare import compare, differ
from oracles.kernel import differs
from oracles.plugin import find
from oracles.records import Case, Outcome, Verdict
from oracles.reference import Expected, reference
from specs.numerics import LOOSEST, STRICT, Policy
from specs.program import Program

OVERWRITES = "wrote into its input"  # what a worker says of a backend that changed the arrays it was given


def judge(model: bytes | onnx.ModelProto, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, Any], policy: Policy | None = None) -> list[Verdict]:
    """Judge outputs that anyone computed for a model and inputs: one verdict per output the model declares.

    Raises Unsupported when the reference has no meaning for an operator, UsageError when inputs or outputs do not fit.
    """
    program = Program(model, torch.float64)
    expected = reference(program, inputs, policy or LOOSEST)
    weigh = weigher(program, inputs, policy or LOOSEST)
    verdicts = {name: weigh(compare("", "", name, want, outputs.get(name))) for name, want in expected.items()}
    if policy == STRICT:
        return [weigh.whole(v, expected[name], outputs.get(name)) for name, v in verdicts.items()]
    return list(verdicts.values())


def judge_outcomes(expected: Mapping[str, Expected], outcomes: Sequence[Outcome], weigh: Weigh) -> list[Verdict]:
    """Verdicts of all outcomes of one case: one per output for a run that ended, one per setting otherwise.

    weigh  decides the suspects: `oracles.adjoint.weigher` of the case
    """
    verdicts = list[Verdict]()
    plain = {o.backend: o for o in outcomes if o.setting == find(o.backend).reference_setting}
    for outcome in outcomes:
        for v in _one(expected, outcome, plain.get(outcome.backend)):
            v = weigh(v)
            if outcome.outputs is not None and v.output in expected and find(outcome.backend).is_strict(outcome):
                got = outcome.outputs.get(v.output)
                v = weigh.whole(weigh.strictly(v, got), expected[v.output], got)
            verdicts.append(v)
    return verdicts


def at_each_size(case: Case, outcomes: Sequence[Outcome]) -> list[tuple[Case, list[Outcome]]]:
    """The case and its outcomes for every set of inputs on which one compiled model was run, the last one being that of the case.

    A failure belongs to the set it happened at; to the case itself when the model could not be loaded, or when the process
    died and nobody knows.
    """
    last, parts = len(case.before), list[tuple[Case, list[Outcome]]]()
    for k, inputs in enumerate(case.before):
        passed = [replace(o, status="ok", outputs=o.before[k], again=None, stage="run", message="", before=o.before[:k]) for o in outcomes if len(o.before) > k]
        parts.append((Case(case.model, inputs, case.origin, case.before[:k]), passed + [o for o in outcomes if _failed_at(o, k, last)]))
    return [*parts, (case, [o for o in outcomes if not last or o.status == "ok" or _failed_at(o, last, last)])]


def _failed_at(o: Outcome, k: int, last: int) -> bool:
    if o.stage == "load" or o.status in ("crash", "hang", "oom"):
        return k == last
    return o.status != "ok" and len(o.before) == k


def _one(expected: Mapping[str, Expected], outcome: Outcome, plain: Outcome | None) -> list[Verdict]:
    if outcome.status == "ok":
        assert outcome.outputs is not None
        verdicts = [compare(outcome.backend, outcome.setting, name, want, outcome.outputs.get(name)) for name, want in expected.items()]
        if outcome.again is not None:
            apart = [v for name, want in expected.items() if (v := differ(outcome, name, want)) is not None]
            verdicts += [replace(v, message=v.message + differs(outcome)) for v in apart]
        return verdicts
    return [Verdict(outcome.backend, outcome.setting, _failure(outcome, plain), message=outcome.message)]


def _failure(outcome: Outcome, plain: Outcome | None) -> Any:
    if outcome.status in ("crash", "hang", "oom"):
        return outcome.status
    if outcome.status in ("unsupported", "missing"):
        return "unsupported"
    if outcome.backend in ("torch", "reference", "null"):
        return "ours"  # these run our own meanings: a failure is a defect of ours
    if outcome.message.startswith(OVERWRITES):
        return "unstable"  # whoever runs the model again with the same arrays gets another answer
    if outcome.backend == "kernels":
        return "ours" if plain is outcome else "broken"  # without the kernel our own meanings run
    if plain is None or plain is outcome:
        return "refused"
    # An operator that is not implemented may fail with another message once a pass has looked at it: the weaker verdict counts.
    return {"ok": "broken", "unsupported": "unsupported"}.get(plain.status, "refused")
