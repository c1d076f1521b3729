"""Training losses over classes: NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.contraction import accumulated, drift, growth
from specs.exponentials import log_softmax_radii
from specs.numerics import INF, Ball, Policy, Radii, finite, settle, undecidable
from specs.program import Node
from specs.rule import Operand, UsageError
from specs.terms import known


def _weights(a: Node, like: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """One weight per sample, zero where the label is the one to ignore."""
    w = torch.ones(target.shape, dtype=like.dtype) if weight is None else weight[target.clamp(0, weight.shape[0] - 1).long()]
    return w if a.ignore_index is None else w.masked_fill(target == a.ignore_index, 0.0)


def _picked(x: Tensor, target: Tensor) -> Tensor:
    """The entry of every sample's own class; an ignored label may lie outside."""
    if target.shape != x.shape[:1] + x.shape[2:]:
        raise UsageError(f"labels of {list(target.shape)} for scores of {list(x.shape)}: one for every sample")
    return x.gather(1, target.clamp(0, x.shape[1] - 1).long().unsqueeze(1)).squeeze(1)


def _likelihood(a: Node, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    w = _weights(a, x, target, weight)
    loss = -_picked(x, target) * w
    if a.reduction == "none":
        return loss
    total = loss.sum()
    if a.reduction == "sum":
        return total
    return total / (w.sum() if weight is not None or a.ignore_index is not None else loss.numel())


def _entropy(a: Node, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Any:
    y = torch.log_softmax(x, 1)
    return _likelihood(a, y, target, weight), y


def _loss_radii(node: Any, policy: Policy, x: Ball, target: Tensor, weight: Ball | None, y: Tensor) -> Radii:
    """Products, their sum, and the quotient by the sum of weights, which is rounded too."""
    form = node.out_formats[0]
    w = _weights(node, x.value, target, None if weight is None else weight.value)
    size, u, n = _picked(x.value.abs(), target), policy.u(form), max(1, target.numel())
    product, eta = size * w.abs(), policy.eta(form)
    averaged, reduced = node.reduction == "mean", node.reduction != "none"
    total = w.sum()
    own = accumulated(policy, form, product.sum(), n, extra=3) if reduced else (product * (2 * u) + eta, product * (2 * u) + eta)
    results = []
    for which, grow in ((1, growth(policy, form, n)), (2, drift(policy, form, n))):
        moved, share = torch.zeros_like(product), torch.zeros_like(w)
        if x[which] is not None:
            moved = moved + _picked(finite(x[which]).clamp(max=1e150), target) * w.abs()
        if weight is not None and weight[which] is not None:
            share = _weights(node, x.value, target, finite(weight[which]).clamp(max=1e150))
            moved = moved + (size + (0 if x[which] is None else _picked(finite(x[which]), target))) * share
        if not reduced:
            r = moved + own[0] if which == 1 else (moved.square() + own[1].square()).sqrt()
        else:
            r = moved.sum() + own[0] if which == 1 else (moved.square().sum() + own[1].square()).sqrt()
        if averaged:
            off = (share.sum() if which == 1 else share.square().sum().sqrt()) + w.abs().sum() * grow
            r = ((r + y.abs() * off) / (total.abs() - off)).masked_fill(off >= total.abs(), INF) + y.abs() * (3 * u) + eta
        results.append(settle(r))
    return results[0], results[1]


def _exact_labels(balls: Sequence[Ball | None]) -> bool:
    return balls[1] is not None and balls[1].worst is None


def _likelihood_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    x, target, weight = (*balls, None)[:3]
    if not _exact_labels(balls):
        return undecidable(node, policy, balls, ys)
    assert x is not None and target is not None
    return [_loss_radii(node, policy, x, target.value, weight, ys[0])]


def _entropy_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    x, target, weight = (*balls, None)[:3]
    if not _exact_labels(balls):
        return undecidable(node, policy, balls, ys)
    assert x is not None and target is not None
    y = ys[1] if len(ys) > 1 else torch.log_softmax(x.value, 1)
    logs = log_softmax_radii(policy, node.out_formats[0], x.value, x, y, 1)
    return [_loss_radii(node, policy, Ball(y, *logs), target.value, weight, ys[0]), logs][: len(ys)]


# drawing -------------------------------------------------------------------------------------------------------------
def _draw(g: Draw) -> tuple[list[Operand | None], list[Any], dict[str, Any]]:
    """Operands, the shape of the loss, attributes: with and without weights, with a label to ignore."""
    x = g.operand(rank=(2, 5))
    n, c, *space = x
    if known(c):
        last = c - 1
    else:
        last = 1
        g.require(c >= 2)
    operands: list[Operand | None] = [x, g.given([n, *space], 0, last)]
    if g.flag():
        operands.append(g.given([c], 0.1, 2.0, role="weight"))
    attrs: dict[str, Any] = {}
    if g.flag(0.7):
        attrs["reduction"] = g.pick(["mean", "sum", "none"])
    if g.flag(0.4):
        attrs["ignore_index"] = g.pick([0, last, 1, -1, -100])
    return operands, [n, *space] if attrs.get("reduction") == "none" else [], attrs


@op("NegativeLogLikelihoodLoss", meaning=_likelihood, error=_likelihood_error, weight=0.7)
def negative_log_likelihood_loss(g: Draw) -> Rule:
    """The first operand need not be made of logarithms."""
    operands, shape, attrs = _draw(g)
    return Rule(operands, [shape], attrs)


@op("SoftmaxCrossEntropyLoss", meaning=_entropy, error=_entropy_error, weight=0.7)
def softmax_cross_entropy_loss(g: Draw) -> Rule:
    """With and without the logarithms as a second result."""
    operands, shape, attrs = _draw(g)
    return Rule(operands, [shape, operands[0] if g.flag() else None], attrs)
