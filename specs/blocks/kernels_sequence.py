"""Scans, attention, suppression and routing as single functions, for kernels to stand in for as a whole."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from specs.blocks.kernels_spatial import any_size
from specs.blocks.layers import concat, mul, reduce, reshape, softmax, split, transpose
from specs.blocks.parts import attention, scale, sub, total
from specs.formats import INT64
from specs.net import block


@block(
    "selective-scan/kernel",
    "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
    seeds=["002:61"],
    takes="none",
    dims=(1,),
    hazards="softplus of large steps, decays that underflow, long recurrences",
)
def selective_scan(net: Any) -> Any:
    """h = exp(delta A) h + delta u B, y = C h + D u, unrolled over the tokens; A is negative."""
    batch, length = net.int(1, 2), any_size(net, (8, 17, 1, 9, 24, 33, 2), 40)
    channels = any_size(net, (4, 17, 1, 8, 19, 3), 36)
    states = min(any_size(net, (4, 1, 3, 8), 16), 8192 // (batch * length * channels))  # every token has its own copy of all states
    positive, skipped = net.flag(), net.flag()
    u, b, c = net.input(batch, length, channels), net.input(batch, length, states), net.input(batch, length, states)
    delta = net.input(batch, length, channels)
    if not positive:
        delta = net("Softplus", delta)
    elif net.flag(0.25):
        delta = scale(net, delta, 100.0)
    rates = net("Neg", net("Exp", net.weight(channels, states)))
    skip = net.weight(channels) if skipped else None

    def body(net: Any, u: Any, delta: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        step = net("Softplus", delta) if positive else delta
        decay = net("Exp", mul(net, net("Unsqueeze", step, net.ints([3])), a))
        taken = mul(net, net("Unsqueeze", mul(net, step, u), net.ints([3])), net("Unsqueeze", b, net.ints([2])))
        states = _recurrence(net, decay, taken, length)
        y = net("ReduceSum", mul(net, states, net("Unsqueeze", c, net.ints([2]))), net.ints([3]), keepdims=0)
        return y if d is None else net("Add", y, mul(net, u, d))

    return net.function("SelectiveScan", body, u, delta, rates, b, c, skip, softplus=int(positive))


def _recurrence(net: Any, decay: Any, taken: Any, length: int) -> Any:
    """h_t = decay_t h_(t-1) + taken_t along axis 1, from 0."""
    if length == 1:
        return taken
    decays, inputs = split(net, decay, length), split(net, taken, length)
    h, kept = inputs[0], [inputs[0]]
    for t in range(1, length):
        h = net("Add", mul(net, decays[t], h), inputs[t])
        kept.append(h)
    return concat(net, *kept)


def window(length: int, k: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours (length, k) of every position on an axis, and their index in a table of biases whose middle is the position itself."""
    neighbours, relative = np.zeros((length, k), int), np.zeros((length, k), int)
    for i in range(length):
        residue, at = i % d, i // d
        members = -(-(length - residue) // d)
        start = min(max(at - (k - 1) // 2, 0), members - k)
        neighbours[i] = residue + d * (start + np.arange(k))
        relative[i] = start - at + k - 1 + np.arange(k)
    return neighbours, relative


@block(
    "dilated-neighborhood-attention/kernel",
    "Dilated Neighborhood Attention Transformer",
    seeds=["001:303"],
    takes="none",
    dims=(1, 2),
    hazards="windows pushed inside at borders, residue classes of unequal length, scores far above 0",
)
def neighbourhood_attention(net: Any) -> Any:
    """Attention of every position to its nearest neighbours of the same residue class, with a table of relative biases or without."""
    rank = net.pick((2, 1))
    space = [net.pick((7, 6, 9, 11, 5)) if rank == 2 else any_size(net, (16, 9, 31, 17, 12), 40) for _ in range(rank)]
    k = net.pick([k for k in (3, 5, 1) if k <= min(space)])
    d = net.pick([d for d in (1, 2, 3) if k * d <= min(space)])
    n, heads, size, wide = net.int(1, 2), net.int(1, 2), any_size(net, (4, 8, 5, 1, 7), 24), any_size(net, (4, 3, 8), 20)
    q, key, v = net.input(n, heads, *space, size), net.input(n, heads, *space, size), net.input(n, heads, *space, wide)
    bias = net.weight(heads, *[2 * k - 1] * rank) if net.flag() else None
    if net.flag(0.3):
        q = scale(net, q, 100.0)
    points, seen, by = int(np.prod(space)), k**rank, size**-0.5
    sides = [window(m, k, d) for m in space]

    def flat(which: int, width: list[int]) -> np.ndarray:
        """Row-major index (points * seen) of every neighbour in a map of this width, or in the table of biases."""
        index = np.zeros((points, seen), int)
        for at, place in enumerate(product(*map(range, space))):
            for i, offsets in enumerate(product(range(k), repeat=rank)):
                index[at, i] = np.ravel_multi_index([sides[x][which][place[x], offsets[x]] for x in range(rank)], width)
        return index.reshape(-1)

    def body(net: Any, q: Any, key: Any, v: Any, bias: Any) -> Any:
        index = net.const(flat(0, space), INT64)
        keys, values = (
            reshape(net, net("Gather", reshape(net, t, [n, heads, points, -1]), index, axis=2), [n, heads, points, seen, t.shape[-1]]) for t in (key, v)
        )
        scores = scale(net, net("MatMul", reshape(net, q, [n, heads, points, 1, size]), transpose(net, keys, [0, 1, 2, 4, 3])), by)
        if bias is not None:
            table = net("Gather", reshape(net, bias, [heads, -1]), net.const(flat(1, [2 * k - 1] * rank), INT64), axis=1)
            scores = net("Add", scores, reshape(net, table, [heads, points, 1, seen]))
        return reshape(net, net("MatMul", softmax(net, scores), values), [n, heads, *space, wide])

    return net.function("NeighbourhoodAttention", body, q, key, v, bias, kernel_size=k, dilation=d, scale=by)


@block(
    "flash-attention/kernel",
    "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
    takes="none",
    hazards="scores far from 0 on either side, rows without any key",
)
def long_attention(net: Any) -> Any:
    """Attention over more keys than a tile holds; scores shifted by a mask, which the softmax does not see; some queries without a key.

    Written out before opset 23, and then without a mask: a row without any key is 0 in the operator only.
    """
    batch, shared, heads = net.int(1, 2), net.pick((1, 2, 3)), net.int(1, 2)
    queries, keys = any_size(net, (16, 5, 17, 1, 33), 80), any_size(net, (40, 17, 64, 1, 65, 31, 130), 140)
    size, wide = any_size(net, (4, 8, 5, 16), 24), any_size(net, (4, 8, 5, 17), 40)
    shared = shared if net.opset >= 23 else 1
    q, k, v = net.input(batch, heads * shared, queries, size), net.input(batch, heads, keys, size), net.input(batch, heads, keys, wide)
    if net.flag(0.3):
        q = scale(net, q, 30.0)
    if net.opset < 23:
        return attention(net, q, k, v)
    mask, kind = None, net.pick(("none", "shift", "float", "bool"))
    if kind == "shift":
        mask = net.const(np.full((queries, keys), net.pick((-200.0, 90.0))))
    elif kind == "float":
        mask = net.input(batch, 1, queries, keys)
    elif kind == "bool":
        allowed = net("Greater", net.input(batch, 1, queries, keys), net.const(0.0))
        row = net.const(np.arange(queries).reshape(1, 1, queries, 1) != 0)
        mask = net("And", allowed, net("Cast", row, to=9)) if net.flag() else allowed
    return net("Attention", q, k, v, mask, is_causal=int(net.flag(0.3)))


@block(
    "soft-nms/kernel",
    "Soft-NMS: Improving Object Detection With One Line of Code",
    seeds=["002:243"],
    takes="none",
    hazards="overlaps at the threshold, ties, boxes without area, decays that underflow",
)
def soft_nms(net: Any) -> Any:
    """Boxes in the order in which they are chosen while the scores of those that overlap decay; a decision at an edge leaves all that follows undecided."""
    n, method = any_size(net, (6, 9, 1, 12, 2), 12), net.pick(("linear", "gaussian"))
    sigma, overlap, least = net.pick((0.5, 0.3, 0.7)), net.pick((0.3, 0.5)), net.pick((0.001, 0.01, 0.2))
    corner, sides = net.weight(n, 2, low=0.0, high=net.pick((4.0, 40.0))), net.weight(n, 2, low=0.0, high=8.0)
    if net.flag(0.4):  # some are points
        sides = mul(net, sides, net.const(np.arange(n).reshape(-1, 1) % 3 != 0))
        corner = mul(net, corner, net.const((np.arange(n).reshape(-1, 1) % 3 != 0) + 0.0))
    scores = net.input(n)
    if net.flag(0.3) and n % 2 == 0:  # ties that are exact
        half = net.weight(n // 2, low=0.0, high=1.0)
        scores = concat(net, half, half, axis=0)
    else:
        scores = net("Sigmoid", scores)
    boxes = concat(net, corner, net("Add", corner, sides))

    def body(net: Any, boxes: Any, scores: Any) -> Any:
        decay = _decays(net, boxes, method, sigma, overlap)
        zero, taken = net.const(0.0), net.const([-scores.format.largest / 4])
        chosen = list[Any]()
        for _ in range(n):
            best = net("ArgMax", scores, axis=0, keepdims=1)
            score = net("Gather", scores, best, axis=0)
            chosen.append((best, score))
            scores = mul(net, scores, reshape(net, net("Gather", decay, best, axis=0), [n]))
            scores = net("ScatterElements", scores, best, taken, axis=0)
        order = concat(net, *(b for b, _ in chosen), axis=0) if n > 1 else net("Identity", chosen[0][0])
        kept = concat(net, *(s for _, s in chosen), axis=0) if n > 1 else net("Identity", chosen[0][1])
        dead = net("Less", kept, net.const(least))
        rows = net("Where", net("Unsqueeze", dead, net.ints([1])), zero, net("Gather", boxes, order, axis=0))
        return rows, net("Where", dead, zero, kept), net("Where", dead, net.const([-1], INT64), order)

    return net.function("SoftNms", body, boxes, scores, method=method, sigma=sigma, iou_threshold=overlap, score_threshold=least)


def _decays(net: Any, boxes: Any, method: str, sigma: float, overlap: float) -> Any:
    """Factor (N, N) by which a chosen box leaves the score of another."""
    zero = net.const(0.0)
    x1, y1, x2, y2 = split(net, boxes, 4)
    across = {id(v): transpose(net, v, [1, 0]) for v in (x1, y1, x2, y2)}

    def both(low: Any, high: Any) -> Any:
        return net("Max", sub(net, net("Min", high, across[id(high)]), net("Max", low, across[id(low)])), zero)

    inter = mul(net, both(x1, x2), both(y1, y2))
    area = mul(net, sub(net, x2, x1), sub(net, y2, y1))
    union = sub(net, net("Add", area, transpose(net, area, [1, 0])), inter)
    empty = net("Not", net("Greater", union, zero))
    iou = net("Where", empty, zero, net("Div", inter, net("Where", empty, net.const(1.0), union)))
    if method == "gaussian":
        return net("Exp", net("Div", net("Neg", mul(net, iou, iou)), net.const(sigma)))
    return net("Where", net("Less", iou, net.const(overlap)), net.const(1.0), sub(net, net.const(1.0), iou))


@block(
    "capsule-routing/kernel",
    "Dynamic Routing Between Capsules",
    seeds=["002:405"],
    takes="none",
    hazards="capsules of length 0, logits that grow with every round",
)
def capsule_routing(net: Any) -> Any:
    """Votes of lower capsules for upper ones, and rounds of agreement between them."""
    n, low, high, rounds = net.int(1, 4), any_size(net, (8, 5, 1, 17), 24), any_size(net, (4, 3, 1, 10), 12), net.pick((3, 1, 2))
    size_in, size = any_size(net, (4, 8, 3), 10), any_size(net, (4, 8, 5, 6, 1), 16)
    u, w = net.input(n, low, size_in), net.weight(low, high, size, size_in)
    if net.flag(0.3):  # one sample has nothing to say
        u = mul(net, u, net.const((np.arange(n) != 0).reshape(n, 1, 1)))

    def body(net: Any, u: Any, w: Any) -> Any:
        rows = reshape(net, w, [low, high * size, size_in])
        votes = net("MatMul", net("Unsqueeze", u, net.ints([2])), transpose(net, rows, [0, 2, 1]))
        votes = reshape(net, votes, [n, low, high, size])
        agreements, v = list[Any](), None
        for _ in range(rounds):
            if v is not None:
                agreements.append(net("ReduceSum", mul(net, votes, net("Unsqueeze", v, net.ints([1]))), net.ints([3]), keepdims=1))
                weighted = mul(net, softmax(net, total(net, agreements), axis=2), votes)
            else:
                weighted = scale(net, votes, 1.0 / high)
            s = net("ReduceSum", weighted, net.ints([1]), keepdims=0)
            length = reduce(net, "ReduceL2", s, [2])  # no root of a sum, which would be undecided at 0
            v = mul(net, s, net("Div", length, net("Add", mul(net, length, length), net.const(1.0))))
        return v

    return net.function("CapsuleRouting", body, u, w, iterations=rounds)
