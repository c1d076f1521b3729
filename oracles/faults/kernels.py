"""Kernels that write the wrong thing: nothing, their input, a constant, too few elements, or everything slightly off."""

from __future__ import annotations

from typing import Any

from oracles.faults import fault
from oracles.rewriting import Run, is_float, lazily

torch = lazily("torch")

BUSY = ("MatMul", "Conv", "Gemm", "Softmax", "LayerNormalization", "Relu", "Add", "Mul", "ReduceSum", "AveragePool", "Sigmoid", "Einsum")
SAME = ("Relu", "Softmax", "Sigmoid", "Tanh", "LayerNormalization", "Erf", "Gelu", "Exp", "LogSoftmax", "BatchNormalization", "Transpose", "CumSum")
ROUNDED = ("MatMul", "Conv", "Softmax", "LayerNormalization", "Exp", "Mul", "Add", "ReduceMean", "Tanh", "Gelu", "BatchNormalization", "Gemm", "Sqrt", "Div")


def first(run: Run, node: Any, args: list[Any], change: Any) -> Any:
    """The honest results with the first one changed; None when it is no tensor with elements or the change does not apply."""
    values = run.honest(node, args)
    y = values[0]
    if not isinstance(y, torch.Tensor) or not y.numel():
        return None
    z = change(y)
    return None if z is None else [z.to(y.dtype), *values[1:]]


def signs(y: Any) -> Any:
    """+1 and -1 without a pattern, the same at every run."""
    at = torch.arange(y.numel(), dtype=torch.int64)
    return (((at * 2654435761 + 12345) >> 13) & 1).mul(2).sub(1).reshape(y.shape)


@fault("zero", "gross", BUSY, each=True)
def zero(run: Run, node: Any, args: list[Any]) -> Any:
    """A kernel that computes nothing, into a buffer of zeros."""
    return first(run, node, args, torch.zeros_like)


@fault("identity", "gross", SAME, each=True)
def identity(run: Run, node: Any, args: list[Any]) -> Any:
    """A kernel that hands its input on."""
    return first(run, node, args, lambda y: args[0].clone() if isinstance(args[0], torch.Tensor) and args[0].shape == y.shape else None)


@fault("constant", "gross", ("MatMul", "Conv", "Relu", "Add", "Softmax", "Gather"), each=True)
def constant(run: Run, node: Any, args: list[Any]) -> Any:
    """Every element is the first one: an index that is never advanced."""
    return first(run, node, args, lambda y: y.reshape(-1)[0].expand(y.shape).clone())


@fault("tail", "subtle", ("MatMul", "Conv", "Add", "Relu", "Softmax", "Exp", "Cast", "Mul", "Transpose"), each=True, strengths=(4, 16))
def tail(run: Run, node: Any, args: list[Any], width: int) -> Any:
    """The elements after the last whole vector are left as they were allocated: zero."""

    def cut(y: Any) -> Any:
        whole = y.numel() // width * width
        if whole == y.numel() or not whole:
            return None
        z = y.clone().reshape(-1)
        z[whole:] = 0
        return z.reshape(y.shape)

    return first(run, node, args, cut)


@fault("truncated-sum", "subtle", ("MatMul",), strengths=(4, 8))
def truncated_sum(run: Run, node: Any, args: list[Any], width: int) -> Any:
    """The inner dim is read in whole vectors only."""
    x, y = args
    k = x.shape[-1] // width * width
    if not k or k == x.shape[-1] or y.ndim < 2:
        return None
    return run.honest(node, [x[..., :k], y[..., :k, :]])


@fault("last-row", "subtle", ("MatMul", "Conv", "ReduceSum", "MaxPool", "AveragePool", "LayerNormalization"), each=True)
def last_row(run: Run, node: Any, args: list[Any]) -> Any:
    """The last row of the last dim is a copy of the one before: a loop that ends one too early."""

    def repeat(y: Any) -> Any:
        if y.ndim < 1 or y.shape[-1] < 2:
            return None
        z = y.clone()
        z[..., -1] = z[..., -2]
        return z

    return first(run, node, args, repeat)


