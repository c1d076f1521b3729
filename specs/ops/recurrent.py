"""RNN, GRU and LSTM: every direction, layout, activation, clip, peephole, length and initial state.

One loop over time serves all three; the error rule runs the same loop on tracked values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from specs import Draw, Rule, op
from specs.program import Node
from specs.rule import Operand
from specs.terms import known
from specs.tracked import CONSTANTS, Tracked, monotone, onto, steady, traced

Activation = Callable[[Any], Any]

#: Defaults of alpha and beta of the activations that take them.
PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "affine": (1.0, 0.0), "leakyrelu": (0.01, None), "thresholdedrelu": (1.0, None), "scaledtanh": (1.0, 1.0), "hardsigmoid": (0.2, 0.5), "elu": (1.0, None),
}  # fmt: skip
NAMES = ["Tanh", "Sigmoid", "Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"]


def _leaky(t: Tensor, alpha: float) -> Tensor:
    return torch.where(t >= 0, t, alpha * t)


def _activation(name: str, alpha: float, beta: float) -> Activation:
    """The function, its rounding constants, and how an error passes through it."""
    if name == "thresholdedrelu":
        return lambda x: steady(x, lambda t: t.masked_fill(t < alpha, 0.0), 1.0, 0, 0, jump=lambda t, e: ((t - alpha).abs() <= e) * abs(alpha))
    table: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
        "tanh": (torch.tanh, *CONSTANTS["tanh"]),
        "sigmoid": (torch.sigmoid, *CONSTANTS["sigmoid"]),
        "relu": (torch.relu, 0, 0),
        "softsign": (F.softsign, 4, 0),
        "softplus": (lambda t: t.clamp(min=0) + (-t.abs()).exp().log1p(), *CONSTANTS["softplus"]),
        "affine": (lambda t: alpha * t + beta, 2, 2 * abs(beta)),
        "leakyrelu": (lambda t: _leaky(t, alpha), 1, 0),
        "elu": (lambda t: F.elu(t, alpha), 4, 4 * abs(alpha)),
        "scaledtanh": (lambda t: alpha * torch.tanh(beta * t), 14, 2 * abs(alpha)),
        "hardsigmoid": (lambda t: (alpha * t + beta).clamp(0, 1), 2, 2 * abs(beta) + 2),
    }
    f, k, m = table[name]
    if name in ("leakyrelu", "elu") and alpha < 0:  # no longer monotone, but never steeper than this
        return lambda x: steady(x, f, max(1.0, -alpha), k, m)
    return lambda x: monotone(x, f, k, m)


def _activations(a: Node, defaults: Sequence[str], directions: int) -> Iterator[list[Activation]]:
    """The functions of each direction. Alphas and betas are consumed in order by the functions that take one."""
    names = [n.lower() for n in a.activations or [*defaults] * directions]
    alphas, betas = iter(a.activation_alpha or []), iter(a.activation_beta or [])
    made = list[Activation]()
    for name in names:
        alpha, beta = PARAMETERS.get(name, (None, None))
        alpha = None if alpha is None else next(alphas, alpha)
        beta = None if beta is None else next(betas, beta)
        made.append(_activation(name, alpha or 0.0, beta or 0.0))
    for d in range(directions):
        yield made[d * len(defaults) : (d + 1) * len(defaults)]


def _clip(a: Node, x: Any) -> Any:
    return x if not a.clip else x.clamp(-a.clip, a.clip)


Step = Callable[..., tuple[Any, ...]]


def _over_time(
    a: Node, defaults: Sequence[str], step: Step, x: Any, w: Any, r: Any, b: Any, lengths: Any, starts: Sequence[Any], *extra: Any
) -> tuple[Any, ...]:
    """All directions of a recurrence: `step(a, functions, projected input, states, R, recurrence bias, *extra)` gives the next states."""
    if a.layout:
        x, starts = x.transpose(0, 1), [None if s is None else s.transpose(0, 1) for s in starts]
    longest, batch, directions, hidden = x.shape[0], x.shape[1], w.shape[0], r.shape[-1]
    ys, finals = list[Any](), list[Any]()
    for d, functions in enumerate(_activations(a, defaults, directions)):
        backward = a.direction == "reverse" or d == 1
        order = _order(longest, batch, lengths) if backward else None
        xs = x if order is None else x[order]
        w_bias, r_bias = (None, None) if b is None else b[d].chunk(2)
        projected = xs @ w[d].transpose(0, 1)
        if w_bias is not None:
            projected = onto(w_bias, projected, xs.shape[-1])
        states = tuple(torch.zeros((batch, hidden), dtype=x.dtype) if s is None else s[d] for s in starts)
        rows = list[Any]()
        for t in range(longest):
            new = step(a, functions, projected[t], states, r[d].transpose(0, 1), r_bias, *(None if e is None else e[d] for e in extra))
            if lengths is None:
                rows.append(new[0])
            else:
                alive = (lengths > t).unsqueeze(1)
                rows.append(torch.where(alive, new[0], torch.zeros((), dtype=x.dtype)))
                new = tuple(torch.where(alive, n, s) for n, s in zip(new, states, strict=True))
            states = new
        y = torch.stack(rows) if rows else torch.zeros((0, batch, hidden), dtype=x.dtype)
        ys.append(y if order is None else y[order])
        finals.append(states)
    y = torch.stack(ys, 1)
    states = tuple(torch.stack([f[k] for f in finals]) for k in range(len(starts)))
    if not a.layout:
        return (y, *states)
    return (y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in states))


def _order(longest: int, batch: int, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Indices that turn each sequence round within its own length; applied twice they do nothing."""
    t = torch.arange(longest).unsqueeze(1)
    n = torch.full((batch,), longest) if lengths is None else lengths.to(torch.int64)
    return torch.where(t < n, n - 1 - t, t), torch.arange(batch).expand(longest, batch)


