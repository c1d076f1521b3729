"""Gates over channels and positions: what they multiply the features with is computed from the features themselves."""

from __future__ import annotations

from typing import Any

from specs.blocks.layers import act, channels, concat, conv, gap, mul, reduce
from specs.net import block, need


@block("cbam", "CBAM: Convolutional Block Attention Module", seeds=["000:309"], dims=(1, 2, 3), hazards="ties of the maximum, sigmoid saturation")
def cbam(net: Any, x: Any) -> Any:
    """Channel gate from two pools through a shared bottleneck, then a spatial gate; stresses shared weights and channel reductions."""
    c, r, k = channels(x), net.pick((8, 4, 2, 16)), net.pick((7, 3))
    need(c // r >= 1, "cbam: no channel is left in the bottleneck")
    rank = len(x.shape) - 2
    down, up = net.weight(c // r, c, *[1] * rank), net.weight(c, c // r, *[1] * rank)

    def bottleneck(pooled: Any) -> Any:
        return conv(net, act(net, conv(net, pooled, c // r, 1, w=down)), c, 1, w=up)

    x = mul(net, x, act(net, net("Add", bottleneck(gap(net, x)), bottleneck(net("GlobalMaxPool", x))), "Sigmoid"))
    maps = concat(net, reduce(net, "ReduceMean", x, [1]), reduce(net, "ReduceMax", x, [1]))
    return mul(net, x, act(net, conv(net, maps, 1, k), "Sigmoid"))
