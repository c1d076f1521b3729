"""Every block and every relation, on drawn parameters: valid, of our shapes, and three views of it agree (see blockcheck)."""

from __future__ import annotations

from collections import Counter

import pytest

from fuzzer.listing import block_rows
from specs.net import Block, Relation, blocks, catalogue, relations
from tests.specs.blockcheck import check_block

PART = 12  # a block is a network: it gets one draw for this many of an operator


def _checked(item: Block | Relation, draws: int) -> Counter[str]:
    tally = Counter[str]()
    for seed in range(max(1, draws // PART)):
        assert not (problems := check_block(item, seed, tally)), f"{item.id}, seed {seed}: {problems}"
    return tally


@pytest.mark.parametrize("id", sorted(blocks()))
def test_block(id: str, draws: int) -> None:
    tally = _checked(blocks()[id], draws)
    assert tally["nodes"] > 0 and tally["torch ran"] == tally["fit"]


@pytest.mark.parametrize("id", sorted(relations()))
def test_relation(id: str, draws: int) -> None:
    assert relations()[id].block in blocks()
    _checked(relations()[id], draws)


def test_every_row_of_part_one_is_built_or_says_why() -> None:
    rows = {r["id"]: r for r in block_rows()}
    for row in (r for r in catalogue() if r["part"] == "I"):
        assert row["id"] in blocks() or not rows[row["id"]]["reason"].startswith("not built"), row["id"]
