"""How errors travel through (x - mean) / sqrt(variance + epsilon), scaled and shifted: the normalisations share it.

A near-constant row makes the variance uncertain, above all where E[x^2] - E[x]^2 is legal: then 1/std is uncertain by
1/sqrt(1 - ev / (var + eps)) - 1 and undecided as soon as the variance's error reaches var + eps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from specs.contraction import drift, growth, overflowing, summed
from specs.formats import FLOAT, Format
from specs.numerics import COVERED, INF, TYPICAL, Ball, Policy, Radii, finite, settle

if TYPE_CHECKING:
    from torch import Tensor


#: Attributes are 32-bit floats; where a default is left out, a backend may take its decimal text (1e-5, 0.9) for it.
ATTRIBUTE = 2.0**-24


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
    share = (ev / total).nan_to_num(nan=1.0, posinf=1.0).clamp(max=1.0)
    return (1 - share).rsqrt() - 1 + 6 * u


def standardised(
    policy: Policy, form: Format, x: Tensor, radii: tuple[Any, Any], dims: Sequence[int], epsilon: float, centred: bool = True, always_one_pass: bool = False
) -> Standard:
    """x standardised over dims in a format; not `centred`, the mean is taken to be 0 (RMS)."""
    n, u, eta = math.prod(x.shape[d] for d in dims), policy.u(form), policy.eta(form)
    axes, g, h = tuple(dims), growth(policy, form, n), drift(policy, form, n)
    alone = centred and n == 1
    one_pass = centred and (policy.one_pass_variance or always_one_pass)
    mean = x.mean(axes, True) if centred else x.new_zeros(())
    c = x - mean
    deviation, squares = c.abs(), c.square()
    var = squares.mean(axes, True)
    total = var + epsilon
    inverse = total.rsqrt()
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for which, e, grow in ((0, radii[0], g), (1, radii[1], h)):
        size = x.abs() if e is None or which else x.abs() + finite(e)
        level, unit = size.mean(axes, True) if centred else mean, u * TYPICAL if which else u
        em = summed(policy, form, n, level, mean, 2)[which] if centred else mean
        ec = deviation * unit + em
        if centred and policy.reassociation:
            ec = ec + (size + level) * (2 * unit)
        ev = var * (grow + 2 * unit) + em.square() + (eta * (n + 1) + epsilon * ATTRIBUTE)
        if one_pass:
            ev = ev + size.square().mean(axes, True) * (2 * grow) + mean.abs() * em * 2
        if e is not None:
            e = finite(e).clamp(max=1e150)
            if which == 0:
                em, ec = em + (e.mean(axes, True) if centred else 0), ec + e + (e.mean(axes, True) if centred else 0)
                ev = ev + ((2 * deviation + e) * e).mean(axes, True)
            else:
                variance = e.square()
                shared = variance.mean(axes, True) / n if centred else mean
                em = (em.square() + shared).sqrt()
                ec = (ec.square() + variance + shared).sqrt()
                ev = (ev.square() + (squares * variance).mean(axes, True) * (4 / n) + variance.mean(axes, True).square()).sqrt()
        if alone:  # a single element is its own mean, whatever it is: only a folded form, or a fused square, sees it
            em, ec = em * 0 if e is None else e, (x.abs() if e is None else x.abs() + e) * (4 * unit if policy.reassociation else 0.0)
            ev = (x.square() if e is None else (x.abs() + e).square()) * (2 * unit if one_pass else 0.0) + (eta + epsilon * ATTRIBUTE)
        relative = inverse_root(total, ev, unit)
        ez = (deviation + ec) * inverse * relative + ec * inverse + eta
        if not one_pass and centred and which == 0:
            ez = ez.minimum(c.abs() * inverse + math.sqrt(n)).where(relative < INF, ez)
        found.append((em, ev, inverse * relative, ez))
    reached = (x.square().sum(axes, True)).expand_as(inverse)
    if reached.numel() and not float(reached.amax()) < 1e-3 * form.largest:  # squares overflow long before the result
        over = overflowing(policy, form, reached, reached * 0, reached * 0)[0]
        found = [(m, v + over, i + over, z + over) for m, v, i, z in found]
    return Standard(mean, var, inverse, c * inverse, *zip(*found, strict=True))  # type: ignore[arg-type]


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
    return settle(worst + own), settle((variance + (own * COVERED).square()).sqrt())


def shaped(ball: Ball | None, shape: Sequence[int]) -> Ball | None:
    """A parameter and its radii in the shape that broadcasts with the data."""
    return None if ball is None else Ball(*(None if t is None else t.reshape(shape) for t in ball))


def widest(*formats: Format | None) -> Format:
    """The coarsest of the formats an implementation may compute in."""
    return max((f for f in formats if f is not None), key=lambda f: f.u, default=FLOAT)
