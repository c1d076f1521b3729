"""Operators that mean something slightly else: other roundings, other ties, other edges, other formulas."""

from __future__ import annotations

import math
from typing import Any

from oracles.faults import fault
from oracles.faults.attributes import other
from oracles.faults.kernels import first
from oracles.rewriting import Run, is_float, lazily

torch = lazily("torch")
softmax_axis = lazily("specs.ops.softmax")
scanning = lazily("specs.ops.scanning")


# rounding and conversion -------------------------------------------------------------------------------------------------
@fault("round-half-away", "subtle", ("Round",))
def round_half_away(run: Run, node: Any, args: list[Any]) -> Any:
    return args[0].sign() * (args[0].abs() + 0.5).floor()


@fault("round-down", "subtle", ("Round", "Ceil", "QuantizeLinear"), each=True)
def round_down(run: Run, node: Any, args: list[Any]) -> Any:
    if node.op.name == "QuantizeLinear":
        return run.honest(node, [args[0] - 0.5 * args[1], *args[1:]]) if args[1].numel() == 1 and args[1].dtype == args[0].dtype else None
    return args[0].floor()


@fault("floor-toward-zero", "subtle", ("Floor",))
def floor_toward_zero(run: Run, node: Any, args: list[Any]) -> Any:
    return args[0].trunc()


@fault("floor-div", "subtle", ("Div",))
def floor_div(run: Run, node: Any, args: list[Any]) -> Any:
    """Integers divided like in Python instead of like in C."""
    if is_float(args[0]) or bool((args[1] == 0).any()) or node.in_formats[0].kind != "int":
        return None
    return torch.div(args[0], args[1], rounding_mode="floor")


@fault("mod-sign", "subtle", ("Mod",))
def mod_sign(run: Run, node: Any, args: list[Any]) -> Any:
    """The remainder has the sign of the other operand."""
    if is_float(args[0]) or node.in_formats[0].kind != "int" or bool((args[1] == 0).any()):
        return None
    return torch.remainder(*args) if node.fmod else torch.fmod(*args)


@fault("cast-rounds", "subtle", ("Cast", "CastLike"))
def cast_rounds(run: Run, node: Any, args: list[Any]) -> Any:
    """A float becomes the nearest integer instead of being cut."""
    form = node.out_formats[0]
    return run.honest(node, [args[0].round(), *args[1:]]) if is_float(args[0]) and form is not None and form.is_integer else None


@fault("cast-saturates", "subtle", ("Cast", "CastLike"))
def cast_saturates(run: Run, node: Any, args: list[Any]) -> Any:
    """Integers that do not fit are clamped instead of wrapped."""
    form = node.out_formats[0]
    if is_float(args[0]) or form is None or not form.is_integer or form.bits >= 64 or args[0].dtype is torch.bool:
        return None
    return run.honest(node, [args[0].clamp(max(int(form.lowest), -(2**31)), int(form.largest)) if args[0].dtype.itemsize > 4 else args[0], *args[1:]])


@fault("int-saturates", "subtle", ("Add", "Mul", "Sub"), each=True)
def int_saturates(run: Run, node: Any, args: list[Any]) -> Any:
    """Small integers saturate where ONNX wraps."""
    form = node.out_formats[0]
    if form is None or not form.is_integer or form.bits > 32:
        return None
    f = {"Add": torch.add, "Mul": torch.mul, "Sub": torch.sub}[node.op.name]
    return f(args[0].long(), args[1].long()).clamp(int(form.lowest), int(form.largest)).to(args[0].dtype)


@fault("int-in-float", "subtle", ("Add", "Mul", "ReduceSum", "MatMul", "Sum"), each=True)
def int_in_float(run: Run, node: Any, args: list[Any]) -> Any:
    """Integers computed in float32."""
    form = node.out_formats[0]
    if is_float(args[0]) or form is None or form.bits < 32 or any(isinstance(a, torch.Tensor) and a.dtype is torch.bool for a in args):
        return None
    return first(run, node, args, lambda y: y.float().clamp(-9e18, 9e18))


# ties, NaN, edges --------------------------------------------------------------------------------------------------------
@fault("ties-last", "subtle", ("ArgMax", "ArgMin"), each=True)
def ties_last(run: Run, node: Any, args: list[Any]) -> Any:
    return other(run, node, args, select_last_index=1 - (node.select_last_index or 0))


@fault("nan-lost", "subtle", ("Max", "Min", "Relu", "Clip"), each=True)
def nan_lost(run: Run, node: Any, args: list[Any]) -> Any:
    """A NaN becomes zero: seen only with NaN inputs, which safe inputs have not."""
    return first(run, node, args, lambda y: y.nan_to_num(nan=0.0) if is_float(y) and bool(y.isnan().any()) else None)


