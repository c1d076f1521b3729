"""Networks of drawn blocks: stages, U-shapes, branches and pyramids whose parts are any blocks of the catalogue."""

from __future__ import annotations

from functools import cache
from typing import Any

from specs.blocks.detection_single_shot import decoded
from specs.blocks.layers import add, channels, classifier, concat, pointwise, pool, resize, spatial
from specs.blocks.u_shapes import classes, levels, nearest, smooth, transposed, u_shape
from specs.net import Block, block, blocks

SHAPE = "Networks of drawn blocks"
MIXED = 6  # weight: these are how blocks meet
WIDE = 8  # channels between blocks
TRIES = 3


@cache
def parts(rank: int, opset: int) -> tuple[Block, ...]:
    """What can stand anywhere in a network of so many spatial dims: blocks from maps of any size, no whole networks."""
    known = (b for b in blocks().values() if b.takes == "image" and b.even == 1 and b.weight == 1 and rank in b.dims and b.since <= opset)
    return tuple(b for b in known if b.id.rsplit("/", 1)[-1] not in ("net", "kernel"))


def drawn(net: Any, x: Any) -> Any:
    """A drawn block's first map. One that has none of this rank, such as a loss, stays beside the network, and another is drawn."""
    for _ in range(TRIES):
        made = net.pick(parts(len(x.shape) - 2, net.opset)).build(net, x)
        for v in made if isinstance(made, (list, tuple)) else [made]:
            if len(v.shape) == len(x.shape) and v.format is x.format and 0 not in v.shape and v.shape[0] == x.shape[0]:
                return v
    return x


def stage(net: Any, x: Any, out: int) -> Any:
    """A drawn block, brought to the size it was given and to `out` channels; now and then with a shortcut around it."""
    y = drawn(net, x)
    y = y if spatial(y) == spatial(x) else resize(net, y, spatial(x), net.pick(("nearest", "linear")))
    y = y if channels(y) == out else pointwise(net, y, out)
    return add(net, y, x if channels(x) == out else pointwise(net, x, out)) if net.flag(0.3) else y


@block("composed/stages", SHAPE, dims=(2, 1, 3), hazards="those of its parts", weight=MIXED)
def stages(net: Any, x: Any) -> Any:
    """Drawn blocks with pooling between them, and a classifier; stresses what compilers do where blocks meet."""
    for _ in range(net.int(1, 2)):
        x = stage(net, pointwise(net, x, WIDE), WIDE)
        x = pool(net, x) if min(spatial(x)) > 1 and net.flag() else x
    return classifier(net, x)


@block("composed/u-shape", SHAPE, dims=(2, 1, 3), hazards="those of its parts", weight=MIXED)
def composed_u(net: Any, x: Any) -> Any:
    """A U of one or two levels whose stages are drawn, over odd sizes too; stresses long-lived skips and sizes that are cut or padded."""
    plain = lambda n, v, c: pointwise(n, v, c)
    some = lambda n, v, c: stage(n, v, c) if n.flag(0.6) else plain(n, v, c)
    widths = [WIDE] * (levels(net, x, 2) + 1)
    return classes(net, u_shape(net, pointwise(net, x, WIDE), widths, stage=some, rise=net.pick((transposed, nearest, smooth)))[0], net.pick((1, 3)))


@block("composed/branches", SHAPE, dims=(2, 1, 3), hazards="those of its parts", weight=MIXED)
def branches(net: Any, x: Any) -> Any:
    """Drawn blocks on one map, joined or added; stresses several readers of one value and the order they run in."""
    x = pointwise(net, x, WIDE)
    made = [stage(net, x, WIDE) for _ in range(net.int(2, 3))]
    return concat(net, *made) if net.flag() else net("Sum", *made, x)


@block("composed/pyramid", SHAPE, hazards="those of its parts, exp of sizes", weight=MIXED)
def pyramid(net: Any, x: Any) -> Any:
    """Drawn blocks at two scales, the coarse one added to the fine one, a detection head on both."""
    fine = stage(net, pointwise(net, x, WIDE), WIDE)
    coarse = stage(net, pool(net, fine), WIDE)
    merged = add(net, fine, resize(net, coarse, spatial(fine)))
    return decoded(net, merged, 1, 2, 1.1), decoded(net, coarse, 1, 2, 1.1)
