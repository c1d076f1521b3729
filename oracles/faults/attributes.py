"""Attributes and operands misread: pads, strides, groups, axes, epsilons, biases, orders of operands."""

from __future__ import annotations

from typing import Any

from oracles.faults import fault
from oracles.rewriting import Run, changed, is_float, lazily

torch = lazily("torch")


def other(run: Run, node: Any, args: list[Any], **attrs: Any) -> Any:
    """The results with other attributes, None where that changes shapes, does not run, or nothing was changed."""
    if all(getattr(node, k) == v for k, v in attrs.items()):
        return None
    try:
        wrong = run.honest(changed(node, **attrs), args)
    except (RuntimeError, IndexError, ValueError, TypeError):
        return None
    return wrong if _alike(wrong, run.honest(node, args)) else None


def swapped(run: Run, node: Any, args: list[Any], wrong: list[Any]) -> Any:
    """The results with other operands, on the same conditions."""
    try:
        values = run.honest(node, wrong)
    except (RuntimeError, IndexError, ValueError, TypeError):
        return None
    return values if _alike(values, run.honest(node, args)) else None


def _alike(a: list[Any], b: list[Any]) -> bool:
    return all(
        (x is None) == (y is None) and (x is None or (isinstance(x, torch.Tensor) and x.shape == y.shape and x.dtype == y.dtype))
        for x, y in zip(a, b, strict=False)
    )


# windows ---------------------------------------------------------------------------------------------------------------
WINDOWS = ("Conv", "MaxPool", "AveragePool")


@fault("pad-off-by-one", "gross", WINDOWS, each=True)
def pad_off_by_one(run: Run, node: Any, args: list[Any]) -> Any:
    """One row of padding on the wrong side: every window moves by one."""
    pads = list(node.pads or [])
    n = len(pads) // 2
    if not n or (not pads[n - 1] and not pads[-1]):
        return None
    step = 1 if pads[-1] else -1
    pads[n - 1], pads[-1] = pads[n - 1] + step, pads[-1] - step
    return other(run, node, args, pads=pads)