@fault("signed-zero-lost", "legal", ("Neg", "Mul", "Relu", "Round", "Ceil"))
def signed_zero_lost(run: Run, node: Any, args: list[Any]) -> Any:
    return first(run, node, args, lambda y: y + 0.0 if is_float(y) and bool(((y == 0) & y.signbit()).any()) else None)


@fault("denormals-flushed", "legal", ("Add", "Mul", "MatMul", "Exp", "Softmax", "Div"))
def denormals_flushed(run: Run, node: Any, args: list[Any]) -> Any:
    """Not of halves: there everything below 6e-5 would be lost."""
    return first(
        run, node, args, lambda y: torch.where(y.abs() < torch.finfo(y.dtype).tiny, torch.zeros_like(y), y) if is_float(y) and y.dtype.itemsize >= 4 else None
    )


@fault("strict-comparison", "subtle", ("LessOrEqual", "GreaterOrEqual", "Less", "Greater"), each=True)
def strict_comparison(run: Run, node: Any, args: list[Any]) -> Any:
    """Equality falls on the wrong side."""
    f = {"LessOrEqual": torch.lt, "GreaterOrEqual": torch.gt, "Less": torch.le, "Greater": torch.ge}[node.op.name]
    return f(*args) if node.version >= 7 and node.in_formats[0].name != "uint64" else None


@fault("relu-at-edge", "subtle", ("Relu", "LeakyRelu", "Clip", "PRelu"), each=True, strengths=(2.0**-3, 2.0**-7))
def relu_at_edge(run: Run, node: Any, args: list[Any], width: float) -> Any:
    """Small values taken for zero."""
    return first(run, node, args, lambda y: torch.where(y.abs() < width, torch.zeros_like(y), y) if is_float(y) else None)


# formulas ----------------------------------------------------------------------------------------------------------------
@fault("gelu-tanh", "precision", ("Gelu",))
def gelu_tanh(run: Run, node: Any, args: list[Any]) -> Any:
    return torch.nn.functional.gelu(args[0], approximate="tanh") if node.approximate != "tanh" else None


@fault("gelu-sigmoid", "gross", ("Gelu",))
def gelu_sigmoid(run: Run, node: Any, args: list[Any]) -> Any:
    return args[0] * torch.sigmoid(1.702 * args[0])


@fault("sigmoid-clamped", "subtle", ("Sigmoid",), strengths=(4, 8))
def sigmoid_clamped(run: Run, node: Any, args: list[Any], limit: int) -> Any:
    return args[0].clamp(-limit, limit).sigmoid()


@fault("tanh-rational", "precision", ("Tanh",))
def tanh_rational(run: Run, node: Any, args: list[Any]) -> Any:
    """A rational function of low degree: 2^-12 off in the middle."""
    x = args[0].float().clamp(-4.97, 4.97)
    s = x * x
    return (x * (135135 + s * (17325 + s * (378 + s))) / (135135 + s * (62370 + s * (3150 + s * 28)))).to(args[0].dtype)


@fault("erf-approximated", "precision", ("Erf",))
def erf_approximated(run: Run, node: Any, args: list[Any]) -> Any:
    """Abramowitz and Stegun 7.1.26: 1.5e-7 absolute, in single steps."""
    x = args[0].float()
    t = 1 / (1 + 0.3275911 * x.abs())
    p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return (x.sign() * (1 - p * (-x * x).exp())).to(args[0].dtype) if is_float(args[0]) else None


@fault("exp-fast", "precision", ("Exp", "Softmax"), each=True, strengths=(8, 12))
def exp_fast(run: Run, node: Any, args: list[Any], digits: int) -> Any:
    """exp2 of a rounded product, the fraction by a table of 2^digits entries."""
    if not is_float(args[0]) or not args[0].numel():
        return None

    def exp(x: Any) -> Any:
        t = x.float() * math.log2(math.e)
        return torch.exp2((t * 2**digits).round() / 2**digits)

    if node.op.name == "Exp":
        return exp(args[0]).to(args[0].dtype)
    x, axis = softmax_axis._coerced(node, args[0])
    e = exp(x - x.amax(axis, keepdim=True))
    return (e / e.sum(axis, keepdim=True)).to(args[0].dtype).reshape(args[0].shape)


