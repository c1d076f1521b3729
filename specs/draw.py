"""`Draw`: the single source of choices of a spec. Structure comes from here; sizes are ints when known, z3 ints when not.

A spec never looks at the clock, the environment or a random generator: the same choices give the same rule. Every choice is
an integer in `range(n)` with 0 the simplest, which is what makes recorded cases replay and shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from specs.formats import Format
from specs.rule import Dim, Misfit, Operand

if TYPE_CHECKING:
    from specs.operator import Operator

T = TypeVar("T")


class Source(Protocol):
    """Where choices come from: a seeded generator, a recorded list, or Hypothesis."""

    def choose(self, n: int) -> int:
        """An integer in range(n); 0 is the simplest."""
        ...


class Choices:
    """Structural choices from a source."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def choose(self, n: int) -> int:
        return self.source.choose(n) if n > 1 else 0

    def int(self, low: int, high: int) -> int:
        """A structural integer in [low, high] (a rank, an axis, an arity, a stride); `low` is the simplest."""
        return low + self.choose(high - low + 1)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options; put the plainest first. Raises Misfit when there is none."""
        if not options:
            raise Misfit("nothing to pick from")
        return options[self.choose(len(options))]

    def flag(self, chance: float = 0.5) -> bool:
        """True with the given chance; False is the simplest."""
        return self.choose(64) >= round(64 * (1 - chance))

    def axis(self, rank: int) -> int:
        """An axis of a tensor of this rank, in [-rank, rank): take it `% rank` before using it as a Python index."""
        axis = self.choose(rank)
        return axis - rank if self.flag(0.4) else axis

    def axes(self, rank: int, least: int = 0) -> list[int]:
        """Distinct axes in drawn order, some of them negative."""
        chosen = [i for i in self.permutation(rank) if self.flag()]
        chosen += [i for i in range(rank) if i not in chosen][: max(0, least - len(chosen))]
        return [i - rank if self.flag(0.3) else i for i in chosen]

    def permutation(self, n: int) -> list[int]:
        rest, result = list(range(n)), list[int]()
        while rest:
            result.append(rest.pop(self.choose(len(rest))))
        return result


class Draw(Choices):
    """What a spec may ask. Sizes and operands are answered by the engine (fuzzer.concrete, fuzzer.solve)."""

    op: Operator
    opset: int

    # types --------------------------------------------------------------------------------------------------------
    def type(self, variable: str = "T", among: Sequence[Format] | None = None) -> Format:
        """The format bound to a type variable of the schema ("T", "T2" ...); drawn now if nothing has bound it yet.

        Raises Misfit when the variable is bound to a format that is not `among` those the spec can use.
        """
        raise NotImplementedError

    # sizes --------------------------------------------------------------------------------------------------------
    def size(self, low: int = 1, high: Dim | None = None) -> Dim:
        """A size in [low, high] (steered: sizes of the network and vector-width edges are likelier; rarely 1).

        Raises Misfit when the range is empty.
        """
        raise NotImplementedError

    def sizes(self, n: int, low: int = 1, high: Dim | None = None) -> list[Dim]:
        return [self.size(low, high) for _ in range(n)]

    def divisor(self, of: Dim, most: int = 8) -> int:
        """A structural divisor of a size, 1 the simplest; for an unknown size a small number that will have to divide it."""
        raise NotImplementedError

    def require(self, condition: Any) -> None:
        """A condition on sizes that must hold: checked at once for ints (Misfit when false), solved for z3 terms."""
        raise NotImplementedError

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
        """The next input of the operator, in schema order: an existing value that fits, or a fresh one.

        rank   a rank or an inclusive range of ranks
        like   dims it must have; None leaves a dim free
        among  formats the spec can use, if fewer than the schema's
        role   "weight" makes a fresh one an initializer most of the time; "data" a graph input most of the time
        low    least size of a free dim (pass 0 where an empty tensor is meaningful)

        Raises Misfit when nothing fits.
        """
        raise NotImplementedError

    def broadcastable(self, shape: Sequence[Dim], *, among: Sequence[Format] | None = None, role: str = "data", within: bool = False) -> Operand:
        """The next input, of a shape that broadcasts with `shape` in numpy's way; `within`: without enlarging it."""
        raise NotImplementedError

    def given(
        self, shape: Sequence[Dim], low: float, high: float, *, unique: bool = False, among: Sequence[Format] | None = None, role: str = "data"
    ) -> Operand:
        """The next input, fresh, with contents drawn in [low, high]: indices, divisors, lengths.

        The input search keeps such contents in their range; they never come from another node.
        """
        raise NotImplementedError

    def const(self, content: Any) -> Operand:
        """The next input, with exactly this content (a nested list, possibly of terms, or an array): a shape, axes, pads, a ratio."""
        raise NotImplementedError

    def skip(self) -> None:
        """Leave the next optional input out; put None at its place in the rule."""
        raise NotImplementedError
