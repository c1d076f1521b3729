"""Blame: the optimisation whose absence cures, found by turning off."""

from __future__ import annotations

import numpy as np
import pytest

from oracles import blame, plugin, pool
from oracles.backends import tvm
from oracles.health import smoke
from oracles.plugin import Target
from oracles.records import Outcome
from specs.rule import UsageError


def lied(outcome: Outcome) -> bool:
    return outcome.outputs is None or bool(np.abs(outcome.outputs["y"]).max() > 2)


def test_one_of_two_accomplices_is_enough() -> None:
    """The lie needs fusion and reuse: turning off either cures, so one name is the answer."""
    assert blame.blame(smoke(), "liar", "element", lied) in (("fusion",), ("reuse",))
    assert blame.blame(smoke(), "liar", "broken", lied) in (("fusion",), ("reuse",))


def test_a_conspiracy_is_named_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """When any of two does the harm alone, both have to go."""
    tried: list[str] = []

    def run(case: object, targets: list[Target], **limits: object) -> list[Outcome]:
        setting = targets[0].settings[0]
        tried.append(setting)
        bad = {"c", "h"} - set(plugin.split(setting)[1])
        return [Outcome("liar", setting, "ok", {"y": np.array([9.0 if bad else 0.0])})]

    monkeypatch.setattr(blame, "run", run)
    monkeypatch.setattr(blame, "switches", lambda *_: list("abcdefghij"))
    assert set(blame.blame(smoke(), "liar", "element", lied)) == {"c", "h"}
    assert len(tried) < 40


def test_no_switch_is_guilty() -> None:
    assert blame.blame(smoke(), "liar", "nan", lambda o: o.status == "ok" and bool(np.isnan(o.outputs["y"]).any())) == ()  # type: ignore[index]
    assert blame.blame(smoke(), "liar", "ok", lied) == ()
    assert blame.blame(smoke(), "null", "default", lambda o: True) == ()


def test_compilers_say_what_can_be_turned_off() -> None:
    assert blame.switches(smoke(), "onnxruntime", "off") == []
    assert "MatMulAddFusion" in blame.switches(smoke(), "onnxruntime", "all")
    assert "FuseOps" in blame.switches(smoke(), "tvm", "fused")
    off = pool.run(smoke(), "onnxruntime:all~MatMulAddFusion,tvm:fused~FuseOps~FoldConstant", timeout=60)
    assert [o.status for o in off] == ["ok", "ok"], off
    assert "FuseTIR" not in tvm.passes(b"", "fused~FuseOps")


def test_what_does_not_load_is_asked_about_all_the_same() -> None:
    from oracles.backends import onnxruntime

    assert {"ConstantFolding", "MatMulAddFusion", "NchwcTransformer"} <= set(onnxruntime.optimisers(b"not a model", "all"))


def test_only_what_has_switches_can_be_turned_off() -> None:
    with pytest.raises(UsageError, match="nothing that could be turned off"):
        plugin.parse("null:default~fusion")
    with pytest.raises(UsageError, match="no setting 'full'"):
        plugin.parse("tvm:full~FuseOps")
