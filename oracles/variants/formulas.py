"""Functions and normalisations by other formulas; in halves every step is rounded, which only the loosest policy allows."""

from __future__ import annotations

import math
from typing import Any

from oracles.rewriting import Run, is_float, lazily
from oracles.variants import variant

torch = lazily("torch")
softmax_axis = lazily("specs.ops.softmax")
normalisation = lazily("specs.ops.normalisation")
reduction = lazily("specs.ops.reduction")


# elementwise -----------------------------------------------------------------------------------------------------------
@variant("reciprocal-multiply", ["Div", "Mean", "ReduceMean", "GlobalAveragePool"])
def reciprocal_multiply(run: Run, node: Any, args: list[Any]) -> Any:
    """a / b as a * (1 / b); means as sum times 1 / n."""
    if not is_float(args[0]):
        return None
    if node.op.name == "Div":
        if node.version < 7:
            return None
        inverse = args[1].reciprocal()
        tiny = torch.finfo(inverse.dtype).tiny
        # Where the reciprocal overflows or is denormal this is not a legal way to divide.
        return args[0] * inverse if bool((inverse.isfinite() & (inverse.abs() >= tiny)).all()) else None
    if node.op.name == "Mean":
        total = args[0]
        for a in args[1:]:
            total = total + a
        return total * torch.tensor(1 / len(args), dtype=total.dtype) if bool(total.isfinite().all()) else None
    o = reduction.over(node, *args) if node.op.name == "ReduceMean" else None
    n = o.n if o is not None else math.prod(args[0].shape[2:])
    if not n or (args[0].ndim < 3 and o is None):
        return None
    x = _wide(args[0])
    total = o.sum(x) if o is not None else x.sum(tuple(range(2, x.ndim)), True)
    return (total * torch.tensor(1 / n, dtype=x.dtype)).to(args[0].dtype)


@variant("sigmoid-by-tanh", ["Sigmoid", "Swish"])
def sigmoid_by_tanh(run: Run, node: Any, args: list[Any]) -> Any:
    if not is_float(args[0]) or node.op.name != "Sigmoid":
        return None
    x = _wide(args[0])
    return ((x * 0.5).tanh() * 0.5 + 0.5).to(args[0].dtype)


@variant("sigmoid-by-exp", ["Sigmoid"])
def sigmoid_by_exp(run: Run, node: Any, args: list[Any]) -> Any:
    """1 / (1 + exp(-x)), every step rounded."""
    return (1 + (-args[0]).exp()).reciprocal() if is_float(args[0]) else None


@variant("tanh-by-exp", ["Tanh"])
def tanh_by_exp(run: Run, node: Any, args: list[Any]) -> Any:
    x = _wide(args[0])
    return (1 - 2 / ((2 * x).exp() + 1)).to(args[0].dtype) if is_float(args[0]) else None


@variant("gelu-decomposed", ["Gelu"])
def gelu(run: Run, node: Any, args: list[Any]) -> Any:
    """The definition, every step rounded."""
    x = args[0]
    if node.op.domain or not is_float(x):
        return None
    if node.approximate == "tanh":
        return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))).tanh()) if bool((x.abs() < 30).all()) else None
    return 0.5 * x * (1 + (x * math.sqrt(0.5)).erf())


@variant("exp-by-exp2", ["Exp"], policy="strict")
def exp_by_exp2(run: Run, node: Any, args: list[Any]) -> Any:
    """exp2(x log2 e) with what the product lost put back, as libraries do; without that it is a fault."""
    x = args[0]
    if not is_float(x) or x.dtype is torch.float64:
        return None
    wide = x.float()
    t = wide * math.log2(math.e)
    rest = (wide.double() * math.log2(math.e) - t.double()).float()
    return (t.exp2() * (1 + rest * math.log(2))).to(x.dtype)


@variant("pow-by-log", ["Pow"])
def pow_by_log(run: Run, node: Any, args: list[Any]) -> Any:
    x, y = args
    if not is_float(x) or not is_float(y) or x.dtype != y.dtype or node.version < 7 or not bool((x > 0).all()):
        return None
    return (_wide(y) * _wide(x).log()).exp().to(x.dtype)


@variant("sqrt-by-rsqrt", ["Sqrt"])
def sqrt_by_rsqrt(run: Run, node: Any, args: list[Any]) -> Any:
    x = args[0]
    if not is_float(x) or not bool((x > torch.finfo(x.dtype).tiny).all()):
        return None
    return (_wide(x) * _wide(x).rsqrt()).to(x.dtype)


@variant("softplus-by-log", ["Softplus"])
def softplus_by_log(run: Run, node: Any, args: list[Any]) -> Any:
    x = args[0]
    return (1 + (-x.abs()).exp()).log() + x.clamp(min=0) if is_float(x) else None


