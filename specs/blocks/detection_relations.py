"""What detector rows state exactly: pools cascade, norms and products split over levels, closed forms of recurrences."""

from __future__ import annotations

from typing import Any

from specs.blocks.detection import boxes, history, iou, motion
from specs.blocks.detection_regions import fuse_groups
from specs.blocks.detection_single_shot import integrated_norm, norm_weights, pyramid, rows_of
from specs.blocks.layers import act, channels, concat, conv, mul, pointwise, pool, reduce, reshape, resize, slice_, spatial, split, transpose
from specs.blocks.parts import bn_with, fold, statistics, total
from specs.formats import FLOAT
from specs.net import need, relation


@relation("bottleneck-injected-detector/requantised", of="bottleneck-injected-detector", dims=(1, 2, 3))
def quantisation_again(net: Any, x: Any) -> Any:
    """The dequantised codes lie on the grid of their scale: quantising them again over the same range changes nothing."""
    need(x.format is FLOAT, "DynamicQuantizeLinear takes float32")
    codes, scale, zero = net("DynamicQuantizeLinear", x, outputs=3)
    y = net("DequantizeLinear", codes, scale, zero)
    again = net("DequantizeLinear", net("QuantizeLinear", y, scale, zero), scale, zero)
    return y, again


@relation("cbnetv2-dhlc/nearest-commutes", of="cbnetv2-dhlc", dims=(1, 2, 3))
def composite_commutes(net: Any, x: Any) -> Any:
    """Nearest resizing commutes with the lateral 1x1 convolution and its norm."""
    x, p = pointwise(net, x, 4), statistics(net, 8)
    w = net.weight(8, 4, *[1] * (len(x.shape) - 2))
    size = [n + net.pick((n, 0, 1)) for n in spatial(x)]
    return resize(net, bn_with(net, net("Conv", x, w), p), size), bn_with(net, net("Conv", resize(net, x, size), w), p)


@relation("cbnetv2-dhlc/folded-norm", of="cbnetv2-dhlc", dims=(1, 2, 3))
def composite_folded(net: Any, x: Any) -> Any:
    """The norm behind a lateral 1x1 convolution folds into it."""
    p, w = statistics(net, 8), net.weight(8, channels(x), *[1] * (len(x.shape) - 2))
    return bn_with(net, net("Conv", x, w), p), net("Conv", x, *fold(net, w, p))


@relation("fast-rcnn/svd-full-rank", of="fast-rcnn", takes="tokens")
def svd_joined(net: Any, x: Any) -> Any:
    """Two thin dense layers without a bias between them are one with the product of the weights."""
    rank, out = net.pick((4, 8, 16)), net.pick((8, 16))
    u, v, b = net.weight(x.shape[2], rank), net.weight(rank, out), net.weight(out)
    left = net("Add", net("MatMul", net("MatMul", x, u), v), b)
    return left, net("Add", net("MatMul", x, net("MatMul", u, v)), b)


@relation("fast-rcnn/smooth-l1-forms", of="fast-rcnn", takes="tokens")
def smooth_forms(net: Any, x: Any) -> Any:
    """The branches of the smooth L1 loss in one expression: m^2 / 2 + |x| - m with m = min(|x|, 1)."""
    d = net("Abs", x)
    left = net("Where", net("Less", d, net.const(1.0)), net("Mul", mul(net, d, d), net.const(0.5)), net("Sub", d, net.const(0.5)))
    m = net("Min", d, net.const(1.0))
    return left, net("Add", net("Mul", mul(net, m, m), net.const(0.5)), net("Sub", d, m))


@relation("fpn3d-hs2/history-closed-form", of="fpn3d-hs2", dims=(1, 2, 3))
def history_closed(net: Any, x: Any) -> Any:
    """The history is the largest of tau less the age of each motion, and zero: exact, as its values are whole numbers."""
    moved, tau = motion(net, x), net.pick((11.0, 2.0))
    zero = net("Mul", slice_(net, x, 0, 1, 1), net.const(0.0))
    ages = [net("Where", m, net.const(max(0.0, tau - (len(moved) - 1 - t))), net.const(0.0)) for t, m in enumerate(moved)]
    return history(net, moved, zero, tau), net("Max", zero, *ages)


