"""The same computed in turns: Loop and Scan against their unrolled forms, backwards against mirrored, cells against operators."""

from __future__ import annotations

from typing import Any

from specs.blocks.context_modules_dilated import few_rows, message_pass, message_weight
from specs.blocks.idioms import EXPORT, OFTEN
from specs.blocks.layers import act, add, channels, pointwise, reshape, transpose
from specs.blocks.parts import conv_with, narrow
from specs.blocks.sharing import shared
from specs.blocks.u_shapes import flip
from specs.blocks.unet_2d_sets import refiner
from specs.net import block, relation


def _row_pass(net: Any, x: Any, w: Any, reverse: bool = False) -> Any:
    """The passes of SCNN as a Scan over rows; without a bias the row before the first, of zeros, adds nothing."""
    n, c, _, width = x.shape

    def turn(net: Any, before: Any, row: Any) -> Any:
        step = act(net, conv_with(net, reshape(net, before, [n, c, 1, width]), w, pads=[0, w.shape[3] // 2] * 2))
        row = add(net, row, reshape(net, step, [n, c, width]))
        return row, row

    zeros = reshape(net, net.const([0.0] * (n * c * width)), [n, c, width])
    return net.scan(turn, [zeros], [x], axis=2, reverse=reverse)[1]


@relation("scnn-slice-message-passing/scan", of="scnn-slice-message-passing")
def scnn_scan(net: Any, x: Any) -> Any:
    """Down or up: unrolled, and as a Scan in either direction."""
    x, up = few_rows(net, x), net.flag()
    w = message_weight(net, 4, net.pick((3, 5)), 2)
    return message_pass(net, x, w, 2, up), _row_pass(net, x, w, up)


@relation("scnn-slice-message-passing/scan-backwards", of="scnn-slice-message-passing")
def scnn_backwards(net: Any, x: Any) -> Any:
    """A Scan backwards is a Scan between two mirrors."""
    x = few_rows(net, x, 8)
    w = message_weight(net, 4, 3, 2)
    return _row_pass(net, x, w, reverse=True), flip(net, _row_pass(net, flip(net, x, [2]), w), [2])


@relation("recursive-byte-autoencoder/loop", of="recursive-byte-autoencoder", dims=(1, 2))
def byte_loop(net: Any, x: Any) -> Any:
    """Residual pairs of convolutions with shared weights, repeated: in line, and as a Loop."""
    x, rank = narrow(net, x, 8), len(x.shape) - 2
    c, turns = channels(x), net.pick((2, 1, 3))
    bound = 0.5 / (c * 3**rank) ** 0.5
    w1, w2 = (net.weight(c, c, *[3] * rank, low=-bound, high=bound) for _ in range(2))

    def pair(net: Any, y: Any) -> Any:
        return add(net, y, conv_with(net, act(net, conv_with(net, y, w1)), w2))

    y = x
    for _ in range(turns):
        y = pair(net, y)
    return y, net.loop(pair, turns, x)[0]


@relation("rrwnet/loop", of="rrwnet")
def rrwnet_loop(net: Any, x: Any) -> Any:
    """Maps refined by one network, in line and as a Loop with that network as its body."""
    y, refine, turns = pointwise(net, x, 3, bias=True), shared(net, refiner), net.pick((2, 1))
    z = y
    for _ in range(turns):
        z = refine(z)
    return z, net.loop(lambda net, v: refine(v), turns, y)[0]


def _cell(net: Any, x: Any, hidden: int) -> tuple[Any, Any, Any, Any]:
    """A plain recurrent cell as a Scan over (length, batch, size); its last state, all states, and its weights."""
    _, n, d = x.shape
    w, r, b = net.weight(1, hidden, d), net.weight(1, hidden, hidden), net.weight(1, 2 * hidden)
    w_t, r_t = (transpose(net, reshape(net, v, list(v.shape[1:])), [1, 0]) for v in (w, r))
    bias = net("ReduceSum", reshape(net, b, [2, hidden]), net.ints([0]), keepdims=0)

    def turn(net: Any, h: Any, row: Any) -> Any:
        h = net("Tanh", net("Add", net("Add", net("MatMul", row, w_t), net("MatMul", h, r_t)), bias))
        return h, h

    start = reshape(net, net.const([0.0] * (n * hidden)), [n, hidden])
    last, states = net.scan(turn, [start], [x])
    return last, states, (w, r, b), x


@block("idiom/scan-cell", EXPORT, takes="tokens", weight=OFTEN)
def scan_cell(net: Any, x: Any) -> Any:
    """A recurrent cell written as a Scan; stresses captured weights and state that may be updated in place."""
    return _cell(net, transpose(net, x, [1, 0, 2]), net.pick((4, 6)))[:2]


@relation("idiom/scan-cell-operator", of="idiom/scan-cell", takes="tokens")
def scan_cell_operator(net: Any, x: Any) -> Any:
    """A Scan and the RNN operator."""
    hidden = net.pick((4, 6))
    _, states, (w, r, b), x = _cell(net, transpose(net, x, [1, 0, 2]), hidden)
    y = net("RNN", x, w, r, b, hidden_size=hidden)
    return states, reshape(net, y, list(states.shape))
