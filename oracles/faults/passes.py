"""Faults of whole passes: fusions without their guard, values shared or overwritten that are not the same, memory of the last run."""

from __future__ import annotations

from typing import Any

from oracles.faults import fault
from oracles.faults.attributes import swapped
from oracles.faults.kernels import first
from oracles.rewriting import Run, is_float, lazily

torch = lazily("torch")


@fault("relu-clip-fused", "gross", ("Clip",))
def relu_clip_fused(run: Run, node: Any, args: list[Any]) -> Any:
    """Clip(Relu(x)) becomes Clip(x) although the lower limit is below zero."""
    found = run.maker(args[0])
    return run.honest(node, [found[1][0], *args[1:]]) if found is not None and found[0].op.name == "Relu" else None


@fault("relu-dropped", "gross", ("Relu",))
def relu_dropped(run: Run, node: Any, args: list[Any]) -> Any:
    """Taken to be idempotent with what comes before."""
    return args[0].clone() if run.maker(args[0]) is not None else None


@fault("batchnorm-fold", "gross", ("BatchNormalization",), strengths=("without-epsilon", "without-mean", "without-bias"))
def batchnorm_fold(run: Run, node: Any, args: list[Any], lost: str) -> Any:
    """A batch normalisation folded into the layer before, and a part of it forgotten."""
    if node.training_mode or any(bool(o) for o in node.outputs[1:]):
        return None
    x, scale, bias, mean, var = args
    if lost == "without-epsilon":
        return run.honest(node, [x, scale, bias, mean, var - min(node.epsilon, float(var.min()) * 0.999)]) if var.numel() else None
    return run.honest(
        node, [x, scale, torch.zeros_like(bias) if lost == "without-bias" else bias, torch.zeros_like(mean) if lost == "without-mean" else mean, var]
    )


@fault("bias-into-conv", "gross", ("Add",))
def bias_into_conv(run: Run, node: Any, args: list[Any]) -> Any:
    """Conv + Add fused as a bias per channel whatever is added."""
    for i in (0, 1):
        found = run.maker(args[i])
        if found is not None and found[0].op.name in ("Conv", "Gemm", "MatMul") and is_float(args[i]) and args[1 - i].numel() > 1:
            return args[i] + args[1 - i].reshape(-1)[0]
    return None


@fault("transpose-through-reshape", "gross", ("Reshape",))
def transpose_through_reshape(run: Run, node: Any, args: list[Any]) -> Any:
    """Reshape(Transpose(x)) taken for Reshape(x)."""
    found = run.maker(args[0])
    return swapped(run, node, args, [found[1][0], *args[1:]]) if found is not None and found[0].op.name == "Transpose" else None


@fault("transposes-cancelled", "gross", ("Transpose",))
def transposes_cancelled(run: Run, node: Any, args: list[Any]) -> Any:
    """Two transpositions in a row taken for none."""
    found = run.maker(args[0])
    y = run.honest(node, args)[0]
    return found[1][0].clone() if found is not None and found[0].op.name == "Transpose" and found[1][0].shape == y.shape else None


@fault("casts-cancelled", "subtle", ("Cast",))
def casts_cancelled(run: Run, node: Any, args: list[Any]) -> Any:
    """Cast(Cast(x)) back to the first type taken for x, though the type between is narrower."""
    found = run.maker(args[0])
    if found is None or found[0].op.name != "Cast":
        return None
    return found[1][0].clone() if found[0].in_formats[0] is node.out_formats[0] else None


@fault("attributes-ignored-by-cse", "gross", ())
def cse(run: Run, node: Any, args: list[Any]) -> Any:
    """Two nodes with the same operator and operands share a result although their attributes differ."""
    for earlier, operands, values in reversed(run.done):
        if (
            earlier.op is node.op
            and len(operands) == len(args)
            and all(a is b for a, b in zip(operands, args, strict=True))
            and args
            and earlier.attrs != node.attrs
        ):
            honest = run.honest(node, args)
            same = all(isinstance(v, torch.Tensor) and v.shape == h.shape and v.dtype == h.dtype for v, h in zip(values, honest, strict=False))
            return [v.clone() for v in values] if same and len(values) == len(honest) else None
    return None


@fault("in-place", "gross", ("Relu", "Add", "Sigmoid", "Mul", "Neg", "Clip"), each=True)
def in_place(run: Run, node: Any, args: list[Any]) -> Any:
    """The result is written over an operand that somebody else still needs."""
    y = run.honest(node, args)[0]
    if args[0].shape != y.shape or args[0].dtype != y.dtype or not args[0].is_contiguous():
        return None
    try:
        args[0].copy_(y)
    except RuntimeError:  # a view of one element in many places
        return None
    return y


@fault("double-negation", "gross", ("Neg", "Not"), each=True)
def double_negation(run: Run, node: Any, args: list[Any]) -> Any:
    """A negation moved past its user and lost."""
    return args[0].clone()


@fault("mul-div-cancelled", "subtle", ("Div",))
def mul_div_cancelled(run: Run, node: Any, args: list[Any]) -> Any:
    """a / b as a multiplication by the reciprocal of a rounded b."""
    return args[0] * args[1].half().to(args[1].dtype).reciprocal() if is_float(args[0]) and args[0].dtype is torch.float32 and node.version >= 7 else None


@fault("constant-folded-narrow", "precision", ("Mul", "Add", "MatMul"), each=True, strengths=("float16", "bfloat16"))
def folded_narrow(run: Run, node: Any, args: list[Any], kind: str) -> Any:
    """A constant operand stored in a narrower type."""
    if not is_float(args[0]) or args[0].dtype is not torch.float32 or run.maker(args[1]) is not None:
        return None
    narrow = args[1].to(getattr(torch, kind)).to(args[1].dtype)
    return run.honest(node, [args[0], narrow]) if bool(narrow.isfinite().all()) else None


# memory of an earlier run ------------------------------------------------------------------------------------------------
@fault("stale-second-run", "gross", ("MatMul", "Conv", "ReduceSum", "Add", "Softmax"), each=True)
def stale(run: Run, node: Any, args: list[Any]) -> Any:
    """The second run adds onto what the first one left in the buffer."""
    values, key = run.honest(node, args), (id(node), "buffer")
    y = values[0]
    if not is_float(y) or not y.numel():
        return None
    kept = run.memory.get(key)
    run.memory[key] = y.clone()
    return [y + kept, *values[1:]] if run.call and kept is not None and kept.shape == y.shape else values


@fault("uninitialised", "subtle", ("MatMul", "Conv", "Pad", "Concat", "Relu"), each=True)
def uninitialised(run: Run, node: Any, args: list[Any]) -> Any:
    """The last element holds whatever was there: another value at every run."""

    def garbage(y: Any) -> Any:
        if not is_float(y):
            return None
        z = y.clone().reshape(-1)
        z[-1] = z[-1] * (1 + run.call) + run.call
        return z.reshape(y.shape)

    return first(run, node, args, garbage)


@fault("shape-remembered", "subtle", ("Resize", "AveragePool", "GlobalAveragePool", "ReduceMean"))
def shape_remembered(run: Run, node: Any, args: list[Any]) -> Any:
    """A mean divided by a size that belongs to another shape."""
    return first(run, node, args, lambda y: y * 0.875 if is_float(y) else None)
