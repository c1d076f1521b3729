"""The same formulas in another working precision, rounded to the declared types."""

from __future__ import annotations

from typing import Any

from oracles.rewriting import Run, is_float, lazily, promoted
from oracles.variants import variant

torch = lazily("torch")

#: Operators whose float results are not roundings of a real number, or that choose their own precision.
APART = frozenset({"Cast", "CastLike", "BitCast", "QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear", "RandomNormal", "RandomUniform",
                   "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Constant", "ConstantOfShape"})  # fmt: skip


def _halves(args: list[Any]) -> bool:
    kinds = [a.dtype for a in args if is_float(a)]
    return bool(kinds) and all(k in (torch.float16, torch.bfloat16) for k in kinds)


@variant("halves-in-float", policy="strict")
def halves_in_float(run: Run, node: Any, args: list[Any]) -> Any:
    """Operators over fp16 and bf16 computed in float32 and rounded once, as CPU runtimes do."""
    return promoted(node, args, torch.float32) if _halves(args) and node.op.name not in APART else None


@variant("halves-in-double", policy="strict")
def halves_in_double(run: Run, node: Any, args: list[Any]) -> Any:
    return promoted(node, args, torch.float64) if _halves(args) and node.op.name not in APART else None


@variant("floats-in-double", policy="strict")
def floats_in_double(run: Run, node: Any, args: list[Any]) -> Any:
    """float32 recomputed in double and rounded."""
    kinds = {a.dtype for a in args if is_float(a)}
    return promoted(node, args, torch.float64) if kinds == {torch.float32} and node.op.name not in APART else None


@variant("fma", ["Add", "Sub"], policy="strict")
def fma(run: Run, node: Any, args: list[Any]) -> Any:
    """A product and the sum that uses it, rounded once."""
    if not is_float(args[0]) or args[0].dtype is torch.float64:
        return None
    for i in (0, 1):
        found = run.maker(args[i])
        if found is None or found[0].op.name != "Mul" or found[0].version < 7 or node.version < 7:
            continue
        product = found[1][0].double() * found[1][1].double()
        if product.shape != args[i].shape or bool((args[i].isinf() | (product.abs() > torch.finfo(args[i].dtype).max)).any()):
            continue
        other = args[1 - i].double()
        y = product + other if node.op.name == "Add" else product - other if i == 0 else other - product
        return y.to(args[0].dtype)
    return None


@variant("adds-regrouped", ["Add"])
def regrouped(run: Run, node: Any, args: list[Any]) -> Any:
    """(a + b) + c as a + (b + c)."""
    if not is_float(args[0]) or node.version < 7:
        return None
    for i in (0, 1):
        found = run.maker(args[i])
        if found is not None and found[0].op.name == "Add" and found[0].version >= 7:
            a, b = found[1]
            y = a + (b + args[1 - i])
            return y if bool(torch.isfinite(y).all()) else None
    return None


@variant("operands-flipped", ["Add", "Mul", "Sum", "Mean", "Max", "Min"], policy="strict")
def flipped(run: Run, node: Any, args: list[Any]) -> Any:
    if getattr(node, "version", 13) < 8 or len(args) < 2 or not is_float(args[0]):
        return None
    return run.honest(node, args[::-1])