@fault("softmax-no-max", "subtle", ("Softmax",))
def softmax_no_max(run: Run, node: Any, args: list[Any]) -> Any:
    """exp of the logits themselves: overflows for large ones."""
    if not args[0].numel():
        return None
    x, axis = softmax_axis._coerced(node, args[0])
    e = x.exp()
    return (e / e.sum(axis, keepdim=True)).reshape(args[0].shape)


@fault("log-of-softmax", "subtle", ("LogSoftmax",))
def log_of_softmax(run: Run, node: Any, args: list[Any]) -> Any:
    """log(softmax(x)): minus infinity where the probability underflows."""
    if not args[0].numel():
        return None
    x, axis = softmax_axis._coerced(node, args[0])
    return torch.softmax(x, axis).log().reshape(args[0].shape)


@fault("softplus-cut", "subtle", ("Softplus",))
def softplus_cut(run: Run, node: Any, args: list[Any]) -> Any:
    """x itself above 8."""
    return torch.where(args[0] > 8, args[0], torch.nn.functional.softplus(args[0]))


@fault("rsqrt-approximated", "precision", ("Sqrt", "Reciprocal", "Div"), each=True, strengths=(12,))
def approximated(run: Run, node: Any, args: list[Any], digits: int) -> Any:
    """The hardware's estimate without the Newton step that belongs to it."""
    return first(run, node, args, lambda y: _cut(y, digits) if is_float(y) else None)


def _cut(y: Any, digits: int) -> Any:
    """Mantissas of so many bits, rounded."""
    mantissa, exponent = torch.frexp(y.double())
    return torch.ldexp((mantissa * 2.0**digits).round() / 2.0**digits, exponent)


@fault("variance-one-pass-fp16", "precision", ("LayerNormalization", "InstanceNormalization"))
def variance_one_pass(run: Run, node: Any, args: list[Any]) -> Any:
    """E[x^2] - E[x]^2 in half precision, whatever the type."""
    x = args[0]
    if any(bool(o) for o in node.outputs[1:]) or not x.numel() or (x.ndim < 3 and node.op.name == "InstanceNormalization"):
        return None
    dims = tuple(range(2, x.ndim)) if node.op.name == "InstanceNormalization" else tuple(range((node.axis or -1) % x.ndim, x.ndim))
    half = x.half().float()
    var = ((half * half).half().float().mean(dims, True).half() - (half.mean(dims, True).half() ** 2)).double().clamp(min=0)
    wanted = x.double().var(dims, correction=0, keepdim=True)
    factor = ((wanted + node.epsilon) / (var + node.epsilon)).sqrt()
    shape = [-1, *[1] * (x.ndim - 2)] if node.op.name == "InstanceNormalization" else None
    bias = 0.0 if len(args) < 3 or args[2] is None else args[2].reshape(shape) if shape else args[2]
    return first(run, node, args, lambda y: (y.double() - bias) * factor + bias)


# low-precision contractions ------------------------------------------------------------------------------------------------
CONTRACTIONS = ("MatMul", "Conv", "Gemm")


@fault("tf32", "precision", CONTRACTIONS, each=True)
def tf32(run: Run, node: Any, args: list[Any]) -> Any:
    """Operands cut to 10 bits, which no policy has declared."""
    return _operands(run, node, args, lambda t: _cut(t, 11).to(t.dtype), torch.float32)


@fault("bf16-operands", "precision", CONTRACTIONS, each=True)
def bf16_operands(run: Run, node: Any, args: list[Any]) -> Any:
    return _operands(run, node, args, lambda t: t.bfloat16().to(t.dtype), torch.float32)


@fault("fp32-inside", "precision", (*CONTRACTIONS, "Exp", "ReduceSum"), each=True)
def fp32_inside(run: Run, node: Any, args: list[Any]) -> Any:
    """Doubles computed in float32."""
    return first(run, node, args, lambda y: y.float() if is_float(y) and y.dtype is torch.float64 else None)


def _operands(run: Run, node: Any, args: list[Any], change: Any, kind: Any) -> Any:
    if not is_float(args[0]) or args[0].dtype is not kind:
        return None
    return run.honest(node, [change(args[0]), change(args[1]), *args[2:]])


@fault("fp16-accumulation", "precision", ("MatMul", "Gemm", "Conv", "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2"), each=True)
def fp16_accumulation(run: Run, node: Any, args: list[Any]) -> Any:
    """A float32 contraction that adds in half."""
    from oracles.variants.orders import serial, summed

    if not is_float(args[0]) or args[0].dtype is not torch.float32:
        return None
    halved = [a.half() if is_float(a) else a for a in args]
    y = summed(node, halved, serial, wide=False)
    return None if y is None or not bool(y.isfinite().all()) else y.float()
