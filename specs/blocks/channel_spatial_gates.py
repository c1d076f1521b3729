"""Gates over channels and positions: what they multiply the features with is computed from the features themselves."""

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
    gap,
    layer_norm,
    mean,
    mul,
    pointwise,
    reduce,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
    transpose,
)
from specs.blocks.parts import channel_gate, channel_pools
from specs.net import block, relation

DECO = "Generalizing to Unseen Domains in Diabetic Retinopathy with Disentangled Representations"


def divisor(net: Any, c: int, among: tuple[int, ...]) -> int:
    """A reduction that divides the channels; the row's own values first, else none."""
    return net.pick([r for r in among if c % r == 0] or [1])


def squeeze(net: Any, x: Any, r: int, pooled: str = "GlobalAveragePool") -> Any:
    """The channel gate of squeeze and excitation, (N, C, 1, ...)."""
    return channel_gate(net, x, channels(x) // r, pooled=pooled)


@block("cbam", "CBAM: Convolutional Block Attention Module", seeds=["000:309"], dims=(1, 2, 3), hazards="ties of the maximum, sigmoid saturation")
def cbam(net: Any, x: Any) -> Any:
    """Channel gate from two pools through a shared bottleneck, then a spatial gate; stresses shared weights and channel reductions."""
    c, r, k = channels(x), net.pick((8, 4, 2, 16)), net.pick((7, 3))
    r = min(r, c)
    rank = len(x.shape) - 2
    down, up = net.weight(c // r, c, *[1] * rank), net.weight(c, c // r, *[1] * rank)

    def bottleneck(pooled: Any) -> Any:
        return conv(net, act(net, conv(net, pooled, c // r, 1, w=down)), c, 1, w=up)

    x = mul(net, x, act(net, net("Add", bottleneck(gap(net, x)), bottleneck(net("GlobalMaxPool", x))), "Sigmoid"))
    return mul(net, x, act(net, conv(net, channel_pools(net, x), 1, k), "Sigmoid"))


@block("cbam/bam", "BAM: Bottleneck Attention Module", dims=(1, 2, 3), hazards="sigmoid saturation")
def bam(net: Any, x: Any) -> Any:
    """A channel gate and a dilated spatial gate, added by broadcasting and shared: x + x * sigmoid(both)."""
    c = channels(x)
    r = divisor(net, c, (4, 2))
    over_channels = bn(net, conv(net, act(net, conv(net, gap(net, x), c // r, 1)), c, 1))
    h = conv_bn_act(net, x, c // r, 1)
    for _ in range(2):
        h = conv_bn_act(net, h, c // r, d=net.pick((4, 2)))
    gate = act(net, net("Add", over_channels, bn(net, conv(net, h, 1, 1))), "Sigmoid")
    return add(net, x, mul(net, x, gate))


def spatial_softmax(net: Any, a: Any) -> Any:
    """Softmax over all positions of each channel, of mean 1."""
    n, c, size = a.shape[0], a.shape[1], spatial(a)
    count = 1
    for s in size:
        count *= s
    flat = softmax(net, reshape(net, a, [n, c, count]))
    return mul(net, reshape(net, flat, a.shape), net.const(float(count)))


@block(
    "acat-saliency-attention",
    "ACAT: Adversarial Counterfactual Attention for Classification and Detection in Medical Imaging",
    seeds=["000:19"],
    hazards="a softmax over all positions: values near 1/HW; cancellation in the saliency difference",
)
def acat_saliency_attention(net: Any, x: Any) -> Any:
    """A saliency map gates every stage of an image branch; stresses two inputs and (N, 1, H, W) broadcasts.

    Assumed: the choice of sigmoid or spatial softmax, the residual, and one convolution a stage; the saliency is |counterfactual - map|.
    """
    n, form, residual = x.shape[0], net.pick(("sigmoid", "spatial-softmax")), net.flag()
    g = net("Abs", net("Sub", net.input(n, 1, *spatial(x)), net.input(n, 1, *spatial(x))))
    f = x
    for stage in range(net.pick((2, 1, 3))):
        f, g = conv_bn_act(net, f, 8 << min(stage, 1), s=2), conv_bn_act(net, g, 4, s=2)
        a = conv(net, g, 1, 1, bias=True)
        a = spatial_softmax(net, a) if form == "spatial-softmax" else act(net, a, "Sigmoid")
        gated = mul(net, f, a)
        f = add(net, gated, f) if residual else gated
    return f


@block("acat-saliency-attention/net", "ACAT: Adversarial Counterfactual Attention for Classification and Detection in Medical Imaging")
def acat_net(net: Any, x: Any) -> Any:
    """Gated stages over the slices of a scan, the slices merged by their maximum, and a classifier.

    Assumed: slices are the batch; maximum, not attention, merges them.
    """
    merged = reduce(net, "ReduceMax", gap(net, acat_saliency_attention(net, x)), [0])
    return softmax(net, classifier(net, merged, 3))


@block("acat-saliency-attention/spatial-softmax-gate", "ACAT: Adversarial Counterfactual Attention for Classification and Detection in Medical Imaging")
def spatial_softmax_gate(net: Any, x: Any) -> Any:
    """Features times the softmax of a score over all positions; stresses reshape, softmax, reshape."""
    return mul(net, x, spatial_softmax(net, conv(net, x, 1, 1)))


def disentangle(net: Any, f: Any) -> tuple[Any, Any]:
    """f in two parts by a gate m and its complement: f * m and f * (1 - m)."""
    c = channels(f)
    m = act(net, conv(net, act(net, conv(net, f, c // divisor(net, c, (4, 2)), 1, bias=True)), c, 1, bias=True), "Sigmoid")
    return mul(net, f, m), mul(net, f, net("Sub", net.const(1.0), m))


def permutation(net: Any, n: int) -> list[int]:
    left = list(range(n))
    return [left.pop(net.choose(len(left))) for _ in range(n)]


@block(
    "deco-disentangle-swap",
    DECO,
    seeds=["004:15"],
    hazards="f*m + f*(1-m) against f",
)
def deco_disentangle_swap(net: Any, x: Any) -> Any:
    """Semantics and noise of a feature map, the noise swapped over the batch, one shared head, one prototype mix.

    Assumed: the gate's structure (two 1x1 convolutions).
    """
    n, c = x.shape[0], channels(x)
    s, noise = disentangle(net, x)
    swapped = add(net, s, net("Gather", noise, net.ints(permutation(net, n)), axis=0))
    views = concat(net, x, s, swapped, axis=0)
    logits = classifier(net, views)
    a = net.pick((0.5, 0.25))
    pooled = net("Flatten", gap(net, s), axis=1)
    mixed = net("Add", mul(net, pooled, net.const(1 - a)), mul(net, net.weight(1, c), net.const(a)))
    return logits, mixed


@block("deco-disentangle-swap/pixel-alignment", DECO, hazards="zero norms")
def pixel_alignment(net: Any, x: Any) -> Any:
    """One minus the mean cosine between the positions of two maps, in float32."""
    s, _ = disentangle(net, x)
    t = conv(net, x, channels(x), 1)

    def unit(v: Any) -> Any:
        return net("Div", v, net("Add", reduce(net, "ReduceL2", v, [1]), net.const(1e-3)))

    cosine = reduce(net, "ReduceSum", mul(net, unit(s), unit(t)), [1])
    return net("Sub", net.const(1.0), mean(net, cosine, list(range(1, len(x.shape))), 0))


@relation("deco-disentangle-swap/identity-permutation", of="deco-disentangle-swap")
def identity_permutation(net: Any, x: Any) -> Any:
    """With the identity for a permutation, the parts sum to the whole."""
    s, noise = disentangle(net, x)
    return add(net, s, net("Gather", noise, net.ints(list(range(x.shape[0]))), axis=0)), x


@relation("deco-disentangle-swap/permutations-cancel", of="deco-disentangle-swap")
def permutations_cancel(net: Any, x: Any) -> Any:
    """Swapping both parts by one permutation and back changes nothing."""
    perm = permutation(net, x.shape[0])
    s, noise = disentangle(net, x)
    moved = add(net, net("Gather", s, net.ints(perm), axis=0), net("Gather", noise, net.ints(perm), axis=0))
    back = [perm.index(i) for i in range(len(perm))]
    return net("Gather", moved, net.ints(back), axis=0), add(net, s, noise)


@block("eca", "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", seeds=["002:139"], dims=(1, 2, 3), hazards="sigmoid saturation")
def eca(net: Any, x: Any) -> Any:
    """A convolution over the channels of the pooled features gates them; stresses squeeze, transpose and rank changes."""
    return mul(net, x, eca_gate(net, x, circular=False))


def eca_gate(net: Any, x: Any, circular: bool) -> Any:
    n, c, rank = x.shape[0], channels(x), len(x.shape)
    plain = 1 if c < 8 else 3  # the odd number next to (log2 C + 1) / 2
    k = net.pick([plain, *(k for k in (1, 3, 5, 7) if k != plain and (k + 1) // 2 <= c)])
    if net.flag():
        z = transpose(net, net("Squeeze", gap(net, x), net.ints(list(range(3, rank)))) if rank > 3 else gap(net, x), [0, 2, 1])
    else:
        z = reshape(net, gap(net, x), [n, 1, c])
    if circular and k > 1:
        half = k // 2
        z = concat(net, slice_(net, z, c - half, c, 2), z, slice_(net, z, 0, half, 2), axis=2)
    z = conv(net, z, 1, k, pad=0 if circular else None)
    return reshape(net, act(net, z, "Sigmoid"), [n, c, *[1] * (rank - 2)])


@block("eca/circular", "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", dims=(1, 2, 3))
def eca_circular(net: Any, x: Any) -> Any:
    """The same with channels on a ring: both ends see each other."""
    return mul(net, x, eca_gate(net, x, circular=True))


@block(
    "feature-selection-gate",
    "Hard-Attention Gates with Gradient Routing for Endoscopic Image Computing",
    seeds=["000:299"],
    dims=(1, 2),
    hazards="a threshold tie at weight 0",
)
def feature_selection_gate(net: Any, x: Any) -> Any:
    """A gate that is a trained parameter, soft or hard, after a residual block; stresses constant folding and scale folding.

    Assumed: where the gate stands (after the sum).
    """
    y = add(net, x, conv_bn_act(net, x, channels(x)))
    gate = act(net, net.weight(channels(x), *[1] * (len(x.shape) - 2)), "Sigmoid")
    if net.flag():
        gate = net("Cast", net("Greater", gate, net.const(0.5)), to=x.format.onnx)
    return act(net, mul(net, y, gate))


@block("feature-selection-gate/tokens", "Hard-Attention Gates with Gradient Routing for Endoscopic Image Computing", takes="tokens", dims=(1,))
def feature_selection_gate_tokens(net: Any, x: Any) -> Any:
    """The gate over the last axis, after the second layer of a transformer's MLP."""
    d = x.shape[-1]
    h = act(net, net("Add", net("MatMul", layer_norm(net, x), net.weight(d, 2 * d)), net.weight(2 * d)), "Gelu")
    h = mul(net, net("MatMul", h, net.weight(2 * d, d)), act(net, net.weight(d), "Sigmoid"))
    return add(net, x, h)


@relation("feature-selection-gate/fold-forward", of="feature-selection-gate", dims=(1, 2))
def gate_fold_forward(net: Any, x: Any) -> Any:
    """Conv(x * g) is Conv(x) with g in the input channels of its weight."""
    c, rank = channels(x), len(x.shape) - 2
    g, w = act(net, net.weight(c, *[1] * rank), "Sigmoid"), net.weight(6, c, *[3] * rank)
    return conv(net, mul(net, x, g), 6, w=w), conv(net, x, 6, w=mul(net, w, g))


@relation("feature-selection-gate/fold-back", of="feature-selection-gate", dims=(1, 2))
def gate_fold_back(net: Any, x: Any) -> Any:
    """A gate, never negative, moves through Relu into the convolution before it."""
    c, rank = channels(x), len(x.shape) - 2
    w, g = net.weight(6, c, *[3] * rank), act(net, net.weight(6, *[1] * (rank + 1)), "Sigmoid")
    gate = reshape(net, g, [6, *[1] * rank])
    return mul(net, act(net, conv(net, x, 6, w=w)), gate), act(net, conv(net, x, 6, w=mul(net, w, g)))


@block(
    "polarized-self-attention",
    "Polarized Self-Attention: Towards High-quality Pixel-wise Regression",
    seeds=["000:263"],
    dims=(1, 2),
    hazards="softmax over all positions, layer normalisation of few channels",
)
def polarized_self_attention(net: Any, x: Any) -> Any:
    """A channel gate by softmax over positions and a position gate by softmax over channels; stresses matrix-vector products."""
    if net.pick(("parallel", "sequential")) == "parallel":
        return add(net, mul(net, x, psa_channel(net, x)), mul(net, x, psa_spatial(net, x)))
    first, second = (psa_channel, psa_spatial) if net.flag() else (psa_spatial, psa_channel)
    x = mul(net, x, first(net, x))
    return mul(net, x, second(net, x))


def psa_channel(net: Any, x: Any) -> Any:
    n, c, ones = x.shape[0], channels(x), [1] * (len(x.shape) - 2)
    value = reshape(net, pointwise(net, x, c // 2), [n, c // 2, -1])
    query = softmax(net, reshape(net, pointwise(net, x, 1), [n, -1, 1]), 1)
    z = pointwise(net, reshape(net, net("MatMul", value, query), [n, c // 2, *ones]), c)
    return act(net, reshape(net, layer_norm(net, reshape(net, z, [n, c])), [n, c, *ones]), "Sigmoid")


def psa_spatial(net: Any, x: Any) -> Any:
    n, c = x.shape[0], channels(x)
    query = softmax(net, reshape(net, gap(net, pointwise(net, x, c // 2)), [n, 1, c // 2]))
    value = reshape(net, pointwise(net, x, c // 2), [n, c // 2, -1])
    return act(net, reshape(net, net("MatMul", query, value), [n, 1, *spatial(x)]), "Sigmoid")


SK = "Selective Kernel Networks"


def sk_branches(net: Any, x: Any, count: int) -> tuple[list[Any], list[Any]]:
    """Branches of growing dilation, and one score a branch and channel."""
    c = channels(x)
    g = net.pick([g for g in (1, 4, 8) if c % g == 0])
    branches = [conv_bn_act(net, x, c, d=i + 1, g=g) for i in range(count)]
    total = branches[0]
    for u in branches[1:]:
        total = add(net, total, u)
    z = conv_bn_act(net, gap(net, total), max(c // net.pick((2, 4)), 4), 1)
    return branches, [conv(net, z, c, 1, bias=True) for _ in range(count)]


def weighted_sum(net: Any, gates: list[Any], branches: list[Any]) -> Any:
    y = mul(net, gates[0], branches[0])
    for a, u in zip(gates[1:], branches[1:], strict=True):
        y = add(net, y, mul(net, a, u))
    return y


@block("sk-unit", SK, seeds=["000:289", "002:165"], dims=(1, 2, 3), hazards="softmax of equal scores")
def sk_unit(net: Any, x: Any) -> Any:
    """Branches of different reach weighted by a softmax over the branches, in a residual bottleneck; stresses stacked softmax."""
    h = conv_bn_act(net, x, net.pick((8, 16)), 1)
    branches, scores = sk_branches(net, h, net.pick((2, 3)))
    stacked = net("Softmax", concat(net, *[net("Unsqueeze", s, net.ints([1])) for s in scores]), axis=1)
    gates = [net("Gather", stacked, net.const(i, form=net.ints([0]).format), axis=1) for i in range(len(branches))]
    return act(net, add(net, bn(net, pointwise(net, weighted_sum(net, gates, branches), channels(x))), x))


@relation("sk-unit/softmax-of-two", of="sk-unit", dims=(1, 2, 3))
def sk_softmax_of_two(net: Any, x: Any) -> Any:
    """A softmax over two branches is the sigmoid of the difference of their scores."""
    branches, scores = sk_branches(net, x, 2)
    stacked = net("Softmax", concat(net, *[net("Unsqueeze", s, net.ints([1])) for s in scores]), axis=1)
    soft = [net("Squeeze", part, net.ints([1])) for part in net("Split", stacked, net.ints([1, 1]), axis=1, outputs=2)]
    a = act(net, net("Sub", scores[0], scores[1]), "Sigmoid")
    return weighted_sum(net, soft, branches), weighted_sum(net, [a, net("Sub", net.const(1.0), a)], branches)


@relation("sk-unit/weights-sum-to-one", of="sk-unit", dims=(1, 2, 3))
def sk_weights_sum(net: Any, x: Any) -> Any:
    """Equal branches come through whatever the scores are."""
    _, scores = sk_branches(net, x, net.pick((2, 3)))
    stacked = net("Softmax", concat(net, *[net("Unsqueeze", s, net.ints([1])) for s in scores]), axis=1)
    parts = net("Split", stacked, net.ints([1] * len(scores)), axis=1, outputs=len(scores))
    gates = [net("Squeeze", part, net.ints([1])) for part in parts]
    return weighted_sum(net, gates, [x] * len(gates)), x


TUBULE = "Learning Tubule-Sensitive CNNs for Pulmonary Airway and Artery-Vein Segmentation in CT"


@block("tubule-feature-recalibration-3d", TUBULE, seeds=["000:381", "001:135", "002:197"], dims=(3, 2), hazards="long weighted sums")
def tubule_feature_recalibration_3d(net: Any, x: Any) -> Any:
    """Projections on each axis with learned weights, spread out and summed into a gate of every voxel.

    Assumed: axis weights are static, which ties the block to its sizes; the gate reads the broadcast sum.
    """
    c, rank, total = channels(x), len(x.shape) - 2, None
    for kept in range(rank):
        z = x
        for other in reversed(range(rank)):
            if other != kept:
                weights = net.weight(*[s if i == other else 1 for i, s in enumerate(spatial(x))])
                z = reduce(net, "ReduceSum", mul(net, z, weights), [other + 2])
        z = net("Expand", z, net.ints(x.shape))
        total = z if total is None else add(net, total, z)
    gate = conv(net, act(net, conv(net, total, c // divisor(net, c, (2, 4)), 1, bias=True)), c, 1, bias=True)
    return mul(net, act(net, gate, "Sigmoid"), x)


@block("tubule-feature-recalibration-3d/attention-distillation", TUBULE, dims=(3, 2), even=2, hazards="a softmax over all voxels")
def attention_distillation(net: Any, x: Any) -> Any:
    """The squared gap of two layers' attention maps: channel sum of squares, resized, softmax over all voxels."""
    n, deep = x.shape[0], conv_bn_act(net, x, 8, s=2)
    fine, coarse = (reduce(net, "ReduceSumSquare", f, [1]) for f in (x, deep))
    a, b = (softmax(net, reshape(net, m, [n, -1])) for m in (fine, resize(net, coarse, spatial(x), "linear")))
    return deep, reduce(net, "ReduceSumSquare", net("Sub", a, b), [1], keepdims=net.pick((1, 0)))


@block("tubule-feature-recalibration-3d/anatomy-prior", TUBULE, dims=(3, 2))
def anatomy_prior(net: Any, x: Any) -> Any:
    """Context and distance maps joined to the last features before the prediction."""
    context, distance = net.input(x.shape[0], 1, *spatial(x)), net.input(x.shape[0], 1, *spatial(x))
    return act(net, conv(net, concat(net, conv_bn_act(net, x, 8), context, distance), 1, 1, bias=True), "Sigmoid")
