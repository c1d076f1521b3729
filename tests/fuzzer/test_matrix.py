"""The support matrix: answers are judged, what is saved is read again, the page needs nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzer import matrix, menus
from fuzzer.matrix import Support


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(menus, "FOLDER", tmp_path)
    monkeypatch.setattr(matrix, "FOLDER", tmp_path)
    return tmp_path


def supported(**seen: int) -> Support:
    support = Support()
    for end, n in seen.items():
        support.seen[end] = n
        support.messages[end] = f"why {end}"
    return support


def test_states() -> None:
    assert supported(implemented=3).state == "implemented"
    assert supported(implemented=3, refused=2).state == "implemented"  # some attribute is not implemented
    assert supported(implemented=5, wrong=1).state == "wrong" and supported(implemented=5, wrong=1).message == "why wrong"
    assert supported(failing=1, refused=2).state == "failing"
    assert supported(refused=2).state == "refused"


def test_answers_are_judged() -> None:
    honest = matrix.measure("torch", 6, ["Softmax", "Concat"])
    assert {s.state for s in honest.values()} == {"implemented"}
    assert {k.split(" ")[0] for k in honest} == {"Softmax", "Concat"}
    wide = matrix.measure("reference", 6, ["Softmax"])  # answers in float64 whatever is declared
    assert wide["Softmax T=float"].state == "wrong" and wide["Softmax T=float"].message.startswith("mistyped")


def test_what_is_known_is_not_measured_again(folder: Path) -> None:
    assert matrix.known("torch") == frozenset()
    matrix.save("torch", {"Softmax T=float": supported(implemented=2)})
    assert matrix.known("torch") == {"Softmax T=float"}
    again = matrix.measure("torch", 8, ["Softmax"], known=matrix.known("torch"))
    assert again and "Softmax T=float" not in again


def test_what_is_saved_is_read_again(folder: Path) -> None:
    first = {"Add T=float": supported(implemented=2), "Add T=bfloat16": supported(refused=3), "com.microsoft.Gelu T=float": supported(wrong=1)}
    matrix.save("reference", first)
    matrix.save("reference", {"Add T=bfloat16": supported(implemented=1), "Cast T1=float T2=int8": supported(failing=1)})  # what was not drawn stays
    assert matrix.stored().keys() == {"reference"}
    rows = {(r["domain"], r["op"], *r["types"].values()): r["backends"]["reference"] for r in matrix.rows(["reference"])}
    assert rows == {
        ("", "Add", "float"): "implemented",
        ("", "Add", "bfloat16"): "implemented",
        ("", "Cast", "float", "int8"): "failing",
        ("com.microsoft", "Gelu", "float"): "wrong",
    }
    text = "\n".join(matrix.lines(matrix.rows(["reference"]), ["reference"]))
    assert "Add" in text and "reference 2/2" in text and "(1 wrong)" in text
    page = matrix.html(matrix.rows(["reference"]), matrix.stored())
    assert "com.microsoft.Gelu" in page and 'class="wrong"' in page and "why wrong" in page and "src=" not in page


def test_what_never_ran_is_avoided(folder: Path) -> None:
    menus.avoided.cache_clear()
    matrix.save(
        "reference",
        {"Add T=float": supported(implemented=2), "Sub T=float": supported(refused=1), "Mul T=float": supported(failing=1), "Div T=float": supported(wrong=1)},
    )
    assert menus.avoided("reference") == {"Sub T=float", "Mul T=float"}
    menus.avoided.cache_clear()
