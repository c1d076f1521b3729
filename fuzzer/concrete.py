"""Constructive drawing: every size is an int, operands are existing values of the network or fresh ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fuzzer.network import Value
from specs import schema
from specs.draw import Draw
from specs.formats import BFLOAT16, BOOL, DOUBLE, FLOAT, FLOAT16, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, Format
from specs.operator import Operator
from specs.rule import Dim, Misfit, Operand, Rule

if TYPE_CHECKING:
    from fuzzer.grow import Growth

#: How often each format is drawn where the schema leaves the choice.
WEIGHTS = {FLOAT: 12, FLOAT16: 4, DOUBLE: 4, INT64: 3, INT32: 3, BOOL: 1, INT8: 1, UINT8: 1, BFLOAT16: 1, INT16: 1, UINT16: 1, UINT32: 1, UINT64: 1}
EDGES = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33)
TRIES = 10  # existing values looked at for one operand: bounded, so that cost per node does not grow with the network


@cache
def _bag(formats: tuple[Format, ...]) -> tuple[Format, ...]:
    """Each format as often as its weight, float32 first: one choice picks one."""
    ordered = sorted(formats, key=lambda f: -WEIGHTS.get(f, 0))
    return tuple(f for f in ordered for _ in range(WEIGHTS.get(f, 1)))


class Concrete(Draw):
    """The engine's answers for one attempt to insert one operator."""

    def __init__(self, growth: Growth, op: Operator, prefer: Sequence[Value], target: Value | None = None) -> None:
        super().__init__(growth.source)
        self.growth, self.op, self.prefer, self.target = growth, op, prefer, target
        self.opset = growth.opset_of(op.domain)
        self.bound: dict[str, Format] = {}
        self.operands: list[tuple[Operand | None, Format | None]] = []

    def settled(self, rule: Rule) -> Rule:
        """The rule with every size known. Raises Misfit when its conditions do not hold."""
        if not all(rule.where):
            raise Misfit(f"{self.op.name}: the sizes drawn do not satisfy a condition")
        return rule

    # types --------------------------------------------------------------------------------------------------------
    def _allowed(self, variable: str, among: Sequence[Format] | None) -> tuple[Format, ...]:
        bound = self.bound.get(variable)
        if bound is not None:
            if among is not None and bound not in among:
                raise Misfit(f"{self.op.name}: {variable} is {bound}")
            return (bound,)
        return self.growth.formats(self.op, variable, tuple(among) if among is not None else None)

    def type(self, variable: str = "T", among: Sequence[Format] | None = None) -> Format:
        allowed = self._allowed(variable, among)
        if not allowed:
            raise Misfit(f"{self.op.name}: no format for {variable}")
        if variable not in self.bound and self.flag():
            allowed = self.growth.drawn(self.op, variable, tuple(among) if among is not None else None) or allowed
        form = allowed[0] if len(allowed) == 1 else self.pick(allowed if self.flag() else _bag(allowed))
        self.bound[variable] = form
        return form

    def _variable(self) -> str:
        return schema.type_variable(self.op.name, self.op.domain, self.opset, len(self.operands))

    # sizes --------------------------------------------------------------------------------------------------------
    def size(self, low: int = 1, high: Dim | None = None) -> int:
        if high is not None and high < low:
            raise Misfit(f"{self.op.name}: no size in [{low}, {high}]")
        kind = self.choose(16)
        if kind == 0:
            size = 2
        elif kind < 6 and self.growth.sizes:
            size = self.pick(self.growth.sizes)
        elif kind < 10:
            size = 4 + self.choose(10)
        elif kind < 14:
            size = self.pick(EDGES)
        else:
            size = 1 + self.choose(48)
        size = max(size, low)
        if high is not None and size > high:
            size = low + self.choose(high - low + 1)
        return size

    def divisor(self, of: Dim, most: int = 8) -> int:
        return self.pick([d for d in range(1, min(of, most) + 1) if of % d == 0] or [1])

    def require(self, condition: Any) -> None:
        if not condition:
            raise Misfit(f"{self.op.name}: the sizes drawn do not satisfy a condition")

    # operands -----------------------------------------------------------------------------------------------------
    def operand(
        self,
        rank: int | tuple[int, int] | None = None,
        *,
        like: Sequence[Dim | None] | None = None,
        among: Sequence[Format] | None = None,
        role: str = "data",
        low: int = 1,
    ) -> Operand:
        first = not self.operands
        if first and among is None:
            among = self.op.among
        variable = self._variable()
        formats = self._allowed(variable, among)
        least, most = (rank, rank) if isinstance(rank, int) else (rank or (0, 6))
        if like is not None:
            least = most = len(like)
        if self.target is not None and first:
            return self._as_target(variable, formats, least, most, like, low)
        if role == "data" and (first or self.choose(8) < 6):
            found = self._existing(formats, least, most, like, low, first)
            if found is not None:
                return self._take(variable, found)
            if first and self.growth.values and self.choose(8) < 5:
                raise Misfit(f"{self.op.name}: no value fits its first input")
        elif role == "weight" and self.choose(16) == 15:
            found = self._existing(formats, least, most, like, low, first)
            if found is not None:
                return self._take(variable, found)
        return self._fresh(variable, among, self._shape(least, most, like, low), role=role)

    def _as_target(self, variable: str, formats: Sequence[Format], least: int, most: int, like: Sequence[Dim | None] | None, low: int) -> Operand:
        """Backward insertion, the cheap way: a first operand of the shape the result must have."""
        target = self.target
        assert target is not None
        shape = [d or 0 for d in target.shape]
        if not least <= len(shape) <= most or min(shape, default=low) < low or (like is not None and not _matches(shape, like)):
            raise Misfit(f"{self.op.name}: the result's shape cannot be its input's")
        form = target.format if target.format in formats else self.pick(_bag(tuple(formats)) or (None,))
        if form is None:
            raise Misfit(f"{self.op.name}: no format")
        self.bound[variable] = form
        return self._append(Operand(shape, format=form, role="data"), form)

    def _existing(self, formats: Sequence[Format], least: int, most: int, like: Sequence[Dim | None] | None, low: int, first: bool) -> Value | None:
        if like is not None and None not in like:
            for form in formats:
                same = self._sources(self.growth.by_shape.get((form, tuple(like)), ()))
                if same:
                    return same[-1 - self.choose(min(len(same), 4))]
            return None
        for v in self.prefer if first else self.prefer[1:]:
            if v.format in formats and _fits(v, least, most, like, low):
                return v
        everything = self.growth.usable
        for _ in range(min(TRIES, len(everything))):
            v = everything[-1 - self.choose(len(everything))]
            if v.format in formats and _fits(v, least, most, like, low) and self._sources([v]):
                return v
        return None

    def _sources(self, values: Sequence[Value]) -> Sequence[Value]:
        """Those that may be operands here: backward, nothing that depends on the target, so no node's result."""
        return values if self.target is None else [v for v in values if v.kind != "node" and v is not self.target]

    def _take(self, variable: str, v: Value) -> Operand:
        self.bound[variable] = v.format
        return self._append(Operand(v.shape, ref=v, format=v.format), v.format)

    def _append(self, operand: Operand, form: Format | None) -> Operand:
        self.operands.append((operand, form))
        return operand

    def _shape(self, least: int, most: int, like: Sequence[Dim | None] | None, low: int) -> list[int]:
        """Dims for a fresh operand, within the budget of elements."""
        if like is None:
            typical = self.choose(9)  # ranks 2 to 4 most of the time
            rank = least + self.choose(most - least + 1) if typical >= 7 else min(most, max(least, (2, 3, 4, 3, 4, 4, 3)[typical]))
            like = [None] * rank
        shape, budget = list[int](), self.growth.elements
        for d in like:
            if d is not None:
                budget //= max(1, d)
        for d in like:
            if d is None:
                d = 0 if low == 0 and self.choose(100) == 99 else self.size(max(1, low), max(low, 1, min(64, budget)))
                budget //= max(1, d)
            shape.append(d)
        return shape

    def _fresh(self, variable: str, among: Sequence[Format] | None, shape: Sequence[Dim], **known: Any) -> Operand:
        allowed = self._allowed(variable, among)
        if not allowed:
            raise Misfit(f"{self.op.name}: no format for {variable}")
        if variable not in self.bound and (kind := self.choose(24)) > 20:  # a type this case does not prefer
            form = self.pick(self.growth.drawn(self.op, variable, tuple(among) if among is not None else None, rare=kind == 23))
        else:
            form = allowed[0] if len(allowed) == 1 else self.pick(_bag(allowed))
        self.bound[variable] = form
        return self._append(Operand(shape, format=form, **known), form)

    def broadcastable(self, shape: Sequence[Dim], *, among: Sequence[Format] | None = None, role: str = "data", within: bool = False) -> Operand:
        variable = self._variable()
        formats = self._allowed(variable, among)
        if role == "data" and self.choose(8) < 5:
            same = [v for f in formats for v in self._sources(self.growth.by_shape.get((f, tuple(shape)), ())[-4:])]
            if same and self.choose(4) < 3:
                return self._take(variable, self.pick(same))
            everything = self.growth.usable
            for _ in range(min(TRIES, len(everything))):
                v = everything[-1 - self.choose(len(everything))]
                if v.format in formats and _broadcasts(v.shape, shape, within, self.growth.elements) and self._sources([v]):
                    return self._take(variable, v)
        dims = list(shape)
        kind = self.choose(8)
        if kind >= 4:
            dims = dims[self.choose(len(dims) + 1) :] if kind < 6 else [1 if self.flag(0.4) else d for d in dims]
        if not within and kind == 7:
            dims = [self.size(2, 8) if whole == 1 and self.flag() else d for d, whole in zip(dims, shape, strict=True)]
            if len(shape) < 4 and self.flag(0.3):
                dims = [self.size(1, 4), *dims]
        return self._fresh(variable, among, dims, role=role)

    def given(
        self, shape: Sequence[Dim], low: float, high: float, *, unique: bool = False, among: Sequence[Format] | None = None, role: str = "data"
    ) -> Operand:
        return self._fresh(self._variable(), among, shape, low=low, high=high, unique=unique, role=role)

    def const(self, content: Any) -> Operand:
        variable = self._variable()
        allowed = self._allowed(variable, None)
        if isinstance(content, np.ndarray):
            form = next((f for f in allowed if f.numpy == content.dtype), None) or self.type(variable)
        else:
            form = INT64 if INT64 in allowed else self.type(variable)
        self.bound[variable] = form
        array = np.asarray(content).astype(form.numpy)
        return self._append(Operand(array.shape, format=form, content=array, role="parameter"), form)

    def skip(self) -> None:
        self.operands.append((None, None))


def _fits(v: Value, least: int, most: int, like: Sequence[Dim | None] | None, low: int) -> bool:
    if not least <= len(v.shape) <= most or None in v.shape or min(v.shape, default=low) < low:  # type: ignore[type-var, operator]
        return False
    return like is None or _matches(v.shape, like)


def _matches(shape: Sequence[Dim], like: Sequence[Dim | None]) -> bool:
    return len(shape) == len(like) and all(want is None or have == want for have, want in zip(shape, like, strict=True))


def _broadcasts(a: Sequence[Dim], b: Sequence[Dim], within: bool, most: int) -> bool:
    """Whether a broadcasts with b (without enlarging it when `within`) into at most `most` elements."""
    if within and len(a) > len(b):
        return False
    elements = 1
    for i in range(1, max(len(a), len(b)) + 1):
        x, y = a[-i] if i <= len(a) else 1, b[-i] if i <= len(b) else 1
        if x is None or y is None or not (x == y or x == 1 or (y == 1 and not within)):
            return False
        elements *= max(x, y)
    return elements <= most
