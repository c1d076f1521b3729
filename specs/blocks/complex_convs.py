"""Convolutions of complex maps: a second real part, their batch normalisation and pooling."""

from __future__ import annotations

from typing import Any

from specs.blocks.layers import act, add, channels, classifier, concat, conv, mul, reshape, slice_, spatial
from specs.net import block, relation

COMPLEX = "Complex Network for Complex Problems: A comparative study of CNN and Complex-valued CNN"


def complex_conv(net: Any, a: Any, b: Any, wr: Any, wi: Any, form: str = "4-conv") -> tuple[Any, Any]:
    """(a + ib) * (wr + i wi) as four real convolutions, one of a block weight, or Gauss's three."""
    out, k = wr.shape[0], wr.shape[2:]

    def c(v: Any, w: Any) -> Any:
        return conv(net, v, w.shape[0], k, w=w)

    if form == "4-conv":
        return net("Sub", c(a, wr), c(b, wi)), add(net, c(a, wi), c(b, wr))
    if form == "block-real":
        w = net("Concat", net("Concat", wr, net("Neg", wi), axis=1), net("Concat", wi, wr, axis=1), axis=0)
        both = c(concat(net, a, b), w)
        return slice_(net, both, 0, out, 1), slice_(net, both, out, 2 * out, 1)
    k1, k2, k3 = c(add(net, a, b), wr), c(a, net("Sub", wi, wr)), c(b, net("Add", wr, wi))
    return net("Sub", k1, k3), net("Add", k1, k2)


def modulus(net: Any, a: Any, b: Any) -> Any:
    return net("Sqrt", net("Add", net("Add", mul(net, a, a), mul(net, b, b)), net.const(1e-3)))


def complex_act(net: Any, a: Any, b: Any, kind: str) -> tuple[Any, Any]:
    if kind == "crelu":
        return act(net, a), act(net, b)
    if kind == "zrelu":
        zero = net.const(0.0)
        drop = net("Or", net("Less", a, zero), net("Less", b, zero))
        return net("Where", drop, zero, a), net("Where", drop, zero, b)
    r = modulus(net, a, b)
    if kind == "modrelu":
        scale = net("Div", act(net, net("Add", r, net.weight(channels(a), *[1] * len(spatial(a))))), r)
    else:  # cardioid: half of 1 + cos(angle)
        scale = mul(net, net("Add", net("Div", a, r), net.const(1.0)), net.const(0.5))
    return mul(net, a, scale), mul(net, b, scale)


