"""Safe inputs: contents for inputs and weights that keep every operator inside its domain and every value in its format.

First the contents are drawn from regimes and checked in one float64 pass. Where an operator is left outside its domain or a
value overflows, the losses of the operators are descended by gradients through the whole network, weights included;
where no gradient arrives (integer paths) the leaves involved are drawn again. Method after NNSmith's gradient-guided search
("NNSmith: Generating Diverse and Valid Test Cases for Deep Learning Compilers"), with a loss for every operator.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fuzzer.contents import draw_contents
from fuzzer.network import Value
from specs.draw import Source
from specs.numerics import outputs
from specs.program import Node, Program, evaluate, to_torch, wrap

HEADROOM = 0.25  # values stay below this share of the format's largest number
CANDIDATES = 4  # contents drawn before the best of them is descended from
STEPS = 30
PATIENCE = 5  # steps without progress before a start is given up
RATE = 0.2
RESTARTS = 2


@dataclass(frozen=True)
class Found:
    """Contents by leaf name. `steps`: gradient steps taken; `safe` False: the last violation is in `why`."""

    contents: Mapping[str, np.ndarray]
    safe: bool
    steps: int
    seconds: float
    why: str = ""
    at: str = ""  # the first output of the violating node


class _Outside(Exception):
    """A node left its domain and nothing after it can be evaluated."""


class _Watch:
    """An interpreter that evaluates meanings and looks at every value on the way."""

    def __init__(self, leaves: Mapping[str, torch.Tensor], losses: bool) -> None:
        self.leaves, self.want = leaves, losses
        self.losses: list[torch.Tensor] = []
        self.first: Node | None = None
        self.how = ""

    def __call__(self, node: Node, args: list[Any]) -> Sequence[Any]:
        if node.op.name == "Constant" and node.outputs[0] in self.leaves:
            return [self.leaves[node.outputs[0]]]
        before = len(self.losses)
        if node.op.safe is not None:
            for loss in node.op.safe(node, *args):
                if loss.numel() and not bool(loss.amax() <= 0):
                    self._violated(node, loss.clamp(min=0) + (loss > 0) * 1e-2, "outside its domain")
        meaning = node.op.meaning
        if self.want and node.op.proxy is not None and args and isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
            meaning = node.op.proxy
        try:
            result = [wrap(v, f) for v, f in zip(outputs(meaning(node, *args)), node.out_formats, strict=False)]
        except IndexError:  # an index that was computed from what moves
            self.first, self.how = self.first or node, self.how or "indexes outside its operand"
            raise _Outside from None
        for y, form in zip(result, node.out_formats, strict=False):
            if form is None or not form.is_float or not isinstance(y, torch.Tensor) or not y.numel():
                continue
            limit = (HEADROOM if form.bits > 8 else 1.0) * form.largest  # nothing is computed in 8 bits: casts saturate
            if not bool(y.abs().amax() <= limit):
                if len(self.losses) > before and not bool(torch.isfinite(y).all()):
                    raise _Outside  # the domain's own loss leads back; a NaN in a second one would erase its gradient
                size = y.abs()
                over = torch.where(size > limit, (size.clamp(min=1e-30) / limit).log1p(), torch.zeros_like(size))
                self._violated(node, over, "overflows")
                if not bool(torch.isfinite(y).all()):
                    raise _Outside
        return result

    @property
    def violation(self) -> tuple[Node, str] | None:
        return None if self.first is None else (self.first, self.how)

    def _violated(self, node: Node, loss: torch.Tensor, how: str) -> None:
        if self.first is None:
            self.first, self.how = node, how
        if not self.want:
            raise _Outside
        self.losses.append(torch.nan_to_num(loss, nan=0.0, posinf=1e3).sum())


def unsafe_at(program: Program, leaves: Mapping[str, torch.Tensor]) -> tuple[Node, str] | None:
    """The first node that is outside its domain or overflows, and which of the two; None when all is safe."""
    watch = _Watch(leaves, losses=False)
    try:
        with torch.no_grad():
            evaluate(program.graph, dict(leaves), watch)
    except _Outside:
        assert watch.first is not None
        return watch.first, watch.how
    return None


def search(leaves: Sequence[Value], program: Program, source: Source, restarts: int = RESTARTS) -> Found:
    """Safe contents for the leaves (inputs and weights) of a program promoted to float64."""
    start = time.perf_counter()
    rng = np.random.default_rng(source.choose(1 << 30))
    order = {node.outputs[0]: i for i, node in enumerate(program.graph.nodes)}
    steps, violation, contents = 0, None, dict[str, np.ndarray]()
    for _ in range(restarts):
        furthest = -1
        for _ in range(CANDIDATES):
            drawn = {v.name: draw_contents(v, source, rng) for v in leaves}
            found = unsafe_at(program, as_tensors(leaves, drawn))
            if found is None or order.get(found[0].outputs[0], 0) > furthest:
                contents, violation = drawn, found
                furthest = order.get(found[0].outputs[0], 0) if found else furthest
            if found is None:
                break
        if violation is not None:
            taken, contents, violation = _descend(program, leaves, contents)
            steps += taken
        if violation is None:
            break
    why = f"{violation[0].op.name} {violation[1]}" if violation else ""
    return Found(contents, violation is None, steps, time.perf_counter() - start, why, violation[0].outputs[0] if violation else "")


def as_tensors(leaves: Sequence[Value], contents: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {v.name: to_torch(contents[v.name], v.format, torch.float64) for v in leaves}


def _descend(program: Program, leaves: Sequence[Value], contents: Mapping[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray], tuple[Node, str] | None]:
    """Descent on the losses of all operators reached, over every float leaf that has no range of its own.

    Steps are scaled by the leaf's own largest gradient, so that a loss far down a steep path moves its leaves as fast as one
    close by; rounding to the declared formats is checked as soon as no loss is left.
    """
    tensors = as_tensors(leaves, contents)
    free = [v for v in leaves if v.format.is_float and v.low is None and v.high is None]
    for v in free:
        tensors[v.name].requires_grad_(True)
    params = [tensors[v.name] for v in free]
    violation, found = unsafe_at(program, {k: t.detach() if isinstance(t, torch.Tensor) else t for k, t in tensors.items()}), dict(contents)
    if not params:
        return 0, found, violation
    best, stale, taken = float("inf"), 0, 0
    while taken < STEPS:
        taken += 1
        watch = _Watch(tensors, losses=True)
        with contextlib.suppress(_Outside):
            evaluate(program.graph, dict(tensors), watch)
        active = [x for x in watch.losses if x.requires_grad]
        if not active:
            found.update({v.name: rounded(tensors[v.name], v) for v in free})
            violation = unsafe_at(program, as_tensors(leaves, found)) if not watch.losses else watch.violation
            break
        total = torch.stack(active).sum()
        size = float(total.detach())
        stale = 0 if size < 0.97 * best else stale + 1
        best = min(best, size)
        if stale >= PATIENCE:
            violation = watch.violation
            break
        gradients = torch.autograd.grad(total, params, allow_unused=True)
        with torch.no_grad():
            for p, g in zip(params, gradients, strict=True):
                if g is not None and g.numel():
                    g = g.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
                    p -= RATE * (1 + p.abs()) * g / g.abs().amax().clamp(min=1e-30)
    return taken, found, violation


def rounded(tensor: torch.Tensor, v: Value) -> np.ndarray:
    limit = HEADROOM * v.format.largest
    return tensor.detach().nan_to_num().clamp(-limit, limit).numpy().astype(v.format.numpy)
