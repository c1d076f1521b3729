"""What a maintainer would send back: rules, each a function that says in one sentence why a report may not be filed.

They are the rules that PyTorch's issue template, LLVM's draft policy on fuzzers and the answers in the trackers of ONNX Runtime
and TVM have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from triage import filed
from triage.finding import Finding
from triage.known import match
from triage.replay import Replayed

REPEATS = 5
SMALL, LARGEST = 3, 10  # nodes: small enough as it is; too large even when it was reduced
#: Outputs that are positions of an extremum: (operator, output).
INDICES = {("ArgMax", 0), ("ArgMin", 0), ("TopK", 1), ("MaxPool", 1)}
_PASSES_ON = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Cast", "Slice", "Gather", "Concat")


@dataclass(frozen=True)
class Plan:
    """A report about to be rendered: the finding, for whom, what running it again came to, and where reports are counted."""

    finding: Finding
    project: str
    again: Replayed | None
    ledger: Path | None = None


Rule = Callable[[Plan], str]
_rules: dict[str, Rule] = {}


def rule(check: Rule) -> Rule:
    """Register a rule: a sentence when it is broken, else nothing."""
    _rules[check.__name__] = check
    return check


def faults(plan: Plan) -> dict[str, str]:
    """The rules that are broken, by name, with their sentences."""
    return {name: sentence for name, check in _rules.items() if (sentence := check(plan))}


@rule
def indices(plan: Plan) -> str:
    """Two equal maxima have two right positions."""
    v = plan.finding.verdict
    if v.verdict not in ("wrong", "imprecise", "unstable") or not v.output:
        return ""
    name, node = v.output, _maker(plan.finding, v.output)
    while node is not None and node.op_type in _PASSES_ON and node.input:
        name = node.input[0]
        node = _maker(plan.finding, name)
    if node is None or (node.op_type, list(node.output).index(name)) not in INDICES:
        return ""
    return f"It compares indices: {v.output} holds positions from {node.op_type}, and ties have several right answers; compare the values found there instead."


def _maker(finding: Finding, name: str) -> onnx.NodeProto | None:
    return finding.model.maker.get(name)


@rule
def deterministic(plan: Plan) -> str:
    """Every run shows it, on what is installed now."""
    again = plan.again
    if again is None or (again.status == "STILL" and again.repeats >= REPEATS):
        return ""
    if again.status == "FIXED":
        return f"It is gone: none of {again.repeats} runs with the installed version shows it."
    if again.status == "CHANGED":
        return f"It is something else now ({again.now}): run `fuzz replay` and report that instead."
    return f"It is not deterministic: {again.hits} of {again.repeats} runs show it, and a report needs {REPEATS} of {REPEATS}."


@rule
def reduced(plan: Plan) -> str:
    """The smallest case, or nearly."""
    finding, nodes = plan.finding, len(plan.finding.model.nodes)
    was = finding.original is not None or "reduced from" in finding.case.origin
    if nodes > LARGEST:
        return f"It has {nodes} operators: reduce it to at most {LARGEST} with `fuzz reduce {finding.name}`."
    return f"It has {nodes} operators and was never reduced: run `fuzz reduce {finding.name}`." if nodes > SMALL and not was else ""


@rule
def unknown(plan: Plan) -> str:
    """Nobody has said it before."""
    f = plan.finding
    now = match(f.cause, f.case.model, f.verdict.message, f.environment.get(f.verdict.backend, ""))  # the catalogue may know more by now
    known = next((k for k in (now, f.known) if k is not None and k.reference.startswith("http")), None)
    return f"It is known: {known.title} ({known.reference}, {known.status})." if known is not None else ""


@rule
def proven(plan: Plan) -> str:
    """A wrong value has to be beyond what any legal rounding gives."""
    v = plan.finding.verdict
    if v.verdict not in ("wrong", "imprecise", "nonfinite") or v.grade == "certified":
        return ""
    if v.grade == "likely":
        return "The value is likely wrong, not certainly: rounding could in theory explain it, so look for inputs where it cannot."
    return "It is undecided whether the value is wrong."


@rule
def tolerance(plan: Plan) -> str:
    """PyTorch's own rule: what its default tolerances let pass is not a bug there, however certain it is."""
    v = plan.finding.verdict
    form = plan.finding.model.formats.get(v.output) if v.output else None
    numbers = isinstance(v.got, (int, float)) and isinstance(v.expected, (int, float))
    if plan.project != "pytorch/pytorch" or v.verdict not in ("wrong", "imprecise") or form is None or not numbers:
        return ""
    from oracles.compare import NAIVE  # imports torch, which the other rules do without

    rtol, atol = NAIVE.get(form.name, (0.0, 0.0))
    error = abs(float(v.got or 0) - float(v.expected or 0))
    if error > atol + rtol * abs(float(v.expected or 0)):
        return ""
    return f"Its error of {error:.3g} is within the default tolerances of torch.testing for {form.name} (rtol {rtol:g}, atol {atol:g})."


@rule
def budget(plan: Plan) -> str:
    """Not more than can be answered."""
    if plan.ledger is None:
        return ""
    others = filed.open_in(plan.ledger, plan.project, plan.finding.key)
    if len(others) < filed.BUDGET:
        return ""
    return f"{len(others)} reports to {plan.project} are open, and the budget is {filed.BUDGET}: wait until some are closed (`fuzz report ID --closed`)."


def banner(sentences: Sequence[str]) -> str:
    """What stands on top of a report that was forced."""
    return "\n".join(["> [!WARNING]", "> Rendered with --force although a maintainer would send it back:", *(f"> - {s}" for s in sentences)]) + "\n"
