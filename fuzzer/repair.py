"""Networks that have no safe inputs as drawn (Acosh of a Tanh): the offending operator is replaced by a tamer one."""

from __future__ import annotations

from fuzzer.network import Network, Step
from specs.draw import Source
from specs.formats import FLOAT, Format
from specs.operator import find

#: Defined everywhere, bounded by their input or by 1, and of the same shape and type: from opset 13 on for every float.
TAME_UNARY = ("Tanh", "Sigmoid", "Erf", "Abs", "Neg")
TAME_BINARY = ("Add", "Sub")


def tame(network: Network, at: str, source: Source) -> bool:
    """Replace the operator that produces `at`; False when it has no tame counterpart (then the case is drawn again)."""
    step = next((s for s in network.steps if any(v is not None and v.name == at for v in s.outputs)), None)
    if step is None or step.bodies or step.function is not None or len(step.outputs) != 1:
        return False
    names = _counterparts(step)
    if not names:
        return False
    step.op, step.domain = names[source.choose(len(names))], ""
    step.operator, step.attrs = find(step.op), {}
    return True


def _counterparts(step: Step) -> tuple[str, ...]:
    y = step.outputs[0]
    same = [v is not None and y is not None and v.format is y.format for v in step.inputs]
    if y is None or not _float(y.format) or not all(same):
        return ()
    if len(step.inputs) == 1 and step.inputs[0] is not None and step.inputs[0].shape == y.shape:
        return TAME_UNARY
    if len(step.inputs) == 2 and step.operator is not None and step.operator.family == "arithmetic":
        return TAME_BINARY
    return ()


def _float(form: Format) -> bool:
    return form.is_float and form.bits >= 16 and form.kind == FLOAT.kind
