"""`fuzz doctor` says what works, and what to do about what does not."""

from __future__ import annotations

import pytest

from oracles import plugin
from oracles.health import Y, examine


def test_what_works_is_said_to_work() -> None:
    found = {h.name: h for h in examine(["onnxruntime", "null", "liar"])}
    assert all(h.available and h.works and not h.advice and h.start > 0 and h.version for h in found.values()), found
    assert found["onnxruntime"].statuses == dict.fromkeys(("off", "basic", "extended", "all"), "ok")
    assert Y.any() and not Y.all()


def test_what_does_not_work_comes_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.backends()
    plugin.backend("absent", requires=["no_such_compiler"], install="pip install no-such-compiler")(lambda model, setting: dict)
    plugin.backend("toolless", tools=["no-such-c++"], install="apt install it")(lambda model, setting: dict)
    monkeypatch.setattr("oracles.health.HONEST", {"liar": ("element", "crash")})
    try:
        absent, toolless, liar = examine(["absent", "toolless", "liar"])
    finally:
        for name in ("absent", "toolless"):
            plugin._registry.pop(name)
    assert not absent.available and "pip install no-such-compiler" in absent.advice
    assert not toolless.available and "no-such-c++" in toolless.advice and "apt install it" in toolless.advice
    assert liar.available and not liar.works and liar.statuses == {"element": "wrong", "crash": "crash"} and "liar" in liar.advice