@relation("mulan-3d-fusion/split-kernel", of="mulan-3d-fusion", takes="none")
def fusion_split(net: Any) -> Any:
    """The fused middle image is the sum of one 1x1 convolution of each image."""
    g, n, c = net.pick((3, 5)), net.pick((2, 1)), 4
    x, w = net.input(n * g, c, 8, 6), net.weight(c, g * c, 1, 1)
    groups = reshape(net, x, [n, g, c, 8, 6])
    left = slice_(net, reshape(net, fuse_groups(net, x, g, w), [n, g, c, 8, 6]), g // 2, g // 2 + 1, 1)
    images = [reshape(net, slice_(net, groups, i, i + 1, 1), [n, c, 8, 6]) for i in range(g)]
    right = total(net, [conv(net, v, c, 1, w=slice_(net, w, i * c, (i + 1) * c, 1)) for i, v in enumerate(images)])
    return reshape(net, left, [n, c, 8, 6]), right


@relation("mulan-3d-fusion/round-trip", of="mulan-3d-fusion", takes="none")
def fusion_round_trip(net: Any) -> Any:
    """Batch to channels and back is nothing, and pointwise work may be done on either side."""
    g, c = net.pick((3, 7)), 4
    x = net.input(2 * g, c, 6, 5)
    return reshape(net, net("Tanh", reshape(net, x, [2, g * c, 6, 5])), [2 * g, c, 6, 5]), net("Tanh", x)


@relation("recursive-dynamic-head/grouped-conv", of="recursive-dynamic-head", takes="tokens")
def dynamic_grouped(net: Any, x: Any) -> Any:
    """A batched product with a kernel for each proposal is one grouped convolution."""
    (m, k, c), d = x.shape, net.pick((4, 8))
    w = reshape(net, net("Tanh", net.input(m, c * d)), [m, c, d])
    rows = reshape(net, transpose(net, x, [0, 2, 1]), [1, m * c, k])
    y = net("Conv", rows, reshape(net, transpose(net, w, [0, 2, 1]), [m * d, c, 1]), group=m, kernel_shape=[1])
    return net("MatMul", x, w), transpose(net, reshape(net, y, [m, d, k]), [0, 2, 1])


@relation("retina-unet-3d-wbc/symmetric-iou", of="retina-unet-3d-wbc", takes="none")
def iou_symmetric(net: Any) -> Any:
    """The overlap of a with b is that of b with a."""
    d = net.pick((3, 2))
    a, b = boxes(net, net.int(3, 7), d), boxes(net, net.int(2, 6), d)
    return iou(net, a, b), transpose(net, iou(net, b, a), [1, 0])


@relation("retina-unet-3d-wbc/scaled-iou", of="retina-unet-3d-wbc", takes="none")
def iou_scaled(net: Any) -> Any:
    """Doubling all coordinates leaves the overlap as it is, the guard against zero growing along."""
    d = net.pick((3, 2))
    a, b = boxes(net, net.int(3, 7), d), boxes(net, net.int(2, 6), d)
    double = lambda v: net("Mul", v, net.const(2.0))
    return iou(net, a, b, 2.0**-20), iou(net, double(a), double(b), 2.0 ** (d - 20))


@relation("sepc-pyramid-conv/integrated-norm", of="sepc-pyramid-conv", dims=(1, 2, 3))
def norm_integrated(net: Any, x: Any) -> Any:
    """One norm over the joined levels is the norm of each with the same statistics."""
    xs = pyramid(net, x, net.pick((2, 3)), 4)
    p = norm_weights(net, 4)
    flat = lambda vs: concat(net, *(reshape(net, v, [x.shape[0], 4, -1]) for v in vs), axis=2)
    return flat(integrated_norm(net, xs, p, True)), flat(integrated_norm(net, xs, p, False))


@relation("ssd-multibox/rows-first", of="ssd-multibox")
def rows_first(net: Any, x: Any) -> Any:
    """A 1x1 head and then rows is rows and then a product with its weights."""
    w, b, k = net.weight(8, channels(x), 1, 1), net.weight(8), 4
    left = rows_of(net, [net("Conv", x, w, b)], k)
    flat = reshape(net, transpose(net, x, [0, 2, 3, 1]), [x.shape[0], -1, channels(x)])
    right = net("Add", net("MatMul", flat, transpose(net, reshape(net, w, [8, channels(x)]), [1, 0])), b)
    return left, reshape(net, right, [x.shape[0], -1, k])


@relation("ssd-multibox/l2norm-forms", of="ssd-multibox", dims=(1, 2, 3))
def l2_forms(net: Any, x: Any) -> Any:
    """LpNormalization over the channels is division by ReduceL2, and by the root of the sum of squares."""
    x = concat(net, x, act(net, slice_(net, x, 0, 1, 1), "Sigmoid"))  # nowhere a zero vector
    norm = reduce(net, "ReduceL2", x, [1]) if net.flag() else net("Sqrt", reduce(net, "ReduceSumSquare", x, [1]))
    return net("LpNormalization", x, axis=1, p=2), net("Div", x, norm)


@relation("yolov4-csp-spp-pan/cascaded-pools", of="yolov4-csp-spp-pan", dims=(1, 2, 3))
def pools_cascade(net: Any, x: Any) -> Any:
    """Stride-1 pools of 5 after one another are pools of 5, 9 and 13."""
    x = slice_(net, x, 0, 4, 1)
    once = pool(net, x, "MaxPool", 5, 1, 2)
    twice = pool(net, once, "MaxPool", 5, 1, 2)
    thrice = pool(net, twice, "MaxPool", 5, 1, 2)
    return concat(net, once, twice, thrice), concat(net, *(pool(net, x, "MaxPool", k, 1, k // 2) for k in (5, 9, 13)))


@relation("yolov4-csp-spp-pan/split-halves", of="yolov4-csp-spp-pan", dims=(1, 2, 3))
def csp_halves(net: Any, x: Any) -> Any:
    """The two 1x1 convolutions that part a CSP stage are one, split."""
    ones = [1] * (len(x.shape) - 2)
    a, b = net.weight(4, channels(x), *ones), net.weight(4, channels(x), *ones)
    left = [conv(net, x, 4, 1, w=a), conv(net, x, 4, 1, w=b)]
    right = split(net, conv(net, x, 8, 1, w=concat(net, a, b, axis=0)), 2)
    return concat(net, net("Tanh", left[0]), left[1]), concat(net, net("Tanh", right[0]), right[1])


@relation("yolov4-csp-spp-pan/sam-linear", of="yolov4-csp-spp-pan", dims=(1, 2, 3))
def sam_reflected(net: Any, x: Any) -> Any:
    """The gate and what it leaves make up the map: x s(y) + x s(-y) = x."""
    y = pointwise(net, x, channels(x))
    return net("Add", mul(net, x, net("Sigmoid", y)), mul(net, x, net("Sigmoid", net("Neg", y)))), net("Identity", x)