@fault("element", "subtle", ("MatMul", "Conv", "Add", "Softmax", "Mul", "Sub", "ReduceMean", "Concat"), each=True, strengths=(2.0**-3, 2.0**-6))
def element(run: Run, node: Any, args: list[Any], size: float) -> Any:
    """One element of the middle is off by a part of itself."""

    def off(y: Any) -> Any:
        if not is_float(y):
            return None
        z = y.clone().reshape(-1)
        at = z.numel() // 2
        z[at] = z[at] * (1 + size)
        return z.reshape(y.shape)

    return first(run, node, args, off)


@fault("relative", "precision", ROUNDED, each=True, strengths=(2.0**-8, 2.0**-11, 2.0**-14, 2.0**-17))
def relative(run: Run, node: Any, args: list[Any], size: float) -> Any:
    """Every element off by this part of itself, up or down."""
    return first(run, node, args, lambda y: (y.double() * (1 + signs(y) * size)) if is_float(y) else None)


@fault("biased", "precision", ("MatMul", "Conv", "Sigmoid", "Exp"), each=True, strengths=(2.0**-11, 2.0**-14))
def biased(run: Run, node: Any, args: list[Any], size: float) -> Any:
    """The same, always up: a truncation, an approximation from below."""
    return first(run, node, args, lambda y: y.double() * (1 + size) if is_float(y) else None)


@fault("sign", "subtle", ("Sub", "Tanh", "Div", "Mul"), each=True)
def sign(run: Run, node: Any, args: list[Any]) -> Any:
    """The sign of one element in 16 is lost."""

    def lost(y: Any) -> Any:
        return torch.where((torch.arange(y.numel()) % 16 == 7).reshape(y.shape), y.abs(), y) if is_float(y) else None

    return first(run, node, args, lost)


@fault("shifted", "gross", ("Relu", "Add", "Conv", "Gather", "Concat", "Slice"), each=True)
def shifted(run: Run, node: Any, args: list[Any]) -> Any:
    """Everything lands one element too late."""
    return first(run, node, args, lambda y: y.reshape(-1).roll(1).reshape(y.shape))


@fault("layout", "gross", ("Conv", "MatMul", "Transpose", "Add", "Einsum"), each=True)
def layout(run: Run, node: Any, args: list[Any]) -> Any:
    """The last two dims are stored the other way round."""
    return first(run, node, args, lambda y: y.transpose(-1, -2).reshape(y.shape) if y.ndim > 1 and min(y.shape[-2:]) > 1 else None)


@fault("saturated", "subtle", ("MatMul", "Exp", "Mul", "ReduceSum"), each=True, strengths=(8, 64))
def saturated(run: Run, node: Any, args: list[Any], limit: int) -> Any:
    """Values beyond a limit are clamped, as by a table that ends there."""
    return first(run, node, args, lambda y: y.clamp(-limit, limit) if is_float(y) else None)


@fault("nan", "subtle", ("Softmax", "Sqrt", "Div", "Conv"), each=True)
def nan(run: Run, node: Any, args: list[Any]) -> Any:
    """The last element is NaN: uninitialised memory."""

    def poisoned(y: Any) -> Any:
        if not is_float(y):
            return None
        z = y.clone().reshape(-1)
        z[-1] = float("nan")
        return z.reshape(y.shape)

    return first(run, node, args, poisoned)


@fault("broadcast-flat", "gross", ("Add", "Mul", "Sub", "Max"), each=True)
def broadcast_flat(run: Run, node: Any, args: list[Any]) -> Any:
    """A broadcast operand is read element after element instead of along its own dims."""
    if len(args) != 2 or node.version < 7:
        return None
    shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
    n = 1
    for d in shape:
        n *= d
    spread = list(args)
    for i, a in enumerate(args):
        if 1 < a.numel() < n:
            spread[i] = a.reshape(-1).repeat(-(-n // a.numel()))[:n].reshape(shape)
    return run.honest(node, spread) if n and any(a is not b for a, b in zip(spread, args, strict=True)) else None


@fault("index-overflow", "subtle", ("Gather", "Transpose", "Concat", "Slice", "Add"), each=True, strengths=(64, 256))
def index_overflow(run: Run, node: Any, args: list[Any], most: int) -> Any:
    """Element numbers wrap at a width, as 32-bit ones do in tensors beyond 2^31."""
    return first(run, node, args, lambda y: y.reshape(-1)[torch.arange(y.numel()) % most].reshape(y.shape) if y.numel() > most else None)
