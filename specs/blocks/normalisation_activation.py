"""Normalisations and activations that are more than one operator, and dropping of blocks."""

from __future__ import annotations

from typing import Any

from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    classifier,
    concat,
    conv,
    conv_bn_act,
    instance_norm,
    mean,
    mul,
    pointwise,
    reduce,
    reshape,
    slice_,
    spatial,
    split,
)
from specs.blocks.modern_cells import GAINS, standardised, ws_conv
from specs.net import block, relation

DROPBLOCK = "DropBlock: A regularization method for convolutional networks"


def everything(x: Any) -> int:
    size = 1
    for n in x.shape:
        size *= n
    return size


def zero_one(net: Any, condition: Any, x: Any) -> Any:
    """A condition as numbers of x's format."""
    return net("Cast", condition, to=x.format.onnx)


def keep_probability(net: Any, x: Any, b: int, keep: float) -> Any:
    gamma = (1 - keep) / b ** len(spatial(x))
    for n in spatial(x):
        gamma *= n / (n - b + 1)
    return net.const(gamma)


def dropblock_mask(net: Any, x: Any, u: Any, b: int, keep: float) -> Any:
    """1 outside the blocks around seeds; seeds lie where their whole block fits."""
    rank = len(spatial(x))
    for axis in range(2, rank + 2):
        u = slice_(net, u, b // 2, x.shape[axis] - b // 2, axis)
    seeds = zero_one(net, net("Less", u, keep_probability(net, x, b, keep)), x)
    sides = [b // 2] * rank
    seeds = net("Pad", seeds, net.ints([0, 0, *sides, 0, 0, *sides]))
    return net("Sub", net.const(1.0), net("MaxPool", seeds, kernel_shape=[b] * rank, strides=[1] * rank, pads=sides * 2))


def rescaled(net: Any, x: Any, m: Any) -> Any:
    """x under the mask, at the scale of what is kept; the guard is for a mask of zeros."""
    kept = net("Max", reduce(net, "ReduceSum", m, list(range(len(x.shape)))), net.const(1.0))
    return mul(net, mul(net, x, m), net("Div", net.const(float(everything(x))), kept))


def noise(net: Any, x: Any) -> Any:
    return net("Abs", net.input(*x.shape))


@block("dropblock", DROPBLOCK, seeds=["000:37", "002:259"], dims=(1, 2, 3), hazards="a mask of zeros, noise next to the threshold")
def dropblock(net: Any, x: Any) -> Any:
    """Blocks around random seeds are dropped; stresses comparison, cast, MaxPool as dilation and a global sum.

    Assumed: the noise is the size of an input (not uniform), and a kept count of 0 counts as 1.
    """
    b = net.pick([b for b in (3, 5, 1, 7) if b <= min(spatial(x))])
    y = conv_bn_act(net, x, channels(x))
    return rescaled(net, y, dropblock_mask(net, y, noise(net, y), b, net.pick((0.9, 0.7, 1.0))))


@block("dropblock/morphological-dilation", DROPBLOCK, dims=(1, 2, 3))
def morphological_dilation(net: Any, x: Any) -> Any:
    """MaxPool of stride 1 on a mask of 0 and 1 dilates it; the negated pool of the negated mask erodes it."""
    k = net.pick((3, 5))
    rank = len(spatial(x))
    how: dict[str, Any] = {"kernel_shape": [k] * rank, "strides": [1] * rank, "pads": [k // 2] * (2 * rank)}
    mask = zero_one(net, net("Greater", conv(net, x, 4), net.const(0.0)), x)
    return net("Sub", net("MaxPool", mask, **how), net("Neg", net("MaxPool", net("Neg", mask), **how)))


@relation("dropblock/keep-all", of="dropblock", dims=(1, 2, 3))
def dropblock_keep_all(net: Any, x: Any) -> Any:
    """Nothing is dropped when everything is kept."""
    return rescaled(net, x, dropblock_mask(net, x, noise(net, x), 3, 1.0)), x


@relation("dropblock/blocks-of-one", of="dropblock", dims=(1, 2, 3))
def dropblock_of_one(net: Any, x: Any) -> Any:
    """Blocks of size 1 are ordinary dropout."""
    u, keep = noise(net, x), net.pick((0.7, 0.9))
    plain = net("Where", net("Less", u, net.const(1 - keep)), net.const(0.0), net.const(1.0))
    return rescaled(net, x, dropblock_mask(net, x, u, 1, keep)), rescaled(net, x, plain)


@relation("dropblock/whole-channels", of="dropblock", dims=(1, 2, 3))
def dropblock_whole_channels(net: Any, x: Any) -> Any:
    """Blocks of the size of the map are dropped channels."""
    b = min(spatial(x)) - 1 + min(spatial(x)) % 2
    for axis in range(2, len(x.shape)):
        x = slice_(net, x, 0, b, axis)
    u = middle = noise(net, x)
    for axis in range(2, len(x.shape)):
        middle = slice_(net, middle, b // 2, b // 2 + 1, axis)
    kept = zero_one(net, net("Not", net("Less", middle, keep_probability(net, x, b, 0.7))), x)
    return rescaled(net, x, dropblock_mask(net, x, u, b, 0.7)), rescaled(net, x, net("Expand", kept, net.ints(x.shape)))


IBN = "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net"


def half_and_half(net: Any, x: Any) -> Any:
    a, b = split(net, x, 2)
    return concat(net, instance_norm(net, a), bn(net, b))


def ibn(net: Any, x: Any, out: int, variant: str) -> Any:
    h = conv(net, x, 8, 1)
    h = conv_bn_act(net, act(net, half_and_half(net, h) if variant == "a" else bn(net, h)), 8)
    y = add(net, bn(net, pointwise(net, h, out)), x if channels(x) == out else bn(net, pointwise(net, x, out)))
    return act(net, instance_norm(net, y) if variant == "b" else y)


@block("ibn-net", IBN, seeds=["002:283"], dims=(2, 3), hazards="instances of one value")
def ibn_net(net: Any, x: Any) -> Any:
    """A bottleneck with half its channels normalised by instance, or its sum; stresses Split, two normalisations, Concat."""
    return ibn(net, x, net.pick((channels(x), 12)), net.pick(("a", "b")))


@block("ibn-net/half-in-half-bn", IBN, dims=(2, 3))
def half_in_half_bn(net: Any, x: Any) -> Any:
    """The two normalisations side by side."""
    return half_and_half(net, x)


@block("ibn-net/net", IBN)
def ibn_whole(net: Any, x: Any) -> Any:
    """An instance-normalised stem, two cells, a head."""
    y = act(net, instance_norm(net, conv(net, x, 8, s=2)))
    return classifier(net, ibn(net, ibn(net, y, 12, "a"), 12, "b"))


MISH = "Mish: A Self Regularized Non-Monotonic Activation Function"


def mish_form(net: Any, x: Any, form: str) -> Any:
    """x tanh(softplus x); with e = exp x and n = e (e + 2), x n / (n + 2); or that up to 20 and x after."""
    if form == "operator" and net.opset >= 18:
        return net("Mish", x)
    if form in ("operator", "softplus-tanh"):
        return mul(net, x, net("Tanh", net("Softplus", x)))
    e = net("Exp", x if form == "rational" else net("Min", x, net.const(20.0)))
    n = mul(net, e, net("Add", e, net.const(2.0)))
    y = mul(net, x, net("Div", n, net("Add", n, net.const(2.0))))
    return y if form == "rational" else net("Where", net("Less", x, net.const(20.0)), y, x)


@block("mish", MISH, seeds=["000:379", "002:349"], dims=(1, 2, 3), hazards="exp before a quotient, the minimum near -1.19")
def mish(net: Any, x: Any) -> Any:
    """Mish after a normalised convolution, in a form that exporters write; stresses pattern fusion of Softplus, Tanh, Mul."""
    return mish_form(net, bn(net, conv(net, x, 8)), net.pick(("softplus-tanh", "operator", "where-clamped")))


@block("mish/softplus-threshold", MISH, dims=(1, 2, 3))
def softplus_threshold(net: Any, x: Any) -> Any:
    """Softplus that passes x through above 20, as frameworks define it, in Mish."""
    s = net("Where", net("Greater", x, net.const(20.0)), x, net("Log", net("Add", net("Exp", net("Min", x, net.const(20.0))), net.const(1.0))))
    return mul(net, x, net("Tanh", s))


@block("mish/swish-comparison", MISH, dims=(1, 2, 3), hazards="cancellation")
def swish_comparison(net: Any, x: Any) -> Any:
    """How far Mish is from the swish of the same convolution."""
    y = conv(net, x, 8)
    return net("Sub", mish_form(net, y, "operator"), act(net, y, "Silu"))


@relation("mish/rational", of="mish", dims=(1, 2, 3))
def mish_rational(net: Any, x: Any) -> Any:
    """The rational form, where exp does not overflow."""
    x = net("Clip", x, net.const(-20.0), net.const(20.0))
    return mish_form(net, x, net.pick(("softplus-tanh", "operator"))), mish_form(net, x, "rational")


@relation("mish/where-clamped", of="mish", dims=(1, 2, 3))
def mish_where_clamped(net: Any, x: Any) -> Any:
    """The form with a clamp, for every x (above 20 the forms differ by less than 1e-16 of the value)."""
    x = mul(net, x, net.const(16.0))
    return mish_form(net, x, "softplus-tanh"), mish_form(net, x, "where-clamped")


WIDE_DEEP = "Wide and Deep Neural Networks Achieve Optimality for Classification"


def hermite(net: Any, x: Any, d: int) -> Any:
    """A mix of normalised Hermite polynomials of degree 1 to 3."""
    square = mul(net, x, x)
    third = mul(net, x, net("Sub", square, net.const(3.0)))
    if d == 1:
        return net("Add", mul(net, third, net.const(12**-0.5)), mul(net, x, net.const(2**-0.5)))
    a = 2 ** (-d / 4)
    y = net("Add", mul(net, third, net.const(a / 6**0.5)), mul(net, x, net.const(a)))
    return net("Add", y, mul(net, net("Sub", square, net.const(1.0)), net.const(((1 - 2 * a * a) / 2) ** 0.5)))


@block("optimal-wide-deep-activations", WIDE_DEEP, seeds=["002:339"], takes="tokens", hazards="cubes of cubes, cancellation in the polynomials")
def optimal_wide_deep_activations(net: Any, x: Any) -> Any:
    """Rows on the sphere through wide layers with a polynomial activation; stresses products of one tensor with itself.

    Assumed: the activation's coefficients, recalled; a small constant guards the norm.
    """
    d, width = net.pick((2, 1, 8)), net.pick((16, 24))
    y = net("Div", x, net("Add", reduce(net, "ReduceL2", x, [2]), net.const(1e-3)))
    for _ in range(net.pick((2, 3, 5))):
        y = hermite(net, mul(net, net("MatMul", y, net.weight(y.shape[2], width)), net.const(width**-0.5)), d)
    return y


@block("optimal-wide-deep-activations/hermite-poly", WIDE_DEEP, takes="tokens", hazards="cancellation in the polynomials")
def hermite_poly(net: Any, x: Any) -> Any:
    """The activation alone. Assumed: its coefficients."""
    return hermite(net, x, net.pick((2, 1, 8)))


REGION = "Region Normalization for Image Inpainting"


def region_statistics(net: Any, x: Any, m: Any, epsilon: float) -> Any:
    """x normalised by mean and variance over the positions of one region."""
    axes = list(range(2, len(x.shape)))
    count = net("Max", reduce(net, "ReduceSum", m, axes), net.const(1.0))
    mu = net("Div", reduce(net, "ReduceSum", mul(net, x, m), axes), count)
    centred = net("Sub", x, mu)
    var = net("Div", reduce(net, "ReduceSumSquare", mul(net, centred, m), axes), count)
    return net("Div", centred, net("Sqrt", net("Add", var, net.const(epsilon))))


def region_norm(net: Any, x: Any, m: Any, affine: bool = True, epsilon: float = 1e-5) -> Any:
    """Both regions of the mask by their own statistics, with their own scale and shift."""
    parts, ones = list[Any](), [1] * len(spatial(x))
    for region in (m, net("Sub", net.const(1.0), m)):
        y = region_statistics(net, x, region, epsilon)
        if affine:
            y = net("Add", mul(net, y, net.weight(channels(x), *ones)), net.weight(channels(x), *ones))
        parts.append(mul(net, y, region))
    return add(net, *parts)


def hole(net: Any, x: Any) -> Any:
    return zero_one(net, net("Greater", net.input(x.shape[0], 1, *spatial(x)), net.const(0.0)), x)


@block("region-normalization", REGION, seeds=["002:157"], dims=(1, 2, 3), hazards="a region without positions, or of one value")
def region_normalization(net: Any, x: Any) -> Any:
    """Instance normalisation inside and outside a mask; stresses masked reductions.

    The row guards the count with eps, which is not InstanceNormalization exactly for a full mask; here the guard is Max(count, 1).
    """
    return act(net, region_norm(net, x, hole(net, x)))


@block("region-normalization/rn-l", REGION, dims=(1, 2, 3), hazards="scores next to the threshold")
def region_normalization_learned(net: Any, x: Any) -> Any:
    """The mask from a score of the features, then an affine map of each position."""
    both = concat(net, reduce(net, "ReduceMax", x, [1]), reduce(net, "ReduceMean", x, [1]))
    score = act(net, conv(net, both, 1, bias=True), "Sigmoid")
    m = zero_one(net, net("Greater", score, net.const(net.pick((0.8, 0.5)))), x)
    y, scale, shift = region_norm(net, x, m, affine=False, epsilon=1e-3), conv(net, score, channels(x)), conv(net, score, channels(x))
    return net("Add", mul(net, y, net("Add", scale, net.const(1.0))), shift)


@relation("region-normalization/one-region", of="region-normalization", dims=(1, 2, 3))
def one_region(net: Any, x: Any) -> Any:
    """With a full mask the normalisation is InstanceNormalization."""
    m = net("Expand", net.const([1.0]), net.ints([x.shape[0], 1, *spatial(x)]))
    c = channels(x)
    eps = 1e-3  # of the empty region's variance there is only this
    return region_norm(net, x, m, affine=False, epsilon=eps), net("InstanceNormalization", x, net.const([1.0] * c), net.const([0.0] * c), epsilon=eps)


@relation("region-normalization/region-shift", of="region-normalization", dims=(1, 2, 3))
def region_shift(net: Any, x: Any) -> Any:
    """A constant added to one region changes nothing (a scale would, by eps)."""
    m = hole(net, x)
    moved = net("Add", x, mul(net, m, net.const(net.pick((1.0, -3.0, 0.5)))))
    return region_norm(net, x, m, affine=False), region_norm(net, moved, m, affine=False)


SWS = "Characterizing signal propagation to close the performance gap in unnormalized ResNets"


@block("scaled-weight-standardization", SWS, seeds=["002:187"], dims=(1, 2, 3), hazards="weights of variance near the floor")
def scaled_weight_standardization(net: Any, x: Any) -> Any:
    """A convolution whose weights are standardised in the graph, and a scaled activation; stresses constant folding of weights."""
    kind = net.pick(("Relu", "Silu"))
    return mul(net, act(net, ws_conv(net, x, net.pick((8, 12)), net.pick((3, 1, 5))), kind), net.const(GAINS[kind]))


@block("scaled-weight-standardization/nf-resnet-block", SWS, dims=(1, 2, 3))
def nf_resnet_block(net: Any, x: Any) -> Any:
    """x + alpha f(x / beta) with two standardised convolutions."""
    kind = net.pick(("Relu", "Silu"))

    def activate(v: Any) -> Any:
        return mul(net, act(net, v, kind), net.const(GAINS[kind]))

    h = activate(net("Div", x, net.const(net.pick((1.0, 1.04**0.5, 1.08**0.5)))))
    h = ws_conv(net, activate(ws_conv(net, h, 8)), channels(x))
    return add(net, x, mul(net, h, net.const(0.2)))


@block("scaled-weight-standardization/signal-propagation", SWS, dims=(1, 2, 3), hazards="variance by cancellation")
def signal_propagation(net: Any, x: Any) -> Any:
    """The mean over channels of the squared mean and of the variance, over batch and space."""
    axes = [0, *range(2, len(x.shape))]
    y = ws_conv(net, x, 8)
    mu = mean(net, y, axes)
    centred = net("Sub", y, mu)
    return mean(net, mul(net, mu, mu), [1]), mean(net, mean(net, mul(net, centred, centred), axes), [1])


@relation("scaled-weight-standardization/input-shift", of="scaled-weight-standardization", dims=(1, 2, 3))
def input_shift(net: Any, x: Any) -> Any:
    """Standardised weights sum to 0: a constant added to the input, without padding, changes nothing."""
    rank = len(spatial(x))
    w = standardised(net, net.weight(6, channels(x), *[3] * rank), net.const(1.0))
    shifted = net("Add", x, net.const(net.pick((1.0, -2.0, 0.5))))
    return conv(net, x, 6, pad=0, w=w), conv(net, shifted, 6, pad=0, w=w)


@relation("scaled-weight-standardization/weight-scale", of="scaled-weight-standardization", dims=(1, 2, 3))
def weight_scale(net: Any, x: Any) -> Any:
    """Doubled weights standardise to the same, above the floor (a pattern of 1 and -1 keeps the variance there)."""
    c, rank = channels(x), len(spatial(x))
    w = net("Add", net.weight(6, c, *[3] * rank, low=-0.25, high=0.25), reshape(net, net.const([1.0, -1.0] * (c // 2)), [1, c, *[1] * rank]))
    one = net.const(1.0)
    return conv(net, x, 6, w=standardised(net, w, one)), conv(net, x, 6, w=standardised(net, mul(net, w, net.const(2.0)), one))