def complex_bn(net: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Whitening by the inverse root of a 2x2 covariance, in closed form, then a 2x2 scale and a shift; statistics as weights."""
    ones = [channels(a), *[1] * len(spatial(a))]
    a, b = net("Sub", a, net.weight(*ones)), net("Sub", b, net.weight(*ones))
    rr, ii, ri = net.weight(*ones, low=1.0, high=2.0), net.weight(*ones, low=1.0, high=2.0), net.weight(*ones, low=-0.5, high=0.5)
    s = net("Sqrt", net("Sub", mul(net, rr, ii), mul(net, ri, ri)))
    t = net("Sqrt", net("Add", net("Add", rr, ii), net("Add", s, s)))
    inverse = net("Div", net.const(1.0), mul(net, s, t))
    off = net("Neg", mul(net, inverse, ri))
    p, q = mul(net, inverse, net("Add", ii, s)), mul(net, inverse, net("Add", rr, s))
    a, b = add(net, mul(net, a, p), mul(net, b, off)), add(net, mul(net, a, off), mul(net, b, q))
    g, cross, h = (net.weight(*ones) for _ in range(3))
    real = net("Add", add(net, mul(net, a, g), mul(net, b, cross)), net.weight(*ones))
    return real, net("Add", add(net, mul(net, a, cross), mul(net, b, h)), net.weight(*ones))


def complex_weights(net: Any, x: Any, out: int) -> tuple[Any, Any]:
    shape = [out, channels(x), *[3] * len(spatial(x))]
    return net.weight(*shape), net.weight(*shape)


FORMS, ACTS = ("4-conv", "block-real", "gauss-3"), ("crelu", "zrelu", "modrelu", "cardioid")


@block("complex-valued-conv", COMPLEX, seeds=["000:27", "001:187", "003:327"], dims=(1, 2, 3), hazards="moduli near 0, cancellation in Gauss's form")
def complex_valued_conv(net: Any, x: Any) -> Any:
    """A complex convolution and activation on two real tensors; stresses shared weights and a readout by modulus."""
    a, b = complex_conv(net, x, net.input(*x.shape), *complex_weights(net, x, 8), net.pick(FORMS))
    a, b = complex_act(net, a, b, net.pick(ACTS))
    return modulus(net, a, b) if net.flag() else (a, b)


@block("complex-valued-conv/complex-bn", COMPLEX, dims=(1, 2, 3), hazards="a covariance near singular")
def complex_bn_block(net: Any, x: Any) -> Any:
    """Whitening of the two parts of a convolution by the closed form."""
    return complex_bn(net, conv(net, x, 8), conv(net, x, 8))


def largest(net: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Both parts where their modulus is largest."""
    rank = len(spatial(a))
    _, places = net("MaxPool", modulus(net, a, b), kernel_shape=[2] * rank, strides=[2] * rank, outputs=2)
    flat = (reshape(net, v, [-1]) for v in (a, b))
    real, imaginary = (net("Gather", v, places, axis=0) for v in flat)
    return real, imaginary


@block("complex-valued-conv/abs-argmax-pool", COMPLEX, dims=(1, 2, 3), hazards="ties of the modulus")
def abs_argmax_pool(net: Any, x: Any) -> Any:
    """Pooling by modulus: indices of MaxPool gather both parts."""
    return largest(net, x, net.input(*x.shape))


@block("complex-valued-conv/net", COMPLEX)
def complex_net(net: Any, x: Any) -> Any:
    """Two complex stages with whitening and pooling, and a readout by modulus."""
    a, b = x, net.input(*x.shape)
    for out in (6, 8):
        a, b = complex_bn(net, *complex_conv(net, a, b, *complex_weights(net, a, out), "4-conv"))
        a, b = complex_act(net, a, b, "crelu")
    return classifier(net, modulus(net, *largest(net, a, b)))


@relation("complex-valued-conv/block-real", of="complex-valued-conv", dims=(1, 2, 3))
def complex_block_real(net: Any, x: Any) -> Any:
    """Four real convolutions are one of the joined parts with a block weight."""
    b, w = net.input(*x.shape), complex_weights(net, x, 5)
    return concat(net, *complex_conv(net, x, b, *w)), concat(net, *complex_conv(net, x, b, *w, "block-real"))


@relation("complex-valued-conv/gauss", of="complex-valued-conv", dims=(1, 2, 3))
def complex_gauss(net: Any, x: Any) -> Any:
    """Four real convolutions are Gauss's three."""
    b, w = net.input(*x.shape), complex_weights(net, x, 5)
    return concat(net, *complex_conv(net, x, b, *w)), concat(net, *complex_conv(net, x, b, *w, "gauss-3"))


@relation("complex-valued-conv/conjugate", of="complex-valued-conv", dims=(1, 2, 3))
def complex_conjugate(net: Any, x: Any) -> Any:
    """F(conj x, conj W) = conj F(x, W), through an activation of both parts by modulus."""
    b, (wr, wi), form = net.input(*x.shape), complex_weights(net, x, 5), net.pick(FORMS)
    left = complex_act(net, *complex_conv(net, x, net("Neg", b), wr, net("Neg", wi), form), "cardioid")
    right = complex_act(net, *complex_conv(net, x, b, wr, wi, form), "cardioid")
    return concat(net, *left), concat(net, right[0], net("Neg", right[1]))
