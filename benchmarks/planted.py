"""ONNX Runtime with 20 planted faults, all at once: passes that break one pattern, behind a switch of their own, and kernels that are wrong.

The faults are rewritings of the model before ONNX Runtime gets it. Which of them touch a model is known, so that what triage says
about a finding can be marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, helper

from oracles.backends import onnxruntime as real
from oracles.plugin import Compiled, backend, split

LEVELS = ("off", "basic", "extended", "all")
#: The nodes of the pattern, the last one first -> what is put in place of the last one.
Breaks = Callable[[list[NodeProto]], list[NodeProto]]


@dataclass(frozen=True)
class Planted:
    """One fault.

    ops       the pattern: the operator that is replaced, then who makes its first operand, and so on
    level     the first level at which it acts; "off" for a kernel
    switches  names of the passes that do it, each of them alone; none for a kernel
    """

    name: str
    ops: tuple[str, ...]
    level: str
    breaks: Breaks
    switches: tuple[str, ...] = ()

    def acts(self, setting: str) -> bool:
        base, off = split(setting)
        return LEVELS.index(base) >= LEVELS.index(self.level) and (not self.switches or bool(set(self.switches) - set(off)))


def _node(like: NodeProto, op: str, inputs: Sequence[str], **attributes: Any) -> NodeProto:
    return helper.make_node(op, list(inputs), list(like.output), **attributes)


def _as(op: str, *inputs: int, **attributes: Any) -> Breaks:
    """The last node becomes another operator on some of its operands."""
    return lambda found: [_node(found[0], op, [found[0].input[i] for i in inputs], **attributes)]


def _skipping(*rest: int) -> Breaks:
    """The last node reads what the node before it reads."""
    return lambda found: [_node(found[0], found[0].op_type, [found[1].input[0], *(found[0].input[i] for i in rest)], **_attributes(found[0]))]


def _dropped(found: list[NodeProto]) -> list[NodeProto]:
    """The last node is left out."""
    return [_node(found[0], "Identity", found[0].input[:1])]


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _raises(words: str) -> Breaks:
    def broken(found: list[NodeProto]) -> list[NodeProto]:
        raise RuntimeError(f"{words} of node '{found[0].name}'")

    return broken


def _negated(found: list[NodeProto]) -> list[NodeProto]:
    between = f"{found[0].output[0]}_negated"
    return [helper.make_node("Neg", [found[0].input[0]], [between]), _node(found[0], found[0].op_type, [between])]


def _without_alpha(found: list[NodeProto]) -> list[NodeProto]:
    between = f"{found[0].output[0]}_plain"
    kept = {k: v for k, v in _attributes(found[1]).items() if k != "alpha"}
    return [helper.make_node("Gemm", list(found[1].input), [between], **kept), _node(found[0], "Relu", [between])]


FAULTS = (
    Planted("relu-lost", ("Clip", "Relu"), "basic", _skipping(1, 2), ("ReluClipMerging",)),
    Planted("sign-lost", ("Neg", "Sub"), "basic", _dropped, ("NegSubElimination",)),
    Planted("factor-lost", ("Mul", "Mul"), "basic", _dropped, ("MulChainFolding",)),
    Planted("abs-lost", ("Abs", "Tanh"), "extended", _dropped, ("AbsOfOddElimination",)),
    Planted("bias-lost", ("Add", "MatMul"), "extended", _dropped, ("MatMulBiasAbsorption",)),
    Planted("subtrahend-lost", ("Exp", "Sub"), "all", _skipping(), ("ExpSubStabilising",)),
    Planted("weights-lost", ("ReduceSum", "Mul"), "basic", _skipping(1), ("ReduceOfMulContraction",)),
    Planted("order-lost", ("Concat", "Sigmoid"), "basic", lambda f: [_node(f[0], "Concat", list(f[0].input)[::-1], **_attributes(f[0]))], ("ConcatSorting",)),
    Planted("transpose-lost", ("Reshape", "Transpose"), "extended", _skipping(1), ("TransposeReshapeSwap",)),
    Planted("alpha-lost", ("Relu", "Gemm"), "all", _without_alpha, ("GemmReluPacking",)),
    Planted("slope-invented", ("Relu", "Conv"), "all", _as("LeakyRelu", 0, alpha=0.5), ("ConvReluBlocking",)),
    Planted("twice-as-once", ("LeakyRelu", "LeakyRelu"), "basic", _dropped, ("IdempotentElimination",)),
    Planted("sqrt-of-exp", ("Sqrt", "Exp"), "basic", _raises("SqrtExpHalving: unexpected exponent"), ("SqrtExpHalving",)),
    Planted("root-of-negative", ("Sqrt", "Softplus"), "extended", _negated, ("SoftplusRootFusion",)),
    Planted("sine-lost", ("Mul", "Sin"), "basic", _as("Neg", 0), ("SineProductFusion", "SineProductSharing")),
    Planted("round", ("Round",), "off", _as("Floor", 0)),
    Planted("erf", ("Erf",), "off", _as("Tanh", 0)),
    Planted("hard-sigmoid", ("HardSigmoid",), "off", _as("Sigmoid", 0)),
    Planted("max", ("Max",), "off", _as("Identity", 0)),
    Planted("softsign", ("Softsign",), "off", _raises("no code for the curve")),
)


def broken(model: onnx.ModelProto, setting: str = "all") -> tuple[onnx.ModelProto, list[Planted]]:
    """The model after the faults that act at this setting, and those that found their pattern."""
    made, fired = onnx.ModelProto(), list[Planted]()
    made.CopyFrom(model)
    maker = {o: n for n in model.graph.node for o in n.output}
    del made.graph.node[:]
    for node in model.graph.node:
        fault, chain = next(((f, c) for f in FAULTS if f.acts(setting) and (c := _chain(node, f.ops, maker))), (None, list[NodeProto]()))
        made.graph.node.extend([node] if fault is None else fault.breaks(chain))
        if fault is not None:
            fired.append(fault)
    return made, fired


def _chain(node: NodeProto, ops: Sequence[str], maker: dict[str, NodeProto]) -> list[NodeProto]:
    """The nodes of a pattern, the last one first; nothing when it is not there."""
    found = list[NodeProto]()
    for op in ops:
        if node.op_type != op:
            return []
        found.append(node)
        node = maker.get(node.input[0], NodeProto())
    return found


def fires(model: onnx.ModelProto, setting: str = "all") -> list[str]:
    """Names of the faults that touch a model, also of those that raise."""
    maker = {o: n for n in model.graph.node for o in n.output}
    return sorted({f.name for n in model.graph.node for f in FAULTS if f.acts(setting) and _chain(n, f.ops, maker)})


@backend(
    "planted",
    settings=LEVELS,
    reference_setting="off",
    under_test=False,
    warm=real.warm,
    requires=["onnxruntime"],
    unsupported=real.UNSUPPORTED,
    switches=lambda model, setting: switches(model, setting),
)
def planted(model: bytes, setting: str) -> Compiled:
    base, off = split(setting)
    ours = {name for f in FAULTS for name in f.switches}
    changed = broken(onnx.load_from_string(model), setting)[0].SerializeToString()
    return real.onnxruntime(changed, "~".join([base, *(name for name in off if name not in ours)]))


def switches(model: bytes, setting: str) -> list[str]:
    """Those of ONNX Runtime among ours: all of ours that act at this level, found or not, as a compiler would say it."""
    ours = [name for f in FAULTS if f.acts(setting) for name in f.switches]
    return [*real.optimisers(model, setting), *(name for name in ours if name not in split(setting)[1])]
