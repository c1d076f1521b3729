"""Sums in another order: every contraction and mean written as explicit terms, which are then added as one likes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from oracles.rewriting import Run, is_float, lazily
from oracles.variants import variant

torch = lazily("torch")
windows = lazily("specs.ops.windows")
reduction = lazily("specs.ops.reduction")

MOST = 1 << 21  # terms held at once

#: Adds up along the last dim, in the type of the terms.
Order = Callable[[Any], Any]


# orders ----------------------------------------------------------------------------------------------------------------
def serial(t: Any) -> Any:
    total = t[..., 0]
    for i in range(1, t.shape[-1]):
        total = total + t[..., i]
    return total


def reversed_(t: Any) -> Any:
    return serial(t.flip(-1))


def tree(t: Any) -> Any:
    while t.shape[-1] > 1:
        if t.shape[-1] % 2:
            t = torch.cat([t, torch.zeros_like(t[..., :1])], -1)
        t = t[..., ::2] + t[..., 1::2]
    return t[..., 0]


def blocked(t: Any) -> Any:
    """Blocks of 8, as a kernel with a tile of 8 adds."""
    return serial(torch.stack([serial(b) for b in t.split(8, -1)], -1))


def lanes(t: Any) -> Any:
    """Four running sums, one per lane of a vector, added crosswise at the end."""
    return tree(torch.stack([serial(t[..., i::4]) for i in range(min(4, t.shape[-1]))], -1))


def by_size(t: Any) -> Any:
    """Large terms first: the worst order."""
    return serial(t.gather(-1, t.abs().argsort(-1, descending=True)))


ORDERS: dict[str, Order] = {"serial": serial, "reversed": reversed_, "tree": tree, "blocked": blocked, "lanes": lanes, "by-size": by_size}


# terms -----------------------------------------------------------------------------------------------------------------
def _matmul_terms(node: Any, x: Any, y: Any) -> Any:
    if x.ndim < 1 or y.ndim < 1 or not x.shape[-1]:
        return None
    if y.ndim == 1:
        return x * y if x.numel() <= MOST else None
    if x.ndim == 1:
        return (x.unsqueeze(-1) * y).transpose(-1, -2)
    if x.shape[-2] * y.numel() * max(1, x.numel() // max(1, x.shape[-1] * x.shape[-2])) > MOST:
        return None
    return x.unsqueeze(-2) * y.transpose(-1, -2).unsqueeze(-3)


def _conv_terms(node: Any, x: Any, w: Any) -> Any:
    axes, group = windows.place(node, x.shape[2:], w.shape[2:]), node.group or 1
    pixels = math.prod(v.out for v in axes)
    if not w[0].numel() or not x.numel() or pixels * x.shape[0] * w.numel() > MOST:
        return None
    view = windows.cut(x, axes)
    view = view.reshape(x.shape[0], group, x.shape[1] // group, pixels, -1).movedim(2, 3).reshape(x.shape[0], group, 1, pixels, -1)
    kernels = w.reshape(1, group, w.shape[0] // group, 1, -1)
    return (view * kernels).reshape(x.shape[0], w.shape[0], *(v.out for v in axes), -1)


def _reduction_terms(node: Any, x: Any, axes: Any) -> tuple[Any, Any] | None:
    o = reduction.over(node, x, axes)
    if not o.dims or not o.n:
        return None
    kept = [i for i in range(x.ndim) if i not in o.dims]
    shape = [1 if i in o.dims else s for i, s in enumerate(x.shape) if o.keep or i not in o.dims]
    return x.permute(*kept, *o.dims).reshape(*(x.shape[i] for i in kept), -1), shape


def summed(node: Any, args: list[Any], order: Order, wide: bool) -> Any:
    """The node's result by explicit terms, None where that is not defined or too large. `wide`: halves in float32, rounded once."""
    x: Any = args[0] if args else None
    if not is_float(x) or not x.numel() or any(is_float(a) and a.dtype != x.dtype for a in args):
        return None
    kind = x.dtype
    args = [a.float() if is_float(a) and wide and kind.itemsize < 4 else a for a in args]
    y = _summed(node, args, order)
    return None if y is None else y.to(kind)


def _summed(node: Any, args: list[Any], order: Order) -> Any:
    x, name = args[0], node.op.name
    if name == "MatMul" and not node.op.domain:
        terms = _matmul_terms(node, *args)
        return None if terms is None else order(terms)
    if name == "Gemm":
        a, b = x.t() if node.transA else x, args[1].t() if node.transB else args[1]
        terms = _matmul_terms(node, a, b)
        if terms is None:
            return None
        y = order(terms)
        y = y if node.alpha == 1 else y * node.alpha
        return y if len(args) < 3 or args[2] is None or node.beta == 0 else y + args[2] * node.beta
    if name == "Conv":
        terms = _conv_terms(node, x, args[1])
        if terms is None:
            return None
        y = order(terms)
        return y if len(args) < 3 or args[2] is None else y + args[2].reshape(-1, *[1] * (x.ndim - 2))
    if name == "GlobalAveragePool" and x.ndim > 2:
        terms = x.reshape(*x.shape[:2], -1)
        return (order(terms) / terms.shape[-1]).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    if name == "Sum":
        total = torch.broadcast_tensors(*args)
        return order(torch.stack(total, -1))
    return _reduced(node, args, order)


def _reduced(node: Any, args: list[Any], order: Order) -> Any:
    found = _reduction_terms(node, args[0], args[1] if len(args) > 1 else None)
    if found is None:
        return None
    terms, shape = found
    name, n = node.op.name, terms.shape[-1]
    if name == "ReduceLogSumExp":
        top = terms.amax(-1, keepdim=True)
        top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
        return (order((terms - top).exp()).log() + top[..., 0]).reshape(shape)
    before: dict[str, Any] = {"ReduceL1": torch.abs, "ReduceL2": torch.square, "ReduceSumSquare": torch.square}
    total = order(before.get(name, lambda t: t)(terms))
    after: dict[str, Any] = {"ReduceMean": lambda t: t / n, "ReduceL2": torch.sqrt, "ReduceLogSum": torch.log}
    return after.get(name, lambda t: t)(total).reshape(shape)


SUMS = (
    "MatMul",
    "Gemm",
    "Conv",
    "GlobalAveragePool",
    "Sum",
    "ReduceSum",
    "ReduceMean",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
)


def _register(name: str, order: Order) -> None:
    @variant(f"sum-{name}", SUMS, policy="strict")
    def in_float(run: Run, node: Any, args: list[Any]) -> Any:
        return summed(node, args, order, wide=True)

    @variant(f"sum-{name}-in-half", SUMS)
    def in_half(run: Run, node: Any, args: list[Any]) -> Any:
        return summed(node, args, order, wide=False) if args and is_float(args[0]) and args[0].dtype.itemsize < 4 else None


for _name, _order in ORDERS.items():
    _register(_name, _order)