@fault("pad-side", "gross", WINDOWS, each=True)
def pad_side(run: Run, node: Any, args: list[Any]) -> Any:
    """SAME_UPPER for SAME_LOWER, and pads of the beginning at the end."""
    if node.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return other(run, node, args, auto_pad="SAME_LOWER" if node.auto_pad == "SAME_UPPER" else "SAME_UPPER")
    pads = list(node.pads or [])
    return other(run, node, args, pads=pads[len(pads) // 2 :] + pads[: len(pads) // 2]) if pads else None


@fault("dilation-ignored", "gross", ("Conv", "MaxPool", "ConvTranspose"))
def dilation_ignored(run: Run, node: Any, args: list[Any]) -> Any:
    """Taps next to each other, the padding cut so that the shape fits."""
    dilations, x = node.dilations or [], args[0]
    if not any(d > 1 for d in dilations) or node.auto_pad not in (None, "NOTSET") or node.op.name == "ConvTranspose":
        return None
    kernel = node.kernel_shape or list(args[1].shape[2:])
    pads = list(node.pads or [0] * (2 * len(kernel)))
    pads[len(kernel) :] = [p - (d - 1) * (k - 1) for p, d, k in zip(pads[len(kernel) :], dilations, kernel, strict=True)]
    if min(pads) < 0:
        x = torch.nn.functional.pad(x, [p for q in reversed(pads[len(kernel) :]) for p in (0, min(q, 0))])
        pads = [max(p, 0) for p in pads]
    wrong = changed(node, dilations=[1] * len(dilations), pads=pads)
    try:
        values = run.honest(wrong, [x, *args[1:]])
    except RuntimeError:
        return None
    return values if _alike(values, run.honest(node, args)) else None


@fault("strides-swapped", "gross", WINDOWS)
def strides_swapped(run: Run, node: Any, args: list[Any]) -> Any:
    return other(run, node, args, strides=list(reversed(node.strides))) if node.strides else None


@fault("kernel-mirrored", "gross", ("Conv",))
def kernel_mirrored(run: Run, node: Any, args: list[Any]) -> Any:
    """Convolution as mathematicians define it."""
    return run.honest(node, [args[0], args[1].flip(list(range(2, args[1].ndim))), *args[2:]])


@fault("group-dense", "gross", ("Conv",))
def group_dense(run: Run, node: Any, args: list[Any]) -> Any:
    """Every group reads the channels of the first."""
    g, x = node.group or 1, args[0]
    if g < 2:
        return None
    return run.honest(node, [x[:, : x.shape[1] // g].repeat(1, g, *[1] * (x.ndim - 2)), *args[1:]])


@fault("group-order", "gross", ("Conv",))
def group_order(run: Run, node: Any, args: list[Any]) -> Any:
    """Channels taken in turn instead of in blocks."""
    g, x = node.group or 1, args[0]
    if g < 2 or x.shape[1] == g:
        return None
    return run.honest(node, [x.reshape(x.shape[0], g, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape), *args[1:]])


@fault("padding-counted", "subtle", ("AveragePool",))
def padding_counted(run: Run, node: Any, args: list[Any]) -> Any:
    """The mean over padding where it should not count, and the other way round."""
    return other(run, node, args, count_include_pad=1 - (node.count_include_pad or 0))


@fault("padded-with-zero", "subtle", ("MaxPool",))
def padded_with_zero(run: Run, node: Any, args: list[Any]) -> Any:
    """A maximum that sees zeros in the padding."""
    pads = list(node.pads or [])
    if not any(pads) or not is_float(args[0]):
        return None
    n = len(pads) // 2
    x = torch.nn.functional.pad(args[0], [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])])
    return swapped(run, changed(node, pads=[0] * len(pads)), [x], [x]) if not any(node.outputs[1:]) else None


# operands --------------------------------------------------------------------------------------------------------------
@fault("bias-dropped", "gross", ("Conv", "Gemm", "ConvTranspose", "LayerNormalization"), each=True)
def bias_dropped(run: Run, node: Any, args: list[Any]) -> Any:
    if len(args) < 3 or args[2] is None:
        return None
    return run.honest(node, [*args[:2], torch.zeros_like(args[2])])


@fault("bias-twice", "gross", ("Conv", "Gemm"), each=True)
def bias_twice(run: Run, node: Any, args: list[Any]) -> Any:
    return run.honest(node, [*args[:2], args[2] * 2]) if len(args) > 2 and args[2] is not None else None


@fault("bias-first-only", "subtle", ("Conv", "Gemm"), each=True)
def bias_first_only(run: Run, node: Any, args: list[Any]) -> Any:
    """One bias for all channels."""
    return (
        run.honest(node, [*args[:2], args[2].reshape(-1)[:1].expand(args[2].shape)]) if len(args) > 2 and args[2] is not None and args[2].numel() > 1 else None
    )


@fault("operands-swapped", "gross", ("Sub", "Div", "Pow", "Less", "MatMul", "Mod", "Greater", "BitShift"), each=True)
def operands_swapped(run: Run, node: Any, args: list[Any]) -> Any:
    return swapped(run, node, args, args[::-1])


@fault("branches-swapped", "gross", ("Where",))
def branches_swapped(run: Run, node: Any, args: list[Any]) -> Any:
    return run.honest(node, [args[0], args[2], args[1]])


@fault("limit-ignored", "subtle", ("Clip",), strengths=("min", "max"))
def limit_ignored(run: Run, node: Any, args: list[Any], which: str) -> Any:
    if node.version < 11:
        return None
    at = 1 if which == "min" else 2
    return None if len(args) <= at or args[at] is None else run.honest(node, [*args[:at], None, *args[at + 1 :]])


@fault("transposition-ignored", "gross", ("Gemm",))
def transposition_ignored(run: Run, node: Any, args: list[Any]) -> Any:
    """Seen only where the operand is square."""
    return (other(run, node, args, transA=0) if node.transA else None) or (other(run, node, args, transB=0) if node.transB else None)


@fault("attribute-ignored", "gross", ("Gemm", "LeakyRelu", "Elu", "HardSigmoid", "Selu", "Celu", "ThresholdedRelu", "Shrink", "LRN", "Swish"), each=True)
def attribute_ignored(run: Run, node: Any, args: list[Any]) -> Any:
    """alpha, beta and the like taken as their defaults."""
    from specs.schema import defaults

    known = defaults(node.op.name, node.op.domain, node.opset)
    return other(run, node, args, **{k: v for k, v in known.items() if isinstance(v, float)}) if known else None


@fault(
    "epsilon",
    "subtle",
    ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
    each=True,
    strengths=("10x", "0"),
)
def epsilon(run: Run, node: Any, args: list[Any], how: str) -> Any:
    """Another epsilon than the model's: seen where the variance is small."""
    return other(run, node, args, epsilon=node.epsilon * 10 if how == "10x" else 0.0)


# axes and orders -------------------------------------------------------------------------------------------------------
@fault("wrong-axis", "gross", ("Softmax", "LogSoftmax", "Hardmax", "CumSum", "LpNormalization", "ArgMax", "TopK"), each=True)
def wrong_axis(run: Run, node: Any, args: list[Any]) -> Any:
    """The neighbouring axis."""
    rank = args[0].ndim
    if node.op.name == "CumSum":
        return swapped(run, node, args, [args[0], (args[1] + 1) % rank]) if rank > 1 else None
    return other(run, node, args, axis=((node.axis or 0) + 1) % rank) if rank > 1 and node.axis is not None else None


@fault("wrong-axes", "gross", ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceProd", "ReduceLogSumExp"), each=True)
def wrong_axes(run: Run, node: Any, args: list[Any]) -> Any:
    """The neighbouring axes, where the shape does not tell."""
    rank = args[0].ndim
    if rank < 2:
        return None
    if len(args) > 1 and args[1] is not None and args[1].numel():
        return swapped(run, node, args, [args[0], (args[1] + 1) % rank])
    return other(run, node, args, axes=[(i + 1) % rank for i in node.axes]) if node.axes else None


@fault("permutation-inverted", "gross", ("Transpose",))
def permutation_inverted(run: Run, node: Any, args: list[Any]) -> Any:
    perm = node.perm
    return other(run, node, args, perm=[perm.index(i) for i in range(len(perm))]) if perm else None


@fault(
    "flag-ignored",
    "gross",
    ("CumSum", "ArgMax", "TopK", "Trilu", "DepthToSpace", "Mod", "GridSample", "ScatterElements", "ScatterND", "Gelu", "BitShift", "Pad", "Resize"),
    each=True,
)
def flag_ignored(run: Run, node: Any, args: list[Any]) -> Any:
    """An attribute of two or more values taken for another of them."""
    flags: dict[str, dict[str, Any]] = {
        "CumSum": {"exclusive": 1 - (node.exclusive or 0)}, "ArgMax": {"select_last_index": 1 - (node.select_last_index or 0)},
        "TopK": {"largest": 1 - (node.largest or 0)},
        "Trilu": {"upper": 1 - (node.upper or 0)}, "DepthToSpace": {"mode": "CRD" if node.mode == "DCR" else "DCR"}, "Mod": {"fmod": 1 - (node.fmod or 0)},
        "GridSample": {"align_corners": 1 - (node.align_corners or 0)}, "ScatterElements": {"reduction": "none"}, "ScatterND": {"reduction": "none"},
        "Gelu": {"approximate": "tanh" if node.approximate != "tanh" else "none"}, "BitShift": {"direction": "LEFT" if node.direction == "RIGHT" else "RIGHT"},
        "Pad": {"mode": "edge" if node.mode != "edge" else "reflect"},
        "Resize": {"coordinate_transformation_mode": "asymmetric" if node.coordinate_transformation_mode != "asymmetric" else "half_pixel"},
    }  # fmt: skip
    if node.op.name == "Mod" and is_float(args[0]):
        return None
    return other(run, node, args, **flags[node.op.name])


@fault("concat-order", "gross", ("Concat",))
def concat_order(run: Run, node: Any, args: list[Any]) -> Any:
    """Operands in the order of their addresses."""
    return run.honest(node, args[::-1]) if len(args) > 1 else None


@fault("negative-index", "gross", ("Gather", "GatherElements", "GatherND"))
def negative_index(run: Run, node: Any, args: list[Any]) -> Any:
    """Indices counted from the end are taken for zero."""
    return run.honest(node, [args[0], args[1].clamp(min=0)]) if bool((args[1] < 0).any()) else None


@fault("slice-start", "subtle", ("Slice",))
def slice_start(run: Run, node: Any, args: list[Any]) -> Any:
    """One element further at both ends."""
    if node.version < 10 or (len(args) > 4 and args[4] is not None and bool((args[4] != 1).any())):
        return None
    return swapped(run, node, args, [args[0], args[1] + 1, args[2] + 1, *args[3:]])


@fault("expand-repeats", "gross", ("Tile",))
def expand_repeats(run: Run, node: Any, args: list[Any]) -> Any:
    """Every element repeated in place instead of the whole."""
    y = args[0]
    for i, n in enumerate(args[1].tolist()):
        y = y.repeat_interleave(n, i)
    return y


@fault("scale-dropped", "gross", ("Attention", "LayerNormalization", "RMSNormalization", "DequantizeLinear"), each=True)
def scale_dropped(run: Run, node: Any, args: list[Any]) -> Any:
    if node.op.name == "Attention":
        return other(run, node, args, scale=1.0)
    return run.honest(node, [args[0], torch.ones_like(args[1]), *args[2:]])


@fault("history-truncated", "subtle", ("CumSum", "CumProd"), strengths=(4, 16))
def history_truncated(run: Run, node: Any, args: list[Any], most: int) -> Any:
    """A scan that forgets what lies further back than its block."""
    axis = int(args[1].reshape(-1)[0]) if len(args) > 1 and args[1] is not None else 0
    if args[0].ndim < 1 or args[0].shape[axis] <= most:
        return None
    return torch.cat([run.honest(node, [part, *args[1:]])[0] for part in args[0].split(most, axis)], axis)


@fault("causality-lost", "gross", ("Attention",))
def causality_lost(run: Run, node: Any, args: list[Any]) -> Any:
    return other(run, node, args, is_causal=1 - (node.is_causal or 0))


@fault("direction", "gross", ("LSTM", "GRU", "RNN"))
def direction(run: Run, node: Any, args: list[Any]) -> Any:
    """A reverse recurrence runs forward."""
    return other(run, node, args, direction={"forward": "reverse", "reverse": "forward"}.get(node.direction or "forward", node.direction))


@fault("lengths-ignored", "gross", ("LSTM", "GRU", "RNN"))
def lengths_ignored(run: Run, node: Any, args: list[Any]) -> Any:
    return swapped(run, node, args, [*args[:4], None, *args[5:]]) if len(args) > 4 and args[4] is not None else None


@fault("gate-order", "gross", ("LSTM", "GRU"))
def gate_order(run: Run, node: Any, args: list[Any]) -> Any:
    """Weights of another framework's order of gates."""
    gates = 4 if node.op.name == "LSTM" else 3
    return run.honest(node, [args[0], args[1].unflatten(1, (gates, -1)).roll(1, 1).flatten(1, 2), *args[2:]])


@fault("zero-point-ignored", "gross", ("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger"), each=True)
def zero_point_ignored(run: Run, node: Any, args: list[Any]) -> Any:
    return (
        run.honest(node, [*args[:2], torch.zeros_like(args[2]), *args[3:]])
        if len(args) > 2 and args[2] is not None and bool((args[2].float() != 0).any())
        else None
    )
