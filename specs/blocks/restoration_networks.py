"""Restoration networks: aggregation of scales, gated cells in U-shapes, pyramids, and what surrounds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import (
    act,
    add,
    channels,
    concat,
    conv,
    gap,
    instance_norm,
    linear,
    mean,
    mul,
    pad,
    pointwise,
    reshape,
    resize,
    spatial,
    transpose,
    upconv,
)
from specs.blocks.parts import channel_pools, conv_with, flatten_linear, narrow, offset, prelu, scale, sub
from specs.blocks.restoration import lrelu, skff_fuse
from specs.net import block


def _up(net: Any, x: Any, r: int = 2, mode: str = "nearest") -> Any:
    return resize(net, x, [n * r for n in spatial(x)], mode)


@block(
    "deblurgan2-fpn",
    "DeblurGAN-v2: Deblurring (Orders-of-Magnitude) Faster and Better",
    seeds=["000:189"],
    even=4,
    hazards="clip boundaries, norm of tiny maps",
)
def deblurgan2_fpn(net: Any, x: Any) -> Any:
    """A feature pyramid whose levels are enlarged and joined, clipped around the input; stresses nearest Resize chains and wide Concat."""
    scales = [act(net, conv(net, x, 8, 3, bias=True))]
    for _ in range(2):
        scales.append(act(net, instance_norm(net, conv(net, scales[-1], 8, 3, s=2, pad=1, bias=True))))
    size, maps = spatial(x), [pointwise(net, scales[2], 8)]
    for level in (1, 0):
        maps.append(net("Add", pointwise(net, scales[level], 8), resize(net, maps[-1], spatial(scales[level]))))
    heads = [resize(net, act(net, conv(net, act(net, conv(net, m, 4)), 4)), size) for m in maps]
    out = act(net, conv(net, act(net, instance_norm(net, conv(net, concat(net, *heads), 8))), channels(x)), "Tanh")
    return net("Clip", net("Add", x, out), net.const(-1.0), net.const(1.0))


@block("deblurgan2-fpn/ragan-ls", "DeblurGAN-v2: Deblurring (Orders-of-Magnitude) Faster and Better", seeds=["000:189"])
def ragan_ls(net: Any, x: Any) -> Any:
    """Relativistic least-squares loss of two maps of logits."""
    real, fake = conv(net, x, 1, 3, bias=True), conv(net, x, 1, 3, bias=True)
    axes, terms = [0, 1, 2, 3], list[Any]()
    for a, b, sign in ((real, fake, -1.0), (fake, real, 1.0)):
        d = offset(net, sub(net, a, mean(net, b, axes)), sign)
        terms.append(mean(net, mul(net, d, d), axes))
    return net("Add", terms[0], terms[1])


def _qf_attention(net: Any, f: Any, e: Any) -> Any:
    """Residual whose scale and shift come from an embedded quality factor."""
    c, n = channels(f), f.shape[0]
    gamma, beta = (reshape(net, act(net, linear(net, e, c), kind), [n, c, 1, 1]) for kind in ("Sigmoid", "Tanh"))
    r = conv(net, act(net, conv(net, f, c, bias=True)), c, bias=True)
    return net("Add", f, net("Add", mul(net, gamma, r), beta))


@block("fbcnn-qf-attention", "Towards Flexible Blind JPEG Artifacts Removal", seeds=["000:57"], hazards="tanh and sigmoid saturation")
def fbcnn_qf_attention(net: Any, x: Any) -> Any:
    """Features scaled and shifted by a predicted quality factor; stresses data-dependent affine broadcasts."""
    q = act(net, flatten_linear(net, gap(net, x), 1), "Sigmoid")
    return _qf_attention(net, x, act(net, linear(net, act(net, linear(net, q, 16)), 16)))


@block("fbcnn-qf-attention/net", "Towards Flexible Blind JPEG Artifacts Removal", seeds=["000:57"])
def fbcnn_net(net: Any, x: Any) -> Any:
    """Edge padding to a multiple, strided 2x2 encoder, quality head, transposed decoder with additive skips, crop."""
    h, w = spatial(x)
    y = conv(net, pad(net, x, [0, 0], [-h % 4, -w % 4], "edge"), 8, bias=True)
    skips = [y]
    for c in (12, 16):
        y = act(net, conv(net, y, c, 2, s=2, pad=0, bias=True))
        skips.append(y)
    q = act(net, flatten_linear(net, gap(net, y), 1), "Sigmoid")
    e = act(net, linear(net, act(net, linear(net, q, 16)), 16))
    for skip in reversed(skips[:-1]):
        y = _qf_attention(net, net("Add", upconv(net, y, channels(skip)), skip), e)
    return net("Slice", conv(net, y, 3), net.ints([0, 0]), net.ints([h, w]), net.ints([2, 3])), q


@block("fbcnn-qf-attention/double-jpeg", "Towards Flexible Blind JPEG Artifacts Removal", seeds=["000:57"], hazards="ties of the rounding")
def double_jpeg(net: Any, x: Any) -> Any:
    """Blockwise cosine transform, division by a table, rounding and back, twice with a shift between; stresses Round and batched 8x8 products."""
    i, j = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    basis = net.const(np.sqrt(np.where(i == 0, 1, 2) / 8) * np.cos((2 * j + 1) * i * np.pi / 16))
    table, y = net.weight(8, 8, low=0.05, high=1.0), x
    for turn in range(2):
        n, c, h, w = y.shape
        hp, wp = h + -h % 8, w + -w % 8
        blocks = reshape(net, pad(net, y, [0, 0], [hp - h, wp - w], "edge"), [n * c, hp // 8, 8, wp // 8, 8])
        z = net("MatMul", net("MatMul", basis, transpose(net, blocks, [0, 1, 3, 2, 4])), transpose(net, basis, [1, 0]))
        z = mul(net, net("Round", net("Div", z, table)), table)
        z = net("MatMul", net("MatMul", transpose(net, basis, [1, 0]), z), basis)
        z = reshape(net, transpose(net, z, [0, 1, 3, 2, 4]), [n, c, hp, wp])
        y = net("Slice", z, net.ints([1 - turn] * 2), net.ints([h, w]), net.ints([2, 3]))
    return y


@block(
    "mfagan-aggregation",
    "MFAGAN: A Compression Framework for Memory-Efficient On-Device Super-Resolution GAN",
    seeds=["002:261"],
    hazards="chained residual scales",
)
def mfagan_aggregation(net: Any, x: Any) -> Any:
    """Parallel dilated branches with sums between them, joined and scaled. Assumed: dilations 1, 2, 3, pointwise reduction, factor 0.2."""
    c, width = channels(x), net.pick((4, 8))
    y, branches = lrelu(net, pointwise(net, x, width)), list[Any]()
    for d in (1, 2, 3):
        z = conv(net, y, width, 3, d=d)
        branches.append(lrelu(net, net("Add", z, branches[-1]) if branches else z))
    return add(net, x, scale(net, pointwise(net, concat(net, *branches), c), 0.2))


@block("mfagan-aggregation/net", "MFAGAN: Memory-Efficient On-Device Super-Resolution GAN", seeds=["002:261"])
def mfagan_net(net: Any, x: Any) -> Any:
    """Head, aggregation blocks, global skip, nearest enlargement."""
    y = conv(net, x, 8)
    y = add(net, y, conv(net, mfagan_aggregation(net, mfagan_aggregation(net, y)), 8))
    return conv(net, lrelu(net, conv(net, _up(net, y), 8)), 3)


@block("mfagan-aggregation/patchgan", "MFAGAN (the discriminator)", seeds=["002:261"])
def patchgan(net: Any, x: Any) -> Any:
    """Convolutions of size 4 and stride 2 to a map of logits."""
    y = lrelu(net, conv(net, x, 8, 4, s=2, pad=1, bias=True))
    return conv(net, lrelu(net, instance_norm(net, conv(net, y, 12, 4, s=1, pad=2))), 1, 3, bias=True)


def _blurred(net: Any, x: Any) -> Any:
    """Reflect padding and a fixed depthwise blur of stride two."""
    v = np.array([1.0, 3, 3, 1]) / 8
    kernel = net.const(np.tile(np.outer(v, v), (channels(x), 1, 1, 1)))
    return conv_with(net, pad(net, x, [1, 1], [1, 1], "reflect"), kernel, s=2, g=channels(x), pads=0)


def _dual_attention(net: Any, x: Any, r: int = 8) -> Any:
    c = channels(x)
    f = conv(net, prelu(net, conv(net, x, c)), c)
    by_channel = mul(net, f, act(net, conv(net, act(net, conv(net, gap(net, f), max(1, c // r), 1)), c, 1), "Sigmoid"))
    by_place = mul(net, f, act(net, conv(net, channel_pools(net, f), 1, 5), "Sigmoid"))
    return add(net, x, pointwise(net, concat(net, by_channel, by_place), c))


def _down(net: Any, x: Any) -> Any:
    """Half the size in two branches: blurred convolution and plain."""
    c = channels(x)
    return net("Add", pointwise(net, _blurred(net, act(net, conv(net, x, c))), c), pointwise(net, _blurred(net, x), c))


@block(
    "mirnet-mrb",
    "Learning Enriched Features for Real Image Restoration and Enhancement",
    seeds=["001:355", "003:227"],
    even=4,
    hazards="softmax over few logits, gates, half-pixel rounding, ties of the maximum",
)
def mirnet_mrb(net: Any, x: Any) -> Any:
    """Two streams that exchange features up and down and are fused by selection; stresses Resize pairs, short softmax and channel maxima.

    Assumed: two streams of equal width.
    """
    c = channels(x)
    top, low = _dual_attention(net, x), _dual_attention(net, _down(net, x))
    fused_top = skff_fuse(net, [top, _up(net, pointwise(net, low, c), 2, "linear")])
    fused_low = skff_fuse(net, [low, _down(net, top)])
    y = skff_fuse(net, [fused_top, _up(net, pointwise(net, fused_low, c), 2, "linear")])
    return add(net, x, conv(net, y, c))


@block("mirnet-mrb/dual-attention-unit", "Learning Enriched Features for Real Image Restoration and Enhancement", seeds=["001:355", "003:227"])
def dual_attention_unit(net: Any, x: Any) -> Any:
    """Channel and spatial gates side by side, residual."""
    return _dual_attention(net, x, net.pick((8, 4)))


@block("mirnet-mrb/blur-pool", "Learning Enriched Features for Real Image Restoration and Enhancement", seeds=["001:355", "003:227"])
def blur_pool(net: Any, x: Any) -> Any:
    """Anti-aliased halving: reflect padding and a constant depthwise kernel."""
    return _blurred(net, act(net, conv(net, x, channels(x))))


@block("mirnet-mrb/net", "Learning Enriched Features for Real Image Restoration and Enhancement", seeds=["001:355", "003:227"], even=4)
def mirnet(net: Any, x: Any) -> Any:
    """Recursive residual group of one multi-scale block inside a residual network."""
    y = conv(net, x, 8)
    y = add(net, y, conv(net, mirnet_mrb(net, conv(net, y, 8)), 8))
    return add(net, pointwise(net, x, 3), conv(net, y, 3))


def _pixel_attention(net: Any, x: Any) -> Any:
    return mul(net, x, act(net, pointwise(net, x, channels(x), bias=True), "Sigmoid"))


@block("pixel-attention-pan", "Efficient Image Super-Resolution Using Pixel Attention", seeds=["000:153"], dims=(1, 2), hazards="sigmoid saturation")
def pixel_attention_pan(net: Any, x: Any) -> Any:
    """Self-calibrated cell: a gated branch and a plain branch of half the channels; stresses Sigmoid and Mul fusion and pointwise splits."""
    c = channels(x)
    a, b = (lrelu(net, pointwise(net, x, c // 2)) for _ in range(2))
    a = conv(net, mul(net, conv(net, a, c // 2), act(net, pointwise(net, a, c // 2, bias=True), "Sigmoid")), c // 2)
    return add(net, x, pointwise(net, concat(net, lrelu(net, a), lrelu(net, conv(net, b, c // 2))), c))


@block("pixel-attention-pan/net", "Efficient Image Super-Resolution Using Pixel Attention", seeds=["000:153"])
def pixel_attention_net(net: Any, x: Any) -> Any:
    """Head, cells, nearest enlargement with pixel attention, the bilinear input added."""
    r, y = net.pick((2, 3)), conv(net, x, 8)
    y = add(net, y, conv(net, pixel_attention_pan(net, pixel_attention_pan(net, y)), 8))
    y = lrelu(net, conv(net, lrelu(net, _pixel_attention(net, conv(net, _up(net, y, r), 4))), 4))
    return add(net, conv(net, y, 3), _up(net, pointwise(net, x, 3), r, "linear"))


@block("srcnn", "Image Super-Resolution Using Deep Convolutional Networks", seeds=["002:89"], hazards="9x9 sums")
def srcnn(net: Any, x: Any) -> Any:
    """Three convolutions of sizes 9, 1 to 5 and 5; stresses large kernels and tiny channel counts."""
    y = act(net, conv(net, x, 8, 9, bias=True))
    return conv(net, act(net, conv(net, y, 6, net.pick((1, 3, 5)), bias=True)), net.pick((1, 3)), 5, bias=True)


@block("srcnn/net", "Image Super-Resolution Using Deep Convolutional Networks", seeds=["002:89"], hazards="the cubic coefficient, overshoot and borders")
def srcnn_net(net: Any, x: Any) -> Any:
    """Bicubic enlargement, then the convolutions; stresses cubic Resize with both coefficients."""
    x, r = narrow(net, x, 3), net.pick((2, 3))
    how, outside = net.pick(("half_pixel", "align_corners")), net.pick((0, 1))
    size = net.ints([*x.shape[:2], *[n * r for n in spatial(x)]])
    a = net.pick((-0.75, -0.5))
    y = net("Resize", x, None, None, size, mode="cubic", coordinate_transformation_mode=how, cubic_coeff_a=a, exclude_outside=outside)
    return srcnn(net, y)
