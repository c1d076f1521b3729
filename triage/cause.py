"""The cause key: what two findings have in common when one fix would cure both. Never a hash of a log.

This is the first key, from what one case shows; a finding that was reduced gets its key from the reduced model, where the
operators blamed are all that is left.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import onnx

from corpus import walk
from oracles import plugin
from oracles.records import Case, Outcome, Verdict
from specs.formats import BY_ONNX, Format
from triage.message import normalise
from triage.shape import digest, shape

LATER = "later run"
SMALL = 3  # nodes: the operators of a model this small are the blame when nothing names one
#: Operators that are also words of error messages: a message has to quote them, or say "node" or "operator".
WORDS = frozenset({
    "Abs", "Add", "And", "Cast", "Compress", "Constant", "Equal", "Exp", "Expand", "Gather", "Greater", "Identity", "If", "Less", "Log", "Loop", "Max",
    "Mean", "Min", "Mod", "Neg", "Not", "Optional", "Or", "Pad", "Range", "Round", "Scan", "Shape", "Sign", "Size", "Split", "Sum", "Unique", "Where",
})  # fmt: skip
_SAYS = re.compile(
    r"running (\w+) node|[Oo]perator:? '?\(?(\w+)\)?|\b[Oo]p(?:type)? \((\w+)\)|OpType:\s*(\w+)|op_type:\s*(\w+)"
    r"|implementation for (\w+)\(|converting operator (\w+)|\b([A-Z]\w+) node\b"
)
_RELAX = re.compile(r"\brelax\.(?:nn\.|image\.|op\.)?(\w+)")


@dataclass(frozen=True)
class Cause:
    """Why something fails, as far as one case tells.

    ops      operators blamed, () when nothing tells
    dtype    class of formats at the blamed operator: half, float, double, int, bool ...
    pattern  "always", or "optimised" when the setting without optimisation is fine
    stage    "load" or "run" of what died; LATER for what shows only once the same compiled model has run on other inputs
    message  normalised; empty for wrong values
    shape    of the reduced graph; empty for what was not reduced, and where a message tells the cause
    guilty   what of the compiler was found guilty: passes, options, kernels; () when it was not searched for, or not found
    """

    backend: str
    verdict: str
    ops: tuple[str, ...] = ()
    dtype: str = ""
    pattern: str = "always"
    stage: str = ""
    message: str = ""
    guilty: tuple[str, ...] = ()
    shape: str = ""

    @property
    def unblamed(self) -> Cause:
        """As one run of the case tells it."""
        return replace(self, guilty=())

    @cached_property
    def key(self) -> str:
        """16 hex digits; the first 8 name the folder of a finding."""
        parts = (self.backend, self.verdict, *self.ops, "", self.dtype, self.pattern, self.stage, self.message, *(["", *self.guilty] if self.guilty else []))
        parts += (self.shape,) if self.shape else ()
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def cause(case: Case, verdict: Verdict, outcomes: Sequence[Outcome] = (), verdicts: Sequence[Verdict] = (), reduced: bool = False) -> Cause:
    """The cause of a finding. With the verdicts of all settings, the least optimised failing one decides the pattern.

    reduced  the model was reduced: what is left of it is the blame, in order
    """
    same = [v.setting for v in verdicts if v.backend == verdict.backend and v.verdict == verdict.verdict]
    model = _model(case.model)
    said = next((o for o in outcomes if o.backend == verdict.backend and o.setting == verdict.setting), None)
    died = verdict.verdict in ("crash", "hang", "oom")
    message = verdict.message if verdict.verdict in ("broken", "refused") or died else _kind(verdict)
    ops, names = model.all() if reduced else model.blamed(verdict, message)
    if verdict.verdict == "mistyped" and message != "type":
        names = []  # a wrong shape is one defect in all types
    form = digest(shape(model.proto)) if reduced and ops and not message else ""
    stage = said.stage if died and said else LATER if case.before else ""
    pattern = "always" if _reference(verdict.backend) in {None, verdict.setting, *same} else "optimised"
    return Cause(verdict.backend, verdict.verdict, ops, model.dtype(names), pattern, stage, normalise(message, model.names), (), form)


def named(case: Case, verdict: Verdict) -> tuple[str, ...]:
    """The operators that the backend's own message names; () when it names none."""
    return _model(case.model).named_in(verdict.message) if verdict.message and not verdict.output else ()


WROTE = "wrote into its input "


def _kind(verdict: Verdict) -> str:
    """What sort of wrong answer it is, for verdicts whose message is ours."""
    if verdict.verdict == "mistyped":
        return verdict.message.split(" ", 1)[0]
    return verdict.message if verdict.message.startswith(WROTE) else ""


def cause_key(case: Case, verdict: Verdict, outcomes: Sequence[Outcome] = (), verdicts: Sequence[Verdict] = (), reduced: bool = False) -> str:
    """16 hex digits, stable between runs and machines."""
    return cause(case, verdict, outcomes, verdicts, reduced).key


def _reference(backend: str) -> str | None:
    found = plugin.backends().get(backend)
    return found.reference_setting if found else None