# softmax and norms -------------------------------------------------------------------------------------------------------
@variant("softmax-decomposed", ["Softmax", "LogSoftmax"])
def softmax(run: Run, node: Any, args: list[Any]) -> Any:
    """exp(x - max) times the reciprocal of its sum, every step rounded."""
    if not is_float(args[0]) or not args[0].numel():
        return None
    x, axis = softmax_axis._coerced(node, args[0])
    c = x - x.amax(axis, keepdim=True)
    total = c.exp().sum(axis, keepdim=True)
    y = c.exp() * total.reciprocal() if node.op.name == "Softmax" else c - total.log()
    return y.reshape(args[0].shape)


@variant("softmax-two-pass", ["Softmax"])
def softmax_two_pass(run: Run, node: Any, args: list[Any]) -> Any:
    """exp(x - (max + log sum exp)): one exponential per element, an error of u times the logits."""
    if not is_float(args[0]) or not args[0].numel():
        return None
    x, axis = softmax_axis._coerced(node, args[0])
    x = _wide(x)
    top = x.amax(axis, keepdim=True)
    c = x - top
    return (c - c.exp().sum(axis, keepdim=True).log()).exp().to(args[0].dtype).reshape(args[0].shape)


def _normalised(node: Any, args: list[Any], one_pass: bool, folded: bool) -> Any:
    """LayerNormalization and InstanceNormalization, y only."""
    x = args[0]
    if not is_float(x) or not x.numel() or any(bool(o) for o in node.outputs[1:]):
        return None
    wide = _wide(x)
    if node.op.name == "InstanceNormalization":
        dims, shape = tuple(range(2, x.ndim)), [-1, *[1] * (x.ndim - 2)]
        scale, bias = args[1].reshape(shape), args[2].reshape(shape)
        if not dims:
            return None
    else:
        dims, scale, bias = normalisation._last(node, x), args[1], args[2] if len(args) > 2 else None
        if (node.stash_type or 1) != 1:
            return None
    mean = wide.mean(dims, True)
    var = (wide * wide).mean(dims, True) - mean * mean if one_pass else (wide - mean).square().mean(dims, True)
    inverse = 1 / (var.clamp(min=0) + node.epsilon).sqrt()
    factor = inverse * _wide(scale)
    y = wide * factor + ((0 if bias is None else _wide(bias)) - mean * factor) if folded else (wide - mean) * factor + (0 if bias is None else _wide(bias))
    return y.to(x.dtype)


@variant("variance-one-pass", ["LayerNormalization", "InstanceNormalization"])
def one_pass(run: Run, node: Any, args: list[Any]) -> Any:
    """E[x^2] - E[x]^2."""
    return _normalised(node, args, one_pass=True, folded=False)


@variant("norm-folded", ["LayerNormalization", "InstanceNormalization"])
def norm_folded(run: Run, node: Any, args: list[Any]) -> Any:
    """x times a factor plus an offset: cancels for rows with a large mean."""
    return _normalised(node, args, one_pass=False, folded=True)


def _folded_scale(node: Any, args: list[Any]) -> tuple[Any, Any] | None:
    x, scale, bias, mean, var = args[:5]
    if node.training_mode or node.version < 9 or x.ndim < 2 or not is_float(x) or any(bool(o) for o in node.outputs[1:]):
        return None
    factor = _wide(scale) / (_wide(var) + node.epsilon).sqrt()
    return factor, _wide(bias) - _wide(mean) * factor


@variant("batchnorm-folded", ["BatchNormalization"])
def batchnorm_folded(run: Run, node: Any, args: list[Any]) -> Any:
    found = _folded_scale(node, args)
    if found is None:
        return None
    shape = [-1, *[1] * (args[0].ndim - 2)]
    return (_wide(args[0]) * found[0].reshape(shape) + found[1].reshape(shape)).to(args[0].dtype)


@variant("batchnorm-into-conv", ["BatchNormalization"])
def batchnorm_into_conv(run: Run, node: Any, args: list[Any]) -> Any:
    """The factor multiplied into the weights of the convolution before."""
    found, maker = _folded_scale(node, args), run.maker(args[0])
    if found is None or maker is None or maker[0].op.name != "Conv":
        return None
    conv, (x, w, *b) = maker
    factor, offset = (t.to(w.dtype) for t in found)
    bias = offset if not b or b[0] is None else b[0] * factor + offset
    return run.honest(conv, [x, w * factor.reshape(-1, *[1] * (w.ndim - 1)), bias])


# everything at once ------------------------------------------------------------------------------------------------------
def _mixed(turn: int) -> None:
    @variant(f"mixed-{turn}")
    def mixed(run: Run, node: Any, args: list[Any]) -> Any:
        """At every node another of the variants that know it."""
        from oracles.variants import variants

        able = [v for v in variants().values() if node.op.name in v.ops and not node.op.domain and v.policy != "winograd"]
        return able[(len(run.done) * 7 + turn * 3) % len(able)].at(run, node, args) if able else None


for _turn in (1, 2, 3):
    _mixed(_turn)


def _wide(t: Any) -> Any:
    return t.float() if t.dtype.itemsize < 4 else t