def _rnn_step(a: Node, f: Sequence[Activation], x: Any, states: Sequence[Any], r: Any, bias: Any) -> tuple[Any, ...]:
    v = onto(x, states[0] @ r, r.shape[0])
    return (f[0](_clip(a, v if bias is None else v + bias)),)


def _gru_step(a: Node, f: Sequence[Activation], x: Any, states: Sequence[Any], r: Any, bias: Any) -> tuple[Any, ...]:
    h = states[0]
    n = h.shape[-1]
    v = onto(x[:, : 2 * n], h @ r[:, : 2 * n], n)
    v = f[0](_clip(a, v if bias is None else v + bias[: 2 * n]))
    z, reset = v[:, :n], v[:, n:]
    last = None if bias is None else bias[2 * n :]
    if a.linear_before_reset:
        inner = h @ r[:, 2 * n :]
        new = x[:, 2 * n :] + reset * (inner if last is None else inner + last)
    else:
        new = onto(x[:, 2 * n :], (reset * h) @ r[:, 2 * n :], n)
        new = new if last is None else new + last
    new = f[1](_clip(a, new))
    return ((1 - z) * new + z * h,)


def _lstm_step(a: Node, f: Sequence[Activation], x: Any, states: Sequence[Any], r: Any, bias: Any, peephole: Any) -> tuple[Any, ...]:
    h, c = states
    v = onto(x, h @ r, r.shape[0])
    v, n = v if bias is None else v + bias, h.shape[-1]
    new = f[1](_clip(a, v[:, 3 * n :]))
    if peephole is None:
        i, o, forget = f[0](_clip(a, v[:, : 3 * n])).chunk(3, 1)
        c = (1 - i if a.input_forget else forget) * c + i * new
    else:
        (p_i, p_o, p_f), (i, o, forget) = peephole.chunk(3), v[:, : 3 * n].chunk(3, 1)
        i = f[0](_clip(a, i + p_i * c))
        forget = 1 - i if a.input_forget else f[0](_clip(a, forget + p_f * c))
        c = forget * c + i * new
        o = f[0](_clip(a, o + p_o * c))
    return o * f[2](_clip_or_not(a, c)), c


def _clip_or_not(a: Node, c: Any) -> Any:
    """Whether clip, "applied to the input of activations", also applies to h(Ct) is read both ways: the difference is tolerated."""
    clipped = _clip(a, c)
    if not isinstance(c, Tracked) or not a.clip:
        return clipped
    apart = (c.value - clipped.value).abs()
    return Tracked(clipped.value, c.worst + apart, c.spread + apart, c.rounding)


def _rnn(a: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None) -> tuple[Any, ...]:
    return _over_time(a, ["Tanh"], _rnn_step, x, w, r, b, lengths, [h])


