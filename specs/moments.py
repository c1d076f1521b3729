"""How errors travel through (x - mean) / sqrt(variance + epsilon), scaled and shifted: the normalisations share it.

A near-constant row makes the variance uncertain, above all where E[x^2] - E[x]^2 is legal: then 1/std is uncertain by
1/sqrt(1 - ev / (var + eps)) - 1 and undecided as soon as the variance's error reaches var + eps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from specs.contraction import drift, growth, overflowing, summed
from specs.formats import FLOAT, Format
from specs.numerics import COVERED, INF, TYPICAL, Ball, Policy, Radii, finite, settle

if TYPE_CHECKING:
    from torch import Tensor


#: Attributes are 32-bit floats; where a default is left out, a backend may take its decimal text (1e-5, 0.9) for it.
ATTRIBUTE = 2.0**-24
#: What the roundings of a scale and a shift count in quadrature: in halves each of the four steps is a whole one.
SCALED = 0.4


class Standard(NamedTuple):
    """A standardised tensor z, the mean, variance and 1/std it was made with (dims kept), and their radii."""

    mean: Tensor
    var: Tensor
    inverse: Tensor
    z: Tensor
    mean_radii: tuple[Tensor, Tensor]
    var_radii: tuple[Tensor, Tensor]
    inverse_radii: tuple[Tensor, Tensor]
    z_radii: tuple[Tensor, Tensor]


def narrowed(ball: Ball, policy: Policy, declared: Format | None, used: Format) -> tuple[Any, Any]:
    """Radii of the operand after its cast to the format of the first stage: a double loses something, a half nothing."""
    if declared is None or used.u <= declared.u:
        return ball.worst, ball.spread
    cut = ball.value.abs() * policy.u(used)
    return (cut, cut) if ball.worst is None else (ball.worst + cut, (ball.spread.square() + cut.square()).sqrt())


def inverse_root(total: Tensor, ev: Tensor, u: float) -> Tensor:
    """Relative error of 1/sqrt(total) when total is uncertain by ev; infinite as soon as it may be zero."""
    return _root(total, ev) + 6 * u


def _root(total: Tensor, ev: Tensor) -> Tensor:
    share = (ev / total).nan_to_num(nan=1.0, posinf=1.0).clamp(max=1.0)
    return (1 - share).rsqrt() - 1


def standardised(
    policy: Policy, form: Format, x: Tensor, radii: tuple[Any, Any], dims: Sequence[int], epsilon: float, centred: bool = True, always_one_pass: bool = False
) -> Standard:
    """x standardised over dims in a format; not `centred`, the mean is taken to be 0 (RMS)."""
    n, axes = math.prod(x.shape[d] for d in dims), tuple(dims)
    size = x.abs()
    mean = x.mean(axes, True) if centred else x.new_zeros(())
    level = size.mean(axes, True) if centred else mean
    c = x - mean
    squares = c.square()
    var = squares.mean(axes, True)
    total = var + epsilon
    inverse = total.rsqrt()
    row = _Row(policy, form, n, axes, centred, centred and (policy.one_pass_variance or always_one_pass), size, mean, level, c, squares, var, total, inverse)
    found = [row.worst(radii[0], epsilon), row.spread(radii[1], epsilon)]
    reached = (x.square().sum(axes, True)).expand_as(inverse)
    if reached.numel() and not float(reached.amax()) < 1e-3 * form.largest:  # squares overflow long before the result
        over = overflowing(policy, form, reached, reached * 0, reached * 0)[0]
        found = [(m, v + over, i + over, z + over) for m, v, i, z in found]
    return Standard(mean, var, inverse, c * inverse, *zip(*found, strict=True))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Row:
    """What both radii of a standardised row are made from: |x|, mean, mean |x|, x - mean, its square, their mean, plus epsilon, 1/std."""

    policy: Policy
    form: Format
    n: int
    axes: tuple[int, ...]
    centred: bool
    one_pass: bool
    size: Tensor
    mean: Tensor
    level: Tensor
    c: Tensor
    squares: Tensor
    var: Tensor
    total: Tensor
    inverse: Tensor

    def worst(self, e: Any, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Certified radii of mean, variance, 1/std and z."""
        policy, form, axes, centred, mean = self.policy, self.form, self.axes, self.centred, self.mean
        u, eta, grow, deviation, size, level = policy.u(form), policy.eta(form), growth(policy, form, self.n), self.c.abs(), self.size, self.level
        second = self.var + mean.square()
        if e is not None:
            e = finite(e).clamp(max=1e150)
            size = size + e
            level, second = size.mean(axes, True) if centred else mean, size.square().mean(axes, True)
        if centred and self.n == 1:
            return self._alone(e, size, u, epsilon)
        em = summed(policy, form, self.n, level, mean, 2)[0] if centred else mean
        ec = deviation * u + em
        if centred and policy.reassociation:
            ec = ec + (size + level) * (2 * u)
        ev = self.var * (grow + 2 * u) + em.square() + (eta * (self.n + 1) + epsilon * ATTRIBUTE)
        if self.one_pass:
            ev = ev + second * (2 * grow) + mean.abs() * em * 2
        if e is not None:
            shift = e.mean(axes, True) if centred else 0
            em, ec, ev = em + shift, ec + e + shift, ev + ((2 * deviation + e) * e).mean(axes, True)
        relative = inverse_root(self.total, ev, u)
        ez = (deviation + ec) * self.inverse * relative + ec * self.inverse + eta
        if not self.one_pass and centred:
            ez = ez.minimum(deviation * self.inverse + math.sqrt(self.n)).where(relative < INF, ez)
        return em, ev, self.inverse * relative, ez

    def spread(self, e: Any, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same in quadrature: every step rounds by itself."""
        policy, form, axes, centred, mean, n = self.policy, self.form, self.axes, self.centred, self.mean, self.n
        u, eta, grow = policy.u(form) * TYPICAL, policy.eta(form), drift(policy, form, n)
        if e is not None:
            e = finite(e).clamp(max=1e150)
        if centred and n == 1:
            return self._alone(e, self.size if e is None else self.size + e, u, epsilon)
        em = summed(policy, form, n, self.level, mean, 2)[1] if centred else mean
        second = self.var + mean.square()
        ec = self.squares * u**2  # ec and ev are squares up to the end
        if centred and policy.reassociation:
            ec = ec + (self.size.square() + mean.square()) * (2 * u**2)  # two roundings of each
        ev = (self.var * (grow + 2 * u)).square()
        if self.one_pass:
            ev = ev + (second * (2 * grow)).square() + (mean * em).square() * 4
        if e is not None:
            variance = e.square()
            if centred:
                em = (em.square() + variance.mean(axes, True) / n).sqrt()
            ec, ev = ec + variance, ev + (self.squares * variance).mean(axes, True) * (4 / n) + variance.mean(axes, True).square()
        ec = (ec + em.square()).sqrt()
        ev = ev.sqrt() + em.square() + (eta * (n + 1) + epsilon * ATTRIBUTE)
        relative = (_root(self.total, ev).square() + (6 * COVERED * policy.u(form)) ** 2).sqrt()
        ez = ((self.c * relative).square() + (ec * (1 + relative)).square()).sqrt() * self.inverse + eta
        return em, ev, self.inverse * relative, ez

    def _alone(self, e: Any, size: Tensor, u: float, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A single element is its own mean, whatever it is: only a folded form, or a fused square, sees it."""
        eta = self.policy.eta(self.form)
        em, ec = self.mean * 0 if e is None else e, size * (4 * u if self.policy.reassociation else 0.0)
        ev = size.square() * (2 * u if self.one_pass else 0.0) + (eta + epsilon * ATTRIBUTE)
        relative = inverse_root(self.total, ev, u)
        return em, ev, self.inverse * relative, (self.c.abs() + ec) * self.inverse * relative + ec * self.inverse + eta


def affine(policy: Policy, form: Format | None, z: Tensor, radii: tuple[Tensor, Tensor], scale: Ball | None, bias: Ball | None, k: float = 4.0) -> Radii:
    """z * scale + bias, rounded to a format: scale and bias of a shape that broadcasts, None for 1 and 0."""
    u, eta = policy.u(form), policy.eta(form)
    worst, spread = finite(radii[0]), finite(radii[1]).clamp(max=1e150)
    size, variance = z.abs(), spread.square()
    if scale is not None:
        s = scale.value.abs()
        if scale.worst is not None:
            e = finite(scale.worst)
            worst = worst * (s + e) + size * e
            v = finite(scale.spread).clamp(max=1e150).square()
            variance = variance * (s.square() + v) + size.square() * v
        else:
            worst, variance = worst * s, variance * s.square()
        size = size * s
    magnitude = size
    if bias is not None:
        magnitude = magnitude + bias.value.abs()
        if bias.worst is not None:
            worst, variance = worst + finite(bias.worst), variance + finite(bias.spread).clamp(max=1e150).square()
    own = magnitude * (k * u) + eta
    return settle(worst + own), settle((variance + (own * SCALED).square()).sqrt())


def shaped(ball: Ball | None, shape: Sequence[int]) -> Ball | None:
    """A parameter and its radii in the shape that broadcasts with the data."""
    return None if ball is None else Ball(*(None if t is None else t.reshape(shape) for t in ball))


def widest(*formats: Format | None) -> Format:
    """The coarsest of the formats an implementation may compute in."""
    return max((f for f in formats if f is not None), key=lambda f: f.u, default=FLOAT)
