"""Prefixes of convolutions evaluated tile by tile with halos, and blocks that a fused kernel evaluates in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from specs.blocks.layers import act, add, channels, concat, conv_bn_act, pointwise, slice_, spatial
from specs.blocks.parts import conv_with, divisors, head, squeeze_excite, total
from specs.net import block, relation


@dataclass(frozen=True)
class Layer:
    """A convolution with its weights, so that it can be evaluated whole and in tiles."""

    w: Any
    b: Any
    s: int = 1
    g: int = 1
    kind: str = ""

    @property
    def k(self) -> int:
        return self.w.shape[2]

    def __call__(self, net: Any, x: Any, pads: list[int] | None = None) -> Any:
        y = conv_with(net, x, self.w, self.b, s=self.s, g=self.g, pads=pads)
        return act(net, y, self.kind) if self.kind else y


def layer(net: Any, c: int, out: int, k: int, rank: int, *, s: int = 1, g: int = 1, kind: str = "") -> Layer:
    return Layer(net.weight(out, c // g, *[k] * rank), net.weight(out), s, g, kind)


def whole(net: Any, x: Any, layers: list[Layer]) -> Any:
    for one in layers:
        x = one(net, x)
    return x


def _ranges(layers: list[Layer], size: int, a: int, b: int) -> list[tuple[int, int, int, int]]:
    """For output rows [a, b): what each layer reads, clipped to the map, and how much of it was outside on either side."""
    sizes = [size]
    for one in layers:
        sizes.append((sizes[-1] - 1) // one.s + 1)
    result = list[tuple[int, int, int, int]]()
    for one, n in zip(reversed(layers), reversed(sizes[:-1]), strict=True):
        p = one.k // 2
        start, end = a * one.s - p, (b - 1) * one.s - p + one.k
        a, b = max(start, 0), min(end, n)
        result.append((a, b, a - start, end - b))
    return result[::-1]


def tiled(net: Any, x: Any, layers: list[Layer], parts: int) -> Any:
    """The same layers on overlapping tiles; zeros are padded again before every layer, at true borders only."""
    rank, out = len(x.shape) - 2, list(spatial(x))
    for one in layers:
        out = [(n - 1) // one.s + 1 for n in out]
    cuts = [sorted({n * i // parts for i in range(parts + 1)}) for n in out]
    done = dict[tuple[int, ...], Any]()
    for at in product(*[range(len(c) - 1) for c in cuts]):
        spans = [_ranges(layers, n, c[i], c[i + 1]) for n, c, i in zip(spatial(x), cuts, at, strict=True)]
        y = net("Slice", x, net.ints([s[0][0] for s in spans]), net.ints([s[0][1] for s in spans]), net.ints(range(2, 2 + rank)))
        for i, one in enumerate(layers):
            y = one(net, y, [s[i][2] for s in spans] + [s[i][3] for s in spans])
        done[at] = y
    return _joined(net, done, [len(c) - 1 for c in cuts], ())


def _joined(net: Any, done: dict[tuple[int, ...], Any], counts: list[int], at: tuple[int, ...]) -> Any:
    """Tiles back in one map, the last dim first."""
    if len(at) == len(counts):
        return done[at]
    rows = [_joined(net, done, counts, (*at, i)) for i in range(counts[len(at)])]
    return rows[0] if len(rows) == 1 else concat(net, *rows, axis=2 + len(at))


def inverted(net: Any, c: int, e: int, k: int, rank: int, *, s: int = 1, out: int = 0) -> list[Layer]:
    """Pointwise expansion, depthwise convolution, pointwise projection."""
    m = e * c
    first, middle = layer(net, c, m, 1, rank, kind="Relu6"), layer(net, m, m, k, rank, s=s, g=m, kind="Relu6")
    return [first, middle, layer(net, m, out or c, 1, rank)]


def _convfirst(net: Any, x: Any, kind: str) -> tuple[Layer, Layer, Layer]:
    c, rank, k, e = channels(x), len(x.shape) - 2, net.pick((3, 5)), net.pick((2, 3))
    width = net.pick(divisors(c, (1, 4, 8)))
    return layer(net, c, c, k, rank, g=c // width), layer(net, c, e * c, 1, rank, kind=kind), layer(net, e * c, c, 1, rank)


@block(
    "convfirst-block-fusion",
    "On the Efficiency of Convolutional Neural Networks",
    seeds=["000:65", "001:351", "003:107"],
    hazards="order of chunked accumulation, padding after an activation",
)
def convfirst_block_fusion(net: Any, x: Any) -> Any:
    """Grouped convolution first, then a pointwise pair, residual; stresses depth-first fusion and grouped kernels. Assumed: norms are folded already."""
    return add(net, x, whole(net, x, list(_convfirst(net, x, net.pick(("Relu", "Silu", "Gelu"))))))


@relation("convfirst-block-fusion/tile-halo", of="convfirst-block-fusion")
def convfirst_tiles(net: Any, x: Any) -> Any:
    """Overlapping tiles with their halos = the whole map."""
    layers = list(_convfirst(net, x, "Relu"))
    return tiled(net, x, layers, 2), whole(net, x, layers)


@relation("convfirst-block-fusion/chunked-mlp", of="convfirst-block-fusion", dims=(1, 2, 3))
def convfirst_chunks(net: Any, x: Any) -> Any:
    """The pointwise pair summed over chunks of its hidden channels."""
    c, rank, parts = channels(x), len(x.shape) - 2, net.pick((2, 4))
    up, down = layer(net, c, 2 * c, 1, rank, kind="Gelu"), layer(net, 2 * c, c, 1, rank)
    size, chunks = 2 * c // parts, list[Any]()
    for i in range(parts):
        rows = slice_(net, up.w, i * size, (i + 1) * size, 0), slice_(net, up.b, i * size, (i + 1) * size, 0)
        hidden = act(net, conv_with(net, x, *rows), "Gelu")
        chunks.append(conv_with(net, hidden, slice_(net, down.w, i * size, (i + 1) * size, 1)))
    shifted = net("Add", total(net, chunks), net("Unsqueeze", down.b, net.ints(range(1, rank + 1))))
    return shifted, whole(net, x, [up, down])


@block("convfirst-block-fusion/mbconv", "On the Efficiency of Convolutional Neural Networks", seeds=["000:65", "001:351", "003:107"], dims=(1, 2, 3))
def mbconv(net: Any, x: Any) -> Any:
    """Expand, depthwise, channel gate, project, residual."""
    layers = inverted(net, channels(x), net.pick((2, 3)), net.pick((3, 5)), len(x.shape) - 2)
    y = whole(net, x, layers[:2])
    y = squeeze_excite(net, y, 4, "Silu") if net.flag(0.7) else y
    return add(net, x, whole(net, y, layers[2:]))


@relation("convfirst-block-fusion/mbconv-halo", of="convfirst-block-fusion", dims=(1, 2))
def mbconv_halo(net: Any, x: Any) -> Any:
    """The expansion computed again on every halo; zeros come after its activation, not before."""
    layers = inverted(net, channels(x), 2, net.pick((3, 5)), len(x.shape) - 2)
    return tiled(net, x, layers, 2), whole(net, x, layers)


@block("convfirst-block-fusion/fusedmbconv", "On the Efficiency of Convolutional Neural Networks", seeds=["000:65", "001:351", "003:107"], dims=(1, 2, 3))
def fusedmbconv(net: Any, x: Any) -> Any:
    """A dense expansion of size 3, then a pointwise projection, residual."""
    c, rank = channels(x), len(x.shape) - 2
    return add(net, x, whole(net, x, [layer(net, c, 2 * c, 3, rank, kind=net.pick(("Silu", "Relu"))), layer(net, 2 * c, c, 1, rank)]))


@block("convfirst-block-fusion/net", "On the Efficiency of Convolutional Neural Networks", seeds=["000:65", "001:351", "003:107"])
def convfirst_net(net: Any, x: Any) -> Any:
    """Strided stem, two blocks of the first kind, an inverted one, global head."""
    y = conv_bn_act(net, x, 16, s=2, pad=1)
    y = convfirst_block_fusion(net, convfirst_block_fusion(net, y))
    return head(net, mbconv(net, y), 10)


def _prefix(net: Any, x: Any) -> list[Layer]:
    """A strided stem and an inverted bottleneck."""
    rank, k = len(x.shape) - 2, net.pick((3, 5))
    stem = layer(net, channels(x), 8, 3, rank, s=net.pick((1, 2)), kind="Relu6")
    return [stem, *inverted(net, 8, 2, k, rank, s=net.pick((1, 2)))]


@block(
    "patch-based-inference",
    "MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning",
    seeds=["000:253"],
    dims=(1, 2),
    hazards="the algorithm chosen for a tile may differ from that for the map",
)
def patch_based_inference(net: Any, x: Any) -> Any:
    """The first layers tile by tile, the rest on the whole map; stresses slices, asymmetric pads and concatenations around convolutions."""
    y = tiled(net, x, _prefix(net, x), net.pick((2, 3)))
    return act(net, pointwise(net, y, 12))


@relation("patch-based-inference/whole", of="patch-based-inference", dims=(1, 2))
def patch_whole(net: Any, x: Any) -> Any:
    """Tiles = the whole image."""
    layers = _prefix(net, x)
    return tiled(net, x, layers, net.pick((2, 3))), whole(net, x, layers)


@block(
    "patch-based-inference/mobile-inverted-bottleneck",
    "MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning",
    seeds=["000:253"],
    dims=(1, 2, 3),
)
def mobile_inverted_bottleneck(net: Any, x: Any) -> Any:
    """Pointwise expansion, depthwise, projection, each but the last under ReLU6, residual when nothing is strided."""
    s = net.pick((1, 2))
    y = whole(net, x, inverted(net, channels(x), net.pick((2, 3)), net.pick((3, 5)), len(x.shape) - 2, s=s))
    return add(net, x, y) if s == 1 else y
