"""Drawing with unknown sizes: the same specs over z3 integers, for what constructive sampling cannot satisfy.

Plain z3 answers 1 for nine of ten dimensions, so sizes are steered: a target is drawn for every unknown, assumed, and
dropped again when it stands in the unsat core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import z3

from fuzzer.concrete import Concrete
from specs.formats import INT64, Format
from specs.rule import Dim, Misfit, Operand, Rule

LARGEST = 64  # no unknown dim is larger
ROUNDS = 6  # how often targets are dropped before the sizes are left to z3
MILLISECONDS = 60


class Symbolic(Concrete):
    """The engine's answers when the result's shape is known and the operands' sizes are not."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.unknown: list[z3.ArithRef] = []
        self.conditions: list[Any] = []

    def size(self, low: int = 1, high: Dim | None = None) -> Any:
        v = z3.Int(f"d{len(self.unknown)}")
        self.unknown.append(v)
        self.conditions += [v >= low, v <= LARGEST] + ([v <= high] if high is not None else [])
        return v

    def divisor(self, of: Dim, most: int = 8) -> int:
        if isinstance(of, int):
            return super().divisor(of, most)
        d = self.pick([n for n in (1, 2, 3, 4) if n <= most])
        self.require(of % d == 0)
        return d

    def require(self, condition: Any) -> None:
        if isinstance(condition, bool):
            super().require(condition)
        else:
            self.conditions.append(condition)

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
        if like is None:
            least, most = (rank, rank) if isinstance(rank, int) else (rank or (0, 5))
            assert self.target is not None
            wanted = len(self.target.shape) if self.choose(4) < 3 else least + self.choose(most - least + 1)
            like = [None] * min(most, max(least, wanted))
        shape = [self.size(max(1, low)) if d is None else d for d in like]
        return self._fresh(self._variable(), among, shape, role=role)

    def broadcastable(self, shape: Sequence[Dim], *, among: Sequence[Format] | None = None, role: str = "data", within: bool = False) -> Operand:
        dims = list(shape)[self.choose(len(shape) + 1) :] if self.flag(0.3) else [1 if self.flag(0.2) else d for d in shape]
        return self._fresh(self._variable(), among, dims, role=role)

    def const(self, content: Any) -> Operand:
        if isinstance(content, np.ndarray) or not any(isinstance(c, z3.ExprRef) for c in _flat(content)):
            return super().const(content)
        variable = self._variable()
        form = INT64 if INT64 in self._allowed(variable, None) else self.type(variable)
        self.bound[variable] = form
        shape = (len(content),) if isinstance(content, (list, tuple)) else ()
        return self._append(Operand(shape, format=form, content=content, role="parameter"), form)

    def settled(self, rule: Rule) -> Rule:
        """The rule with ints, its first output having the target's shape. Raises Misfit when there is no solution."""
        assert self.target is not None
        result = rule.outputs[0]
        if result is None or len(result) != len(self.target.shape):
            raise Misfit(f"{self.op.name}: the result has another rank")
        equal = [a == b for a, b in zip(result, self.target.shape, strict=True)]
        if any(e is False for e in equal):
            raise Misfit(f"{self.op.name}: the result has another shape")
        solver = z3.Solver()
        solver.set("timeout", MILLISECONDS, "random_seed", 0)
        solver.add(*[c for c in (*equal, *self.conditions, *rule.where) if c is not True])
        solver.add(*[d >= 0 for o in rule.inputs if o is not None for d in o if not isinstance(d, int)])
        model = self._steered(solver)

        def value(term: Any) -> Any:
            if isinstance(term, z3.ExprRef):
                return model.eval(term, model_completion=True).as_long()  # type: ignore[attr-defined]
            if isinstance(term, list):
                return [value(t) for t in term]
            return term

        def operand(o: Operand | None) -> Operand | None:
            if o is None:
                return None
            content = o.content if isinstance(o.content, np.ndarray) or o.content is None else np.asarray(value(o.content)).astype(o.format.numpy)  # type: ignore[union-attr]
            return Operand([value(d) for d in o], **{**o.__dict__, "content": content, "low": value(o.low), "high": value(o.high)})

        shapes = [None if s is None else [value(d) for d in s] for s in rule.outputs]
        return Rule([operand(o) for o in rule.inputs], shapes, {k: value(v) for k, v in rule.attrs.items()})

    def _steered(self, solver: z3.Solver) -> z3.ModelRef:
        targets = {str(i): (z3.Bool(f"t{i}"), v, super(Symbolic, self).size()) for i, v in enumerate(self.unknown)}
        for flag, v, size in targets.values():
            solver.add(z3.Implies(flag, v == size))
        for _ in range(ROUNDS):
            answer = solver.check(*[flag for flag, _, _ in targets.values()])
            if answer == z3.sat:
                return solver.model()
            core = {str(c)[1:] for c in solver.unsat_core()} if answer == z3.unsat else set(targets)
            if not core:
                break
            targets = {k: t for k, t in targets.items() if k not in core}
        if solver.check() != z3.sat:
            raise Misfit(f"{self.op.name}: no sizes satisfy the result's shape")
        return solver.model()


def _flat(content: Any) -> list[Any]:
    return [x for c in content for x in _flat(c)] if isinstance(content, (list, tuple)) else [content]