def _gru(a: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None) -> tuple[Any, ...]:
    return _over_time(a, ["Sigmoid", "Tanh"], _gru_step, x, w, r, b, lengths, [h])


def _lstm(a: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None, p: Any = None) -> tuple[Any, ...]:
    return _over_time(a, ["Sigmoid", "Tanh", "Tanh"], _lstm_step, x, w, r, b, lengths, [h, c], p)


# drawing ---------------------------------------------------------------------------------------------------------------
def _some_activations(g: Draw, count: int) -> dict[str, Any]:
    """Now and then other functions than the default ones, with or without their own alpha and beta."""
    if g.flag(0.6):
        return {}
    names = [g.pick(NAMES) for _ in range(count)]
    attrs: dict[str, Any] = {"activations": names}
    if g.flag() or {"Affine", "ScaledTanh"} & {*names}:  # these two have no defaults that ONNX still defines
        for i, key in enumerate(("activation_alpha", "activation_beta")):
            taken = [n for n in names if PARAMETERS.get(n.lower(), (None, None))[i] is not None]
            if taken:
                attrs[key] = [g.pick([0.5, 0.25, 0.75, 0.1, 1.0]) for _ in taken]
    return attrs


def _recurrence(g: Draw, gates: int, functions: int, states: int) -> Rule:
    layout = 1 if g.opset >= 14 and g.flag(0.12) else 0
    x = g.operand(rank=3)
    longest, batch = (x[1], x[0]) if layout else (x[0], x[1])
    g.require(longest <= 17)
    direction = g.pick(["forward", "reverse", "bidirectional"])
    d, hidden = 2 if direction == "bidirectional" else 1, g.size(1, 12)
    inputs: list[Operand | None] = [x, g.operand(like=[d, gates * hidden, x[2]], role="weight"), g.operand(like=[d, gates * hidden, hidden], role="weight")]

    def optional(chance: float, draw: Callable[[], Operand]) -> None:
        if g.flag(chance):
            inputs.append(draw())
        else:
            g.skip()
            inputs.append(None)

    state = [batch, d, hidden] if layout else [d, batch, hidden]
    optional(0.6, lambda: g.operand(like=[d, 2 * gates * hidden], role="weight"))
    optional(0.3 if known(longest) else 0.0, lambda: g.given([batch], 1, longest))
    for _ in range(states):
        optional(0.4, lambda: g.operand(like=state))
    attrs: dict[str, Any] = {"hidden_size": hidden, **_some_activations(g, functions * d)}
    if direction != "forward" or g.flag(0.2):
        attrs["direction"] = direction
    if layout:
        attrs["layout"] = 1
    if (states == 1 or "activations" not in attrs) and g.flag(0.15):  # whether LSTM clips h(Ct) is read both ways: it must not matter
        attrs["clip"] = g.pick([1.0, 0.5, 3.0])
    if g.flag(0.05):
        del attrs["hidden_size"]  # optional: the weights say it as well
    y = [batch, longest, d, hidden] if layout else [longest, d, batch, hidden]
    wanted = g.pick(["all", "first", "last"])
    outputs = [None if wanted == "last" else y, *(None if wanted == "first" else state for _ in range(states))]
    return Rule(inputs, outputs, attrs)


@op("RNN", meaning=_rnn, error=traced(coherent=True))
def rnn(g: Draw) -> Rule:
    return _recurrence(g, 1, 1, 1)


@op("GRU", meaning=_gru, error=traced(coherent=True))
def gru(g: Draw) -> Rule:
    """With linear_before_reset the recurrence bias of the hidden gate moves inside the reset."""
    rule = _recurrence(g, 3, 2, 1)
    return Rule(rule.inputs, rule.outputs, {**rule.attrs, "linear_before_reset": 1}) if g.flag() else rule


@op("LSTM", meaning=_lstm, error=traced(coherent=True))
def lstm(g: Draw) -> Rule:
    rule = _recurrence(g, 4, 3, 2)
    inputs, attrs = list(rule.inputs), dict(rule.attrs)
    if g.flag(0.3):
        hidden, d = inputs[2][2], inputs[2][0]  # type: ignore[index]
        inputs.append(g.operand(like=[d, 3 * hidden], role="weight"))
    if g.flag(0.15):
        attrs["input_forget"] = 1
    return Rule(inputs, rule.outputs, attrs)
