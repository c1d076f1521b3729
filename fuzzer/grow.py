"""Growing a network: which operator next, on which values, forward or backward; drawn features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from fuzzer.attributes import is_default, may_be_absent
from fuzzer.concrete import Concrete
from fuzzer.network import Step, Value
from specs import schema
from specs.draw import Source
from specs.formats import ALL, BFLOAT16, BOOL, DOUBLE, FLOAT, FLOAT16, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, Format
from specs.operator import Operator, operators
from specs.rule import Misfit, Operand, Rule

OPSETS = (18, 13, 14, 15, 16, 17, 19, 20, 21, 22, 23, 24, 25, 26)
#: Newer than what compilers take: drawn when asked for, and for operators that begin there.
LATER = (27, 28)
DRAWN = (FLOAT, DOUBLE, FLOAT16, BFLOAT16, INT64, INT32, INT16, INT8, UINT8, UINT16, UINT32, UINT64, BOOL)
#: The same and those that are moved and cast only.
RARE = (*DRAWN, *(f for f in ALL if f.bits <= 8 and f not in DRAWN and f.kind in ("float", "int", "uint") and f.name != "float8e8m0"))
#: Formats a case prefers; where none of them is allowed, anything the schema allows is.
PALETTES: tuple[tuple[Format, ...], ...] = (
    (FLOAT, INT64, BOOL),
    (FLOAT, INT64, BOOL),
    (FLOAT, FLOAT16, INT64, BOOL),
    (FLOAT16, INT64, BOOL),
    (DOUBLE, INT32, BOOL),
    (FLOAT, DOUBLE, INT32, INT64, INT8, UINT8, BOOL),
    DRAWN,
    (BFLOAT16, FLOAT, INT64),
)
REDRAWS = 12  # attempts at one insertion before the network is left as it is


@dataclass(frozen=True)
class Menu:
    """What may be drawn: operators, the opsets, and the (operator, formats) pairs a backend is known not to run.

    avoid     support keys (see `support_key`) that are drawn only now and then
    blocks    building blocks by id; None for all, empty for none
    palettes  what formats a case may prefer
    sizes     sizes to be drawn now and then from the start, like those of values that are there already
    """

    names: frozenset[tuple[str, str]] | None = None
    opsets: tuple[int, ...] = OPSETS
    avoid: frozenset[str] = frozenset()
    probe: float = 0.02
    blocks: frozenset[str] | None = frozenset()
    palettes: tuple[tuple[Format, ...], ...] = PALETTES
    sizes: tuple[int, ...] = ()


EVERYTHING = Menu()


def opsets(since: int) -> tuple[int, ...]:
    """At which an operator that begins with an opset is drawn."""
    return tuple(o for o in OPSETS if o >= since) or tuple(o for o in LATER if o >= since)


def support_key(name: str, domain: str, formats: dict[str, Format]) -> str:
    """How the support matrix names an operator applied to formats: `Cast T1=float T2=int8`."""
    return " ".join([f"{domain}.{name}" if domain else name, *(f"{v}={formats[v].name}" for v in sorted(formats) if not v.startswith("tensor("))])


class Growth:
    """The network while it grows. One insertion costs the same however large the network is."""

    def __init__(self, source: Source, menu: Menu = EVERYTHING, elements: int = 4096) -> None:
        self.source, self.menu, self.elements = source, menu, elements
        self.opset = menu.opsets[source.choose(len(menu.opsets))]
        self.palette = menu.palettes[source.choose(len(menu.palettes))]
        self.values: list[Value] = []
        self.steps: list[Step] = []
        self.usable: list[Value] = []
        self.by_shape: dict[tuple[Format, tuple[int | None, ...]], list[Value]] = {}
        self.sizes: list[int] = list(menu.sizes)
        self.features: set[str] = set()
        self._counts: dict[str, int] = {}

    # what Concrete asks -------------------------------------------------------------------------------------------
    def opset_of(self, domain: str) -> int:
        return self.opset if domain == "" else 1

    def drawn(self, op: Operator, variable: str, among: tuple[Format, ...] | None, rare: bool = False) -> tuple[Format, ...]:
        """What a type variable may be, whatever this case prefers; `rare`: also types that little is computed in."""
        return _formats(op.name, op.domain, self.opset_of(op.domain), variable, among, RARE if rare else DRAWN)

    def formats(self, op: Operator, variable: str, among: tuple[Format, ...] | None) -> tuple[Format, ...]:
        return _formats(op.name, op.domain, self.opset_of(op.domain), variable, among, self.palette)

    # insertion ----------------------------------------------------------------------------------------------------
    def insert(self, prefer: Sequence[Value] = ()) -> list[Value]:
        """One operator forward, on the first of `prefer` that fits; returns its outputs, nothing when no draw fitted."""
        together = getattr(self.source, "together", None)
        return self._insert(prefer) if together is None else together(lambda: self._insert(prefer))

    def _insert(self, prefer: Sequence[Value]) -> list[Value]:
        for _ in range(REDRAWS):
            focus = prefer[0] if prefer else None
            try:
                op = self._operator(focus.format if focus is not None and self.source.choose(8) < 7 else None)
                g = Concrete(self, op, prefer)
                return self._commit(g, self._draw(op, g))
            except Misfit:
                continue
        return []

    def insert_before(self, target: Value) -> bool:
        """One operator backward: the graph input `target` becomes its result."""
        for _ in range(REDRAWS // 3):
            solving = self.source.choose(8) == 7
            try:
                op = self._operator(target.format)
                g = (_symbolic() if solving else Concrete)(self, op, (), target)
                rule = self._draw(op, g)
                if tuple(rule.outputs[0] or ()) != target.shape or self._out_format(g, 0) is not target.format:
                    continue
                self._commit(g, rule, target)
                self.features.add("backward, solved by z3" if solving else "backward")
                return True
            except Misfit:
                continue
        return False

    def _operator(self, form: Format | None) -> Operator:
        bag = _bag(self.opset, self.menu.names, form) or _bag(self.opset, self.menu.names, None)
        if not bag:
            raise Misfit(f"no operator of the menu can be drawn at opset {self.opset}")
        return bag[self.source.choose(len(bag))]

    def _draw(self, op: Operator, g: Concrete) -> Rule:
        assert op.draw is not None
        rule = g.settled(op.draw(g))
        for shape in (*rule.outputs, *rule.inputs):
            if shape and any(d is not None and d < 0 for d in shape):
                raise Misfit(f"{op.name}: negative size")
            if shape and _elements(shape) > self.elements:
                raise Misfit(f"{op.name}: too large")
        if self.menu.avoid and support_key(op.name, op.domain, g.bound) in self.menu.avoid and self.source.choose(1000) >= 1000 * self.menu.probe:
            raise Misfit(f"{op.name}: known to be unsupported for these formats")
        return rule

    def _out_format(self, g: Concrete, i: int) -> Format:
        found = schema.schema(g.op.name, g.op.domain, g.opset)
        assert found is not None
        variable = found.outputs[min(i, len(found.outputs) - 1)].type_str
        if variable not in g.bound:
            allowed = schema.formats(g.op.name, g.op.domain, g.opset, variable)
            if len(allowed) != 1:
                raise ValueError(f"{g.op.name}: the drawing leaves the output type {variable} open; bind it with g.type({variable!r})")
            return allowed[0]
        return g.bound[variable]

    def _commit(self, g: Concrete, rule: Rule, target: Value | None = None) -> list[Value]:
        """Make the values of the rule and append (or, backward, prepend) its step."""
        out_formats = [self._out_format(g, i) if shape is not None else None for i, shape in enumerate(rule.outputs)]
        before = len(self.steps)
        inputs = [None if o is None else self._value(o) for o in rule.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        outputs: list[Value | None] = []
        for i, (shape, form) in enumerate(zip(rule.outputs, out_formats, strict=True)):
            if shape is None or form is None:
                outputs.append(None)
            elif i == 0 and target is not None:
                target.kind = "node"
                outputs.append(target)
            else:
                outputs.append(self.make("v", form, tuple(shape), "node"))
        while outputs and outputs[-1] is None:
            outputs.pop()
        attrs = dict(rule.attrs)
        self._explicit_defaults(g, attrs)
        step = Step(g.op.name, g.op.domain, inputs, outputs, attrs, g.op, support_key(g.op.name, g.op.domain, g.bound))
        if target is None:
            self.steps.append(step)
        else:
            self.steps.insert(len(self.steps) - before, step)  # after the computed constants it just put in front
        self._note(step, rule)
        return [v for v in outputs if v is not None]

    def _explicit_defaults(self, g: Concrete, attrs: dict[str, object]) -> None:
        """Defaults given where they were left out, or left out where they were given."""
        kind = self.source.choose(8)
        if kind < 4:
            return
        if kind < 6:
            for name, value in schema.defaults(g.op.name, g.op.domain, g.opset).items():
                if value is not None and may_be_absent(g.op, g.opset, name) and is_default(attrs.get(name), value):
                    del attrs[name]
            return
        for name, value in schema.defaults(g.op.name, g.op.domain, g.opset).items():
            if value is not None and name not in attrs and isinstance(value, (int, float, str, list)):
                attrs[name] = value
                self.features.add("explicit default")

    def _value(self, o: Operand) -> Value:
        if o.ref is not None:
            o.ref.uses += 1
            return o.ref
        assert o.format is not None
        if o.content is not None:
            kind = "constant" if self.source.choose(3) == 2 else "initializer"
            v = self.make("c", o.format, tuple(o), kind, usable=False)
            v.content = o.content  # type: ignore[assignment]
        else:
            n = self.source.choose(16)
            if o.role == "parameter":
                kind = "constant" if n >= 12 else "initializer"
            elif o.role == "weight":
                kind = "initializer" if n < 11 else "input" if n < 13 else "constant"
            else:
                kind = "input" if n < 10 else "initializer" if n < 14 else "constant"
            free = o.low is None and o.high is None
            v = self.make({"input": "x", "initializer": "w", "constant": "c"}[kind], o.format, tuple(o), kind, usable=free)
            v.low, v.high, v.unique = o.low, o.high, o.unique
            self.features.add(f"operand as {kind}")
            if n == 15 and free and kind == "constant":
                v = self._computed(v)
        v.uses += 1
        return v

    def _computed(self, v: Value) -> Value:
        """A constant the optimiser has to compute: an Identity of a Constant node."""
        v.uses += 1
        y = self.make("v", v.format, v.shape, "node")
        self.steps.insert(0, Step("Identity", "", [v], [y], {}))
        self.features.add("operand as computed constant")
        return y

    def make(self, prefix: str, form: Format, shape: tuple[int | None, ...], kind: str, usable: bool = True) -> Value:
        n = self._counts.get(prefix, 0)
        self._counts[prefix] = n + 1
        v = Value(f"{prefix}{n}", form, shape, kind)
        self.values.append(v)
        if usable and None not in shape and form.kind not in ("string", "complex"):
            self.usable.append(v)
            self.by_shape.setdefault((form, shape), []).append(v)
            for d in shape:
                if d is not None and d > 1 and d not in self.sizes[-12:]:
                    self.sizes.append(d)
            del self.sizes[:-12]
        return v

    def back(self, steps: int, values: int) -> None:
        """Forget what was made since there were so many of each; names are not used twice."""
        del self.steps[steps:]
        for v in self.values[values:]:
            same = self.by_shape.get((v.format, v.shape), [])
            if v in same:
                same.remove(v)
                self.usable.remove(v)
        del self.values[values:]

    def recount(self) -> None:
        """Count the uses of every value again, after steps were forgotten."""
        for v in self.values:
            v.uses = 0
        for step in self.steps:
            for v in step.reads():
                v.uses += 1

    def _note(self, step: Step, rule: Rule) -> None:
        """Coverage features of one insertion."""
        shapes = [v.shape for v in step.inputs if v is not None]
        present = [v for v in step.inputs if v is not None]
        add = self.features.add
        if any(i is None for i in rule.inputs):
            add("omitted optional input")
        if len({id(v) for v in present}) < len(present):
            add("same value twice")
        if any(not s for s in shapes):
            add("rank 0")
        if any(0 in s for s in shapes):
            add("size 0")
        if len(step.outputs) > 1:
            add("several outputs")
        if any(isinstance(a, int) and n == "axis" and a < 0 for n, a in step.attrs.items()):
            add("negative axis")
        if len(shapes) > 1 and step.outputs and step.outputs[0] is not None and any(s != step.outputs[0].shape for s in shapes) and _elementwise(step, shapes):
            add("broadcast")


def _elements(shape: Sequence[int | None]) -> int:
    n = 1
    for d in shape:
        n *= 1 if d is None else d
    return n


@lru_cache(maxsize=1)
def _symbolic() -> type[Any]:
    """z3 takes long to import: only networks that need it pay."""
    from fuzzer.solve import Symbolic

    return Symbolic


def _elementwise(step: Step, shapes: Sequence[tuple[int | None, ...]]) -> bool:
    return step.operator is not None and step.operator.family in ("arithmetic", "comparison")


@cache
def _formats(name: str, domain: str, opset: int, variable: str, among: tuple[Format, ...] | None, palette: tuple[Format, ...]) -> tuple[Format, ...]:
    allowed = schema.formats(name, domain, opset, variable)
    if among is not None:
        allowed = tuple(f for f in allowed if f in among)
    else:
        allowed = tuple(f for f in allowed if f.kind not in ("string", "complex"))
    return tuple(f for f in allowed if f in palette) or tuple(f for f in allowed if f in DRAWN) or allowed


@cache
def _bag(opset: int, names: frozenset[tuple[str, str]] | None, form: Format | None) -> tuple[Operator, ...]:
    """Operators that can be drawn at an opset with a first input of this format, as often as their weight says."""
    found: list[Operator] = []
    for op, first in _drawable(opset, names):
        if form is None or form in first:
            found += [op] * max(1, round(4 * op.weight))
    return tuple(found)


@cache
def _drawable(opset: int, names: frozenset[tuple[str, str]] | None) -> list[tuple[Operator, frozenset[Format]]]:
    """Operators that can be drawn at an opset, each with the formats of its first input."""
    found: list[tuple[Operator, frozenset[Format]]] = []
    for key, op in sorted(operators().items()):
        if op.draw is None or op.since > opset or (names is not None and key not in names):
            continue
        version = opset if op.domain == "" else 1
        known = schema.schema(op.name, op.domain, version)
        if known is None or known.deprecated:
            continue
        allowed = schema.formats(op.name, op.domain, version, known.inputs[0].type_str) if known.inputs else ()
        found.append((op, frozenset(f for f in allowed if op.among is None or f in op.among)))
    return found
