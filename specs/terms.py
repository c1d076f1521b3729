"""Arithmetic on dimensions that works for ints and for z3 terms alike: a spec says each shape rule once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from specs.rule import Dim


def known(*dims: Dim) -> bool:
    """True when all are plain ints."""
    return all(isinstance(d, int) for d in dims)


def floor_div(a: Dim, b: int) -> Dim:
    """a // b for b > 0 (z3's `/` on integers rounds down for positive divisors)."""
    return a // b if known(a) else a / b


def ceil_div(a: Dim, b: int) -> Dim:
    return -floor_div(-a, b) if isinstance(a, int) else floor_div(a + (b - 1), b)


def prod(dims: Iterable[Dim]) -> Dim:
    result: Dim = 1
    for d in dims:
        result = result * d
    return result


def maximum(a: Dim, b: Dim) -> Dim:
    if known(a, b):
        return max(a, b)
    import z3

    return z3.If(a >= b, a, b)


def minimum(a: Dim, b: Dim) -> Dim:
    return -maximum(-a, -b)


def either(*conditions: Any) -> Any:
    """True when one of the conditions holds."""
    if all(isinstance(c, bool) for c in conditions):
        return any(conditions)
    import z3

    return z3.Or(*conditions)


def window(size: Dim, kernel: Dim, stride: int = 1, pad: Dim = 0, dilation: int = 1, ceil: bool = False) -> Dim:
    """Number of positions of a window over `size` padded by `pad` in all."""
    span = size + pad - (dilation * (kernel - 1) + 1)
    return (ceil_div(span, stride) if ceil else floor_div(span, stride)) + 1


def broadcast(*shapes: Sequence[Dim]) -> list[Dim]:
    """The numpy broadcast of shapes whose dims are ints, or terms where they are equal by construction."""
    rank = max(len(s) for s in shapes)
    result: list[Dim] = []
    for axis in range(rank):
        dims = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
        other = [d for d in dims if not (isinstance(d, int) and d == 1)]
        result.append(other[0] if other else 1)
    return result
