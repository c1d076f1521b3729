"""Gates that one feature map puts on another: from a skip, a second modality, a second network, a global map."""

from __future__ import annotations

from typing import Any

from specs.blocks.channel_spatial_gates import divisor, spatial_softmax
from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    classifier,
    concat,
    conv,
    conv_bn_act,
    depthwise,
    gap,
    mul,
    pointwise,
    pool,
    reduce,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
    split,
    upconv,
)
from specs.net import block, relation

ATTENTION_UNET = "Attention U-Net: Learning Where to Look for the Pancreas"


def attention_gate(net: Any, x: Any, g: Any, form: str, s: int = 2) -> Any:
    """The skip x under a map computed from itself and the coarser g."""
    inner = max(channels(x) // 2, 1)
    theta = conv(net, x, inner, s, s=s, pad=0)
    phi = pointwise(net, g, inner, bias=True)
    if spatial(phi) != spatial(theta):
        phi = resize(net, phi, spatial(theta), "linear")
    psi = conv(net, act(net, add(net, theta, phi)), 1, 1, bias=True)
    a = act(net, psi, "Sigmoid") if form == "sigmoid" else spatial_softmax(net, psi)
    a = a if spatial(a) == spatial(x) else resize(net, a, spatial(x), "linear")
    return bn(net, pointwise(net, mul(net, x, a), channels(x)))


@block("attention-gate-unet", ATTENTION_UNET, seeds=["000:105", "002:399"], dims=(2, 3), even=2, hazards="a resized sigmoid")
def attention_gate_unet(net: Any, x: Any) -> Any:
    """A decoder's coarse features gate the skip; stresses strided 2x2 convolution, Resize and broadcast products."""
    s = net.pick((2, 1))
    g = conv_bn_act(net, x, 16, s=2)
    if s == 1 and net.flag():
        g = resize(net, g, spatial(x), "linear")
    up = resize(net, g, spatial(x), "linear")
    return concat(net, attention_gate(net, x, g, "sigmoid", s), up)


@block("attention-gate-unet/softmax-gate", ATTENTION_UNET, dims=(2, 3), even=2, hazards="a softmax over the volume")
def attention_gate_softmax(net: Any, x: Any) -> Any:
    """The additive gate normalised over all positions."""
    return attention_gate(net, x, conv_bn_act(net, x, 8, s=2), "softmax")


@block("attention-gate-unet/net", ATTENTION_UNET, dims=(2, 3), even=4)
def attention_unet(net: Any, x: Any) -> Any:
    """A U-Net of two levels with a gate on every skip."""
    skips, y = list[Any](), x
    for width in (4, 8):
        y = conv_bn_act(net, y, width)
        skips.append(y)
        y = pool(net, y)
    y = conv_bn_act(net, y, 16)
    for skip in reversed(skips):
        gated = attention_gate(net, skip, y, "sigmoid")
        y = conv_bn_act(net, concat(net, gated, upconv(net, y, channels(skip))), channels(skip))
    return conv(net, y, 3, 1, bias=True)


DEYOLO = "DEYOLO: Dual-Feature-Enhancement YOLO for Cross-Modality Object Detection"


def focus(net: Any, x: Any, axis: int) -> Any:
    """Even and odd positions of an axis, side by side as channels."""
    return concat(net, *[slice_(net, x, i, x.shape[axis], axis, 2) for i in (0, 1)])


@block("deyolo-deca-depa", DEYOLO, seeds=["000:151"], even=2, hazards="chained sigmoid products shrink")
def deyolo_deca_depa(net: Any, x: Any) -> Any:
    """Visible and infrared features gate each other, by channels and then by positions; stresses two inputs and crossed branches.

    Assumed: the squeeze is a global pool, the gates are products of sigmoids with the joint gate, kernels 3 and 5 or 7.
    """
    c, infrared, wide = channels(x), net.input(*x.shape), net.pick((5, 7))
    r = divisor(net, c, (4, 2))

    def vector(v: Any) -> Any:
        return act(net, conv(net, act(net, conv(net, gap(net, v), c // r, 1)), c, 1), "Sigmoid")

    def plane(v: Any) -> Any:
        return conv(net, concat(net, conv(net, v, 2), conv(net, v, 2, wide)), 1, 1)

    joint = vector(conv(net, concat(net, x, infrared), c))
    seen = mul(net, x, mul(net, joint, vector(infrared)))
    felt = mul(net, infrared, mul(net, joint, vector(x)))
    weights = softmax(net, concat(net, plane(seen), plane(felt)), 1)
    first, second = split(net, weights, 2)
    return add(net, mul(net, seen, second), mul(net, felt, first))


@block("deyolo-deca-depa/bifocus", DEYOLO, even=2)
def bifocus(net: Any, x: Any) -> Any:
    """Horizontal and vertical focus: every other column (row) as channels, mixed, and brought back; joined to the features."""
    c, parts = channels(x), [x]
    for axis in (3, 2):
        h = pointwise(net, depthwise(net, focus(net, x, axis)), c)
        parts.append(resize(net, h, spatial(x)))
    return act(net, bn(net, pointwise(net, concat(net, *parts), c)), "Silu")


@relation("deyolo-deca-depa/focus-is-space-to-depth", of="deyolo-deca-depa", even=2)
def focus_is_space_to_depth(net: Any, x: Any) -> Any:
    """Focus on both axes is SpaceToDepth up to the order of channels: focus on rows first puts (column, row) in that order."""
    n, c, h, w = x.shape
    deep = net("SpaceToDepth", x, blocksize=2)  # channel order (row, column, c)
    swapped = net("Transpose", reshape(net, deep, [n, 2, 2, c, h // 2, w // 2]), perm=[0, 2, 1, 3, 4, 5])
    return focus(net, focus(net, x, 2), 3), reshape(net, swapped, [n, 4 * c, h // 2, w // 2])


@relation("deyolo-deca-depa/pool-as-full-kernel", of="deyolo-deca-depa", dims=(1, 2, 3))
def pool_as_full_kernel(net: Any, x: Any) -> Any:
    """A depthwise convolution of ones over the whole map, divided by its size, is the global average pool."""
    c, size, count = channels(x), spatial(x), 1
    for s in size:
        count *= s
    ones = net("Expand", net.const([1.0]), net.ints([c, 1, *size]))
    return net("Div", conv(net, x, c, size, g=c, pad=0, w=ones), net.const(float(count))), gap(net, x)


DGCC = "Annotation-Efficient Learning for Medical Image Segmentation based on Noisy Pseudo Labels and Adversarial Learning"


def encoded(net: Any, mask: Any, eps: Any) -> tuple[Any, Any]:
    """The middle features of a variational encoder over masks, and its latent mu + exp(logvar / 2) eps."""
    f = conv_bn_act(net, conv_bn_act(net, mask, 4, s=2), 8, s=2)
    flat = net("Flatten", f, axis=1)
    d = eps.shape[1]
    mu, logvar = (net("Gemm", flat, net.weight(flat.shape[1], d), net.weight(d)) for _ in range(2))
    spread = net("Exp", mul(net, act(net, net("Clip", logvar, net.const(-8.0), net.const(8.0)), "Tanh"), net.const(0.5)))
    return f, add(net, mu, mul(net, spread, eps))


@block("dgcc-noise-weighted-dice", DGCC, seeds=["003:91"], even=4, hazards="sigmoid saturation, exp of the log variance")
def dgcc_noise_weighted_dice(net: Any, x: Any) -> Any:
    """A discriminator's features over a mask gate the generator's channels; stresses a side input from another network.

    Assumed: the discriminator's middle features are used, the hidden width is C / r, and the residual is optional.
    """
    c = channels(x)
    f, _ = encoded(net, net.input(x.shape[0], 1, *spatial(x)), net.input(x.shape[0], 8))
    hidden = act(net, net("Gemm", net("Flatten", gap(net, f), axis=1), net.weight(8, max(c // 4, 2)), net.weight(max(c // 4, 2))))
    s = act(net, net("Gemm", hidden, net.weight(max(c // 4, 2), c), net.weight(c)), "Sigmoid")
    gated = mul(net, x, reshape(net, s, [x.shape[0], c, 1, 1]))
    return add(net, gated, x) if net.flag() else gated


@block("dgcc-noise-weighted-dice/vae-discriminator", DGCC, even=4, hazards="exp of the log variance")
def vae_discriminator(net: Any, x: Any) -> Any:
    """A variational autoencoder of masks, and how far its reconstruction is from the mask.

    Assumed: the log variance is bounded before exp.
    """
    n, size = x.shape[0], spatial(x)
    mask = act(net, conv(net, x, 1, 1), "Sigmoid")
    _, z = encoded(net, mask, net.input(n, 8))
    small = [s // 4 for s in size]
    h = reshape(net, net("MatMul", z, net.weight(8, 4 * small[0] * small[1])), [n, 4, *small])
    back = act(net, upconv(net, act(net, upconv(net, h, 4)), 1), "Sigmoid")
    return back, reduce(net, "ReduceL2", net("Flatten", net("Sub", mask, back), axis=1), [1])


@block("dgcc-noise-weighted-dice/loss", DGCC, dims=(1, 2, 3), hazards="0/0 for an empty mask")
def noise_weighted_dice(net: Any, x: Any) -> Any:
    """Dice with weights in numerator and denominator, from an ensemble's agreement |2q - 1|; stresses long reductions.

    Assumed: the weights come from an averaged prediction q.
    """
    p, q = (act(net, conv(net, x, 1, 1), "Sigmoid") for _ in range(2))
    y = net("Cast", net("Greater", net.input(*p.shape), net.const(0.0)), to=x.format.onnx)
    w = net("Abs", net("Sub", mul(net, q, net.const(2.0)), net.const(1.0)))
    axes, e = list(range(1, len(x.shape))), net.const(net.pick((1.0, 1e-5)))
    both = reduce(net, "ReduceSum", mul(net, w, mul(net, p, y)), axes, 0)
    each = reduce(net, "ReduceSum", mul(net, w, add(net, p, y)), axes, 0)
    return net("Sub", net.const(1.0), net("Div", net("Add", mul(net, both, net.const(2.0)), e), net("Add", each, e)))


MEDUSA = "MEDUSA: Multi-scale Encoder-Decoder Self-Attention Deep Neural Network Architecture for Medical Image Analysis"


def global_map(net: Any, x: Any, levels: int) -> Any:
    """A small U-Net over the input: one map that every stage reads."""
    skips, y = list[Any](), x
    for _ in range(levels):
        skips.append(y)
        y = conv_bn_act(net, y, 8, s=2)
    for skip in reversed(skips):
        y = conv_bn_act(net, concat(net, resize(net, y, spatial(skip), "linear"), skip), 4)
    return conv(net, y, 1, 1, bias=True)


def medusa_stages(net: Any, x: Any, stages: int) -> Any:
    residual, body = net.flag(), global_map(net, x, net.pick((1, 2)))
    f = x
    for stage in range(stages):
        f = conv_bn_act(net, f, 8 << min(stage, 1), s=2 if stage else 1)
        seen = body if spatial(body) == spatial(f) else resize(net, body, spatial(f), "linear")
        a = act(net, conv(net, conv_bn_act(net, concat(net, f, seen), 8), net.pick((1, channels(f))), 1, bias=True), "Sigmoid")
        gated = mul(net, f, a)
        f = add(net, gated, f) if residual else gated
    return f


@block("medusa-global-attention", MEDUSA, seeds=["000:69", "002:87"], even=4, hazards="products of gates shrink")
def medusa_global_attention(net: Any, x: Any) -> Any:
    """One global map of the input gates the stages of a backbone; stresses one producer with consumers at several sizes.

    Assumed: the heads' depth, one map channel, bilinear resizing to each stage.
    """
    return medusa_stages(net, x, net.pick((2, 3)))


@block("medusa-global-attention/net", MEDUSA, even=4)
def medusa_net(net: Any, x: Any) -> Any:
    """Three gated stages and a classifier. Assumed as for the block."""
    return classifier(net, medusa_stages(net, conv_bn_act(net, x, 8), 3), net.pick((2, 3)))
