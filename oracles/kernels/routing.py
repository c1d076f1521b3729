"""Kernels that iterate over their own results: soft non-maximum suppression, routing between capsules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracles.kernel import kernel


@kernel(
    "soft-nms",
    implements="SoftNms",
    dtypes=("float32",),
    source="soft_nms.cpp",
    symbol="soft_nms",
    threads=1,
    defects={
        "pixel-area": "areas count both border pixels, as in the first detectors",
        "last-of-ties": "of equal scores the last one is chosen",
        "stale-area": "boxes are swapped without their areas",
        "empty-union": "two boxes without area divide 0 by 0",
        "sigma": "the Gaussian has the form of a normal density",
        "vector-tail": "overlaps of a vector's remainder are left out",
    },
)
def soft_nms(node: Any, inputs: Sequence[Any]) -> bool:
    """Soft-NMS: Improving Object Detection With One Line of Code; linear and Gaussian, boxes swapped to the front as they are chosen."""
    return inputs[1].numel() > 0 and list(inputs[0].shape) == [len(inputs[1]), 4]


@kernel(
    "capsule-routing",
    implements="CapsuleRouting",
    dtypes=("float32",),
    source="capsule_routing.cpp",
    symbol="capsule_routing",
    defects={
        "softmax-axis": "couplings are normalised over the capsules below instead of those above",
        "stale-logits": "logits are cleared for the first sample only",
        "squash-zero": "divides by the length of a capsule, which may be 0",
        "rounds": "one round of agreement too few",
        "tail": "the length of a capsule leaves out what is beyond a multiple of 4",
        "shared-votes": "all threads use one buffer of votes",
    },
)
def capsule_routing(node: Any, inputs: Sequence[Any]) -> bool:
    """Dynamic Routing Between Capsules, a sample at a time so that its votes stay in the cache."""
    return all(i.numel() for i in inputs)
