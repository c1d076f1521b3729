"""Matrix products: MatMul, Gemm, Einsum, and Det."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.contraction import accumulated, counted, filled, multilinear, unknown
from specs.formats import Format
from specs.numerics import INF, Ball, Policy, Radii, exact_whole, finite, settle
from specs.program import Node
from specs.rule import Dim, Operand
from specs.terms import broadcast, known, prod


# MatMul --------------------------------------------------------------------------------------------------------------
def _matmul(a: Node, x: Tensor, y: Tensor) -> Tensor:
    return x @ y


def _depth(a: Node, values: Sequence[Any]) -> float:
    return values[0].shape[-1]


@op("MatMul", meaning=_matmul, error=multilinear(_depth), weight=3)
def matmul(g: Draw) -> Rule:
    """Rank 1 on either side, and batch dims that broadcast."""
    if g.flag(0.15):
        x = g.operand(rank=1)
        batch: list[Dim] = []
    else:
        x = g.operand(rank=(2, 6))
        batch = list(x[:-2])
    k = x[-1]
    kind = g.choose(8)
    if kind == 7:
        y = g.operand(like=[k])
        return Rule([x, y], [x[:-1]])
    if kind < 4:
        more: list[Dim | None] = []
    elif kind < 6:
        more = list(batch)
    else:
        more = [1 if g.flag(0.4) else d for d in batch]
        more = more[g.choose(len(more) + 1) :] if g.flag(0.3) else more
        if len(batch) == len(more) < 3 and g.flag(0.2):
            more = [g.size(1, 4), *more]
    y = g.operand(like=[*more, k, None], role="data" if g.flag(0.4) else "weight")
    return Rule([x, y], [[*broadcast(batch, y[:-2]), *(x[-2:-1]), y[-1]]])


# Gemm ----------------------------------------------------------------------------------------------------------------
def _gemm(a: Node, x: Tensor, y: Tensor, c: Tensor | None = None) -> Tensor:
    return _scaled(a, x, y, c, a.alpha, a.beta)


def _scaled(a: Node, x: Tensor, y: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    """alpha A B + beta C. Over integers with a fraction the sum is taken in double and cut, as a cast would."""
    product = (x.t() if a.transA else x) @ (y.t() if a.transB else y)
    if not x.is_floating_point():
        if float(alpha).is_integer() and float(beta).is_integer():
            alpha, beta = int(alpha), int(beta)
        else:
            total = product.double() * alpha
            return (total if c is None or beta == 0 else total + c.double() * beta).to(x.dtype)
    if alpha != 1:
        product = product * alpha
    if c is None or beta == 0:
        return product
    return product + (c if beta == 1 else c * beta)


def _gemm_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """alpha and beta enter the magnitudes by their absolute values, and a half rounds them and what they scale."""
    form = node.out_formats[0]
    if form is None or not form.is_float:
        if not all(float(t).is_integer() for t in (node.alpha, node.beta)):
            return exact_whole(node, policy, balls, ys)
        return counted(lambda a, p, q, r=None: _scaled(a, p, q, r, abs(a.alpha), abs(a.beta)))(node, policy, balls, ys)
    alpha, beta = abs(node.alpha), abs(node.beta)
    x, y, c = (None if b is None else b.value.abs() for b in (*balls, None)[:3])

    def at(p: Any, q: Any, r: Any) -> Tensor:
        return _scaled(node, p, q, r, alpha, beta)

    assert x is not None and y is not None
    n = x.shape[0 if node.transA else 1] + (c is not None)
    worst, spread = accumulated(policy, form, at(x, y, c), n, extra=1 + 2 * (alpha != 1) + 2 * (beta not in (0, 1)), y=ys[0])
    variance = spread.square()
    ex, ey = (None if b is None or b.worst is None else finite(b.worst) for b in balls[:2])
    for p, q in ((ex, y), (x, ey), (ex, ey)):
        if p is not None and q is not None:
            worst = worst + at(p, q, None)
    vx, vy = (None if b is None or b.worst is None else finite(b.spread).clamp(max=1e150).square() for b in balls[:2])
    for p, q in ((vx, y.square()), (x.square(), vy), (vx, vy)):
        if p is not None and q is not None:
            variance = variance + _scaled(node, p, q, None, alpha * alpha, 0.0)
    if c is not None and beta and balls[2] is not None and balls[2].worst is not None:
        worst = worst + finite(balls[2].worst) * beta
        variance = variance + (finite(balls[2].spread).clamp(max=1e150) * beta).square()
    radii = settle(worst), settle(variance.sqrt())
    for gone, p, q in ((unknown(balls[0]), None, y), (unknown(balls[1]), x, None)):  # type: ignore[arg-type]
        if gone is not None:
            radii = filled(radii, at(gone if p is None else p.new_ones(p.shape), gone if q is None else q.new_ones(q.shape), None) > 0)
    return [radii]


@op("Gemm", meaning=_gemm, error=_gemm_error, weight=2)
def gemm(g: Draw) -> Rule:
    """Both transpositions, scales of either sign and zero, and every way in which C broadcasts."""
    x = g.operand(rank=2)
    attrs = {name: 1 for name in ("transA", "transB") if g.flag(0.4)}
    m, k = x[::-1] if "transA" in attrs else x
    y = g.operand(like=[None, k] if "transB" in attrs else [k, None], role="data" if g.flag(0.3) else "weight")
    n = y[0 if "transB" in attrs else 1]
    whole = x.format is not None and x.format.is_integer
    scales: dict[str, float] = {}
    if g.flag(0.4):
        scales["alpha"] = g.pick([1.0, 2.0, -1.0, 0.0] if whole else [0.5, 1.0, -1.0, 0.25, 1.7, -0.3, 0.0, 10.0])
    if g.flag(0.2):
        g.skip()
        return Rule([x, y, None], [[m, n]], {**attrs, **scales})
    c = g.broadcastable([m, n], role="weight", within=True)
    if g.flag(0.4):
        scales["beta"] = g.pick([1.0, 2.0, -1.0, 0.0] if whole else [0.5, 1.0, -1.0, 2.0, 0.3, -1.7, 0.0])
    return Rule([x, y, c], [[m, n]], {**attrs, **scales})


# Einsum --------------------------------------------------------------------------------------------------------------
def _explicit(equation: str) -> str:
    """With the result written out: letters that occur once, in the order of their codes, after the ellipsis."""
    equation = equation.replace(" ", "")
    if "->" in equation:
        return equation
    terms = equation.replace("...", "").replace(",", "")
    once = "".join(sorted(c for c in set(terms) if terms.count(c) == 1))
    return f"{equation}->{'...' if '...' in equation else ''}{once}"


def _einsum(a: Node, *xs: Tensor) -> Tensor:
    """torch adds integers up in int64 and has no products of mixed ones."""
    if xs[0].is_floating_point():
        return torch.einsum(_explicit(a.equation), *xs)
    return torch.einsum(_explicit(a.equation), *(x.long() for x in xs)).to(xs[0].dtype)


def _products(a: Node, xs: Sequence[Tensor]) -> float:
    """How many products one result adds up."""
    left, right = _explicit(a.equation).split("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(left.split(","), (x.shape for x in xs), strict=True):
        before, _, after = term.partition("...")
        for letters, dims in ((before, shape[: len(before)]), (after, shape[len(shape) - len(after) :])):
            for letter, d in zip(letters, dims, strict=True):
                sizes[letter] = max(sizes.get(letter, 1), d)
    return math.prod(d for letter, d in sizes.items() if letter not in right)


def _term(g: Draw, letters: list[str], sizes: dict[str, Dim], rank: int, diagonal: float) -> str:
    """Letters for one operand: those in use, new ones, now and then one twice."""
    term = ""
    for _ in range(rank):
        old = [c for c in sizes if c not in term]
        if term and g.flag(diagonal):
            term += g.pick(list(term))
        elif old and g.flag(0.65):
            term += g.pick(old)
        elif letters:
            term += letters.pop(g.choose(min(3, len(letters))))
    return term


@op("Einsum", meaning=_einsum, error=multilinear(_products))
def einsum(g: Draw) -> Rule:
    """One to three operands with diagonals, ellipses, sums over some letters, and the result left implicit."""
    letters = list(g.pick(["ijkmnpq", "abcdefg", "aBcDeFg"]))
    sizes: dict[str, Dim] = {}
    dotted = [g.size(1, 6) for _ in range(g.int(0, 2))] if g.flag(0.3) else None
    operands, terms, spreads = list[Operand](), list[str](), list[list[Dim]]()
    for i in range(g.pick([2, 1, 3])):
        term = _term(g, letters, sizes, g.int(0 if g.flag(0.1) else 1, 4 - (i > 1)), 0.12)
        like: list[Dim | None] = []
        fresh: dict[str, int] = {}
        for c in term:
            if c in sizes:
                like.append(sizes[c])
            elif term.count(c) > 1:
                sizes[c] = g.size(1, 12)
                like.append(sizes[c])
            else:
                fresh[c] = len(like)
                like.append(None)
        at = g.choose(len(term) + 1) if dotted is not None and (i == 0 or g.flag(0.8)) else None
        dims: list[Dim] = []
        if at is not None and dotted is not None:
            dims = [1 if g.flag(0.2) else d for d in dotted]
            like[at:at] = dims
        operand = g.operand(like=like, role="data" if g.flag() else "weight")
        for c, where in fresh.items():
            sizes[c] = operand[where + (len(dims) if at is not None and where >= at else 0)]
        operands.append(operand)
        spreads.append(dims)
        terms.append(term if at is None else f"{term[:at]}...{term[at:]}")
    front = broadcast(*spreads) if any("..." in t for t in terms) else []
    if known(*sizes.values(), *front):
        g.require(prod(sizes.values()) * prod(front) <= 1 << 16)
    return _einsum_rule(g, operands, terms, sizes, front)


def _einsum_rule(g: Draw, operands: list[Operand], terms: list[str], sizes: dict[str, Dim], front: list[Dim]) -> Rule:
    equation, ellipsis = ",".join(terms), any("..." in t for t in terms)
    if equation and g.flag(0.2):
        result = _explicit(equation).split("->")[1].replace("...", "")
        at = 0
    else:
        result = "".join(c for c in (list(sizes)[i] for i in g.permutation(len(sizes))) if g.flag(0.6))
        at = g.choose(len(result) + 1) if ellipsis else 0
        equation += "->" + (f"{result[:at]}...{result[at:]}" if ellipsis else result)
    if g.flag(0.1):
        equation = equation.replace(",", " , ").replace("->", " -> ")
    shape = [sizes[c] for c in result]
    return Rule(operands, [[*shape[:at], *front, *shape[at:]]], {"equation": equation})


# Det -----------------------------------------------------------------------------------------------------------------
def _det(a: Node, x: Tensor) -> Tensor:
    return torch.linalg.det(x if x.dtype.itemsize >= 4 else x.float()).to(x.dtype)


def _det_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """The determinant is linear in every row and at most the product of the rows' lengths, which bounds a change of all rows.

    LU with pivoting solves for rows off by n gamma_3n rho max|a|, rho at most 2^(n-1); expansion by minors is off by
    gamma of at most the product of the rows' sums.
    """
    ball, form = balls[0], node.out_formats[0]
    assert ball is not None and isinstance(form, Format)
    x, n, u = ball.value.abs(), ball.value.shape[-1], policy.u(form)
    if n == 0:
        return [(torch.zeros_like(ys[0]), torch.zeros_like(ys[0]))]
    rows, largest = x.square().sum(-1).sqrt(), x.amax((-1, -2)).unsqueeze(-1)
    lengths = rows.prod(-1)
    minors = x.sum(-1).prod(-1)
    reached = x.clamp(min=1.0).sum(-1).prod(-1)

    def moved(e: Any, own: float) -> Tensor:
        length = largest.expand(rows.shape) * own
        if e is not None:
            length = length + finite(e).clamp(max=1e150).square().sum(-1).sqrt()
        return (rows + length).prod(-1) - lengths

    lost = reached * (policy.eta(form) * n)
    worst = moved(ball.worst, n**1.5 * 3 * n * u * 2.0 ** (n - 1)) + minors * (3 * n * u) + lost
    spread = moved(ball.spread, n * u * 4) + minors * (math.sqrt(n) * u) + lost
    over = ~(reached <= form.largest)
    return [(settle(worst).masked_fill(over, INF), settle(spread).masked_fill(over, INF))]


@op("Det", meaning=_det, error=_det_error, weight=0.5)
def det(g: Draw) -> Rule:
    """Small matrices and stacks of them; the bound grows with 2^n."""
    n = g.int(1, 5)
    x = g.operand(like=[*[None] * g.int(0, 2), n, n])
    return Rule([x], [x[:-2]])