class Model:
    """What the cause needs to know of a model: who makes what, of which type."""

    def __init__(self, data: bytes) -> None:
        self.proto = onnx.load_from_string(data)
        self.nodes = [*walk.all_nodes(self.proto.graph.node), *(n for f in self.proto.functions for n in walk.all_nodes(f.node))]
        self.maker = {o: n for n in self.nodes for o in n.output if o}
        self.by_name = {n.name: n for n in self.nodes if n.name}
        initializers = [t.name for g in walk.graphs(self.proto.graph) for t in g.initializer]
        inputs = [i.name for i in self.proto.graph.input]
        self.names = {*self.by_name, *self.maker, *initializers, *inputs, self.proto.graph.name}

    @cached_property
    def formats(self) -> dict[str, Format | None]:
        try:
            inferred = onnx.shape_inference.infer_shapes(self.proto)
        except (onnx.shape_inference.InferenceError, ValueError):
            inferred = self.proto
        values = [v for g in walk.graphs(inferred.graph) for v in (*g.input, *g.value_info, *g.output)]
        return {v.name: walk.tensor_format(v.type) for v in values}

    def named_in(self, message: str) -> tuple[str, ...]:
        node = self._node_in(message)
        return (node.op_type,) if node is not None else self._operators_in(message)

    def blamed(self, verdict: Verdict, message: str) -> tuple[tuple[str, ...], list[onnx.NodeProto]]:
        """Operators and, where known, the nodes."""
        if message.startswith(WROTE):
            readers = [n for n in self.nodes if set(n.input) & set(message.removeprefix(WROTE).split(", "))]
            return tuple(dict.fromkeys(n.op_type for n in readers)), readers
        if verdict.output:
            node = self._producer(verdict.output)
            if node is not None:
                return (node.op_type,), [node]
        elif message:
            node = self._node_in(message)
            if node is not None:
                return (node.op_type,), [node]
            ops = self._operators_in(message)
            if ops:
                return ops, [n for n in self.nodes if n.op_type in ops]
        return self.all()

    def all(self) -> tuple[tuple[str, ...], list[onnx.NodeProto]]:
        """All operators that compute something, in order, when they are few."""
        working = [n for n in self.nodes if n.op_type not in ("Constant", "Identity")] or self.nodes
        return (tuple(n.op_type for n in working), working) if len(working) <= SMALL else ((), [])

    def _node_in(self, message: str) -> onnx.NodeProto | None:
        """The node whose own name, else whose output, the message mentions; the longest name wins."""
        for table in (self.by_name, self.maker):
            for name in sorted(table, key=len, reverse=True):
                sure = len(name) > 3 or not name.isalpha()
                if name in message and re.search((r"(?<![\w/])%s(?![\w/])" if sure else r"(?<=['\"(])%s(?=['\")])") % re.escape(name), message):
                    return table[name]
        return None

    def _operators_in(self, message: str) -> tuple[str, ...]:
        mine = {n.op_type for n in self.nodes}
        said = [next(filter(None, m.groups())) for m in _SAYS.finditer(message)]
        found = [w for w in said if w in mine]
        if not found:
            found = [w for w in re.findall(r"\b[A-Z]\w+\b", message) if w in mine and (w not in WORDS or f"'{w}'" in message or f'"{w}"' in message)]
        if not found:
            found = self._operators_of_sources(message)
        if not found:
            found = [w for w in said if re.match(r"(Fused|Qlinear|NCHW|Nhwc)?[A-Z][a-z]\w+", w)][:1] or [f"relax.{w}" for w in _RELAX.findall(message)][:1]
        return tuple(dict.fromkeys(found))

    def _operators_of_sources(self, message: str) -> list[str]:
        """Operators of this model whose source file the message names: cast_op.cc, lrn.h, conv_attributes.h."""
        mine = {n.op_type.lower(): n.op_type for n in self.nodes}
        for stem in re.findall(r"(\w+)\.(?:cc|cpp|h|py)\b", message):
            parts = stem.lower().split("_")
            for end in range(len(parts), 0, -1):
                if "".join(parts[:end]) in mine:
                    return [mine["".join(parts[:end])]]
        return []

    def _producer(self, output: str) -> onnx.NodeProto | None:
        """The node that computes an output, behind Identity nodes, which compute nothing."""
        node = self.maker.get(output)
        for _ in range(len(self.nodes)):
            if node is None or node.op_type != "Identity" or node.input[0] not in self.maker:
                break
            node = self.maker[node.input[0]]
        return node

    def dtype(self, nodes: Sequence[onnx.NodeProto]) -> str:
        """The class of the first known format at a single blamed operator; empty when there are several kinds."""
        classes = {_class(f) for f in self._first_formats(nodes)}
        return classes.pop() if len(classes) == 1 else ""

    def _first_formats(self, nodes: Sequence[onnx.NodeProto]) -> Iterator[Format]:
        initializers = {t.name: t.data_type for t in self.proto.graph.initializer}
        for node in nodes:
            for name in (*node.input[:1], *node.output[:1]):
                form = self.formats.get(name) or BY_ONNX.get(initializers.get(name, 0))
                if form is not None:
                    yield form
                    break


@lru_cache(maxsize=8)
def _model(data: bytes) -> Model:
    return Model(data)


def _class(form: Format) -> str:
    if form.name in ("float16", "bfloat16"):
        return "half"
    if form.name.startswith("float") and form.name != "float":
        return "tiny float"
    return "int" if form.kind in ("int", "uint") else form.name
