"""One check for every block and every relation: drawn models are valid, three views agree, both sides of a relation agree.

python -m tests.specs.blockcheck cbam --draws 50
python -m tests.specs.blockcheck --relations --draws 50
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import torch

from fuzzer.build import build, network, related
from fuzzer.emit import emit, fill
from fuzzer.grow import Growth, Menu
from fuzzer.network import Network
from fuzzer.search import search
from fuzzer.sources import Seeded
from oracles.compare import compare
from oracles.reference import Expected, reference
from specs.net import Block, Relation, blocks, relations
from specs.program import Program, run
from specs.rule import Misfit, Unsupported
from tests.specs.selfcheck import BAD, _ort

TRIES = 20  # parameter draws until one fits: counted, a block should fit in 95 of 100


def drawn(item: Block | Relation, seed: int, tally: Counter[str]) -> tuple[Network, list[str]] | None:
    """A network of one block (or both sides of a relation) and the names of its results."""
    for attempt in range(TRIES):
        opsets = tuple(o for o in (18, 13, 16, 17, 20, 21, 23) if o >= item.since)
        growth = Growth(Seeded(item.id, seed, attempt), Menu(opsets=opsets), elements=1 << 15)
        try:
            values = build(growth, item) if isinstance(item, Block) else list(related(growth, item))
        except Misfit as e:
            tally["misfit"] += 1
            tally[f"misfit: {str(e)[:60]}"] += 1
            continue
        tally["fit"] += 1
        return network(growth, values), [v.name for v in values]
    return None


def check_block(item: Block | Relation, seed: int, tally: Counter[str]) -> list[str]:
    """What is wrong with one draw."""
    started = time.perf_counter()
    made = drawn(item, seed, tally)
    tally["microseconds"] += int((time.perf_counter() - started) * 1e6)
    if made is None:
        return ["no parameters fit"]
    net, names = made
    tally["nodes"] += len(net.steps)
    proto = emit(net)
    program = Program(proto, torch.float64)
    source = Seeded("contents", item.id, seed)
    found = search(net.leaves, program, source)
    fill(proto, found.contents)
    model = proto.SerializeToString()
    inputs = {v.name: found.contents[v.name] for v in net.inputs}
    problems = list[str]()
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as e:
        return [f"checker: {' '.join(str(e).split())[:200]}"]
    if not found.safe:
        tally["unsafe"] += 1
    expected = reference(Program(model, torch.float64), inputs)
    if isinstance(item, Relation):
        problems += _sides(expected[names[0]], expected[names[1]])
    elif all(max(v.shape, default=1) <= 1 for v in net.outputs):  # type: ignore[type-var]
        tally["trivial"] += 1
    for view, compute in (("torch", lambda: run(model, inputs)), ("onnxruntime", lambda: _ort(model, inputs))):
        try:
            got = compute()
        except Unsupported:
            tally[f"{view} unsupported"] += 1
            continue
        tally[f"{view} ran"] += 1
        for name, want in expected.items():
            verdict = compare(view, "", name, want, got.get(name))
            if verdict.verdict in BAD and verdict.grade != "likely":
                problems.append(
                    f"{view}: {verdict.verdict} {name}{list(verdict.element or ())} got {verdict.got} expected {verdict.expected} bound {verdict.bound}"
                )
        if isinstance(item, Relation) and (trouble := _apart(got, names, expected)):
            problems.append(f"{view}: {trouble}")
    return problems


def _sides(left: object, right: object) -> list[str]:
    """Both sides in float64: equal to 1e-7 of the values' size (constants such as the root of 2 are float32), or the row (or its spec) is wrong."""
    a, b = left.ball.value.double(), right.ball.value.double()  # type: ignore[attr-defined]
    if a.shape != b.shape:
        return [f"relation: shapes {tuple(a.shape)} and {tuple(b.shape)}"]
    size = float(torch.maximum(a.abs(), b.abs()).max()) if a.numel() else 0.0
    far = float((a - b).abs().max()) if a.numel() else 0.0
    return [f"relation: the sides differ by {far:g} where values reach {size:g}"] if not far <= 1e-7 * max(size, 1.0) else []


def _apart(got: dict[str, np.ndarray], names: list[str], expected: Mapping[str, Expected]) -> str:
    """The two sides as one backend computed them, within the sum of their certified bounds."""
    a, b = (got[n].astype(np.float64) for n in names)
    bound = sum(0.0 if expected[n].ball.worst is None else expected[n].ball.worst.numpy() for n in names)  # type: ignore[attr-defined, misc]
    far = np.abs(a - b)
    return "" if bool((far <= bound + 1e-300).all()) else f"the sides differ by {far.max():g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*")
    parser.add_argument("--family", default="")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--relations", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    bad, times = 0, list[float]()
    items: list[Block | Relation] = [*(relations() if arguments.relations else blocks()).values()]
    for item in items:
        owner = item.id if isinstance(item, Block) else item.block
        if (arguments.ids and item.id not in arguments.ids and owner not in arguments.ids) or (
            isinstance(item, Block) and arguments.family not in ("", item.family)
        ):
            continue
        tally, failures = Counter[str](), list[str]()
        for seed in range(arguments.draws):
            try:
                failures += [f"seed {seed}: {p}" for p in check_block(item, seed, tally)]
            except Exception as e:
                failures.append(f"seed {seed}: raised {type(e).__name__}: {' '.join(str(e).split())[:200]}")
        times.append(tally.pop("microseconds") / arguments.draws / 1e3)
        print(f"{'FAIL' if failures else 'ok  '} {item.id}: {times[-1]:.1f} ms  {dict(tally)}")
        for f in failures[:4]:
            print(f"     {f}")
        bad += bool(failures)
    if times:
        print(f"{len(times)} checked, {bad} bad, median {statistics.median(times):.1f} ms a draw")
    return bad


if __name__ == "__main__":
    sys.exit(main())
