"""The gate: what is selected, what is drawn, what counts as new, and that a green means something."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from fuzzer.gating import changes
from fuzzer.gating.aim import Aim, applies
from fuzzer.gating.asking import alike, general
from fuzzer.gating.tested import Tested, at_most
from oracles.kernel import kernels
from oracles.records import Outcome, Verdict
from tests.command import fuzz

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
CASES = "24cases"


# the parts --------------------------------------------------------------------------------------------------------------
def test_the_upper_bound_is_that_of_clopper_and_pearson() -> None:
    assert at_most(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300), rel=1e-6)
    assert at_most(0, 300) == pytest.approx(3 / 300, rel=0.02), "the rule of three"
    assert at_most(5, 100) == pytest.approx(0.10225, abs=2e-4)
    assert at_most(3, 3) == 1.0


def test_cases_are_those_of_the_seed_and_the_kernel_applies_to_each() -> None:
    relu = kernels()["relu"]
    first, second, other = (Aim(relu, seed) for seed in (1, 1, 2))
    ours = [first.next() for _ in range(6)]
    assert all(a is not None and applies(relu, a.case) for a in ours)
    assert [a.case.id for a in ours if a] == [a.case.id for _ in range(6) if (a := second.next())]
    assert {a.case.id for a in ours if a}.isdisjoint({a.case.id for _ in range(6) if (a := other.next())})
    assert first.applied == 6 <= first.drawn and sum(first.misses.values()) == first.drawn - first.applied


@pytest.mark.parametrize("name", [k.name for k in kernels().values() if k.shipped])
def test_every_shipped_kernel_can_be_aimed_at(name: str) -> None:
    aim = Aim(kernels()[name], 7)
    assert aim.ways, "no operator and no block contains it"
    assert all(aim.next() is not None for _ in range(2))


def test_a_kernel_is_made_of_its_declaration_its_source_and_what_that_includes() -> None:
    relu = kernels()["relu"]
    assert {f.name for f in changes.files(relu)} == {"relu.py", "relu.cpp", "kernel.h"}
    header = next(f for f in changes.files(relu) if f.suffix == ".h")
    assert set(changes.touched(kernels(), [header])) >= {"relu", "two-pass-softmax"}
    assert set(changes.touched(kernels(), [header.parent / "relu.cpp"])) == {"relu"}
    assert changes.touched(kernels(), [Path("README.md")]) == {}


def test_what_was_met_is_counted() -> None:
    tested = Tested(kernels()["relu"], drawn=9)
    assert "in none of 9 networks" in tested.nothing
    where = {"kernel": "relu", "op": "Relu", "node": "n", "dtypes": ["float"], "attrs": {}}
    for n in (3, 19, 3):
        told = json.dumps([{**where, "shapes": [[2, n]]}])
        tested.note(Outcome("kernels", "relu", "ok", {}, message=told), [Verdict("kernels", "relu", "ok")])
    assert (tested.cases, len(tested.shapes), tested.remainders, tested.dtypes["float"]) == (3, 2, {3}, 3)
    assert "zeros or its input or" in tested.nothing, "no tooth was tried"
    tested.teeth = {t: [1, 3] for t in tested.teeth}
    assert not tested.nothing and tested.bound == pytest.approx(1 - 0.05 ** (1 / 3))


def test_failures_are_compared_by_what_a_reader_sees() -> None:
    wrong, nan, crash = (Verdict("kernels", "relu", v) for v in ("wrong", "nonfinite", "crash"))
    assert alike(nan, wrong) and alike(crash, crash)
    assert not alike(crash, wrong) and not alike(Verdict("kernels", "relu", "ok"), wrong)
    assert general("kernel k at Relu_0123abcd: did not write 2 of the 40 elements, the first at [3, 5]") == general(
        "kernel k at Relu_ffffffff: did not write 1 of the 1 elements, the first at []"
    )


# the whole --------------------------------------------------------------------------------------------------------------
def project(folder: Path, **python: str) -> Path:
    """A repository with the kernel that `fuzz init` writes, and one commit; `python`: further kernels as modules."""
    assert fuzz("init", "--ci", "none", cwd=folder).returncode == 0
    for name, text in python.items():
        (folder / "kernels" / f"{name}.py").write_text(text)
        with (folder / "pyproject.toml").open("a") as f:
            f.write(f'{name} = "kernels/{name}.py"\n')
    (folder / ".gitignore").write_text("out\n")
    for command in (["init", "-q", "-b", "main"], ["config", "user.email", "a@example.org"], ["config", "user.name", "a"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "a state"], cwd=folder, check=True)


def broken(folder: Path, old: str, new: str) -> None:
    source = folder / "kernels" / "leaky_relu.cpp"
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new))


def gated(folder: Path, *arguments: str, budget: str = CASES) -> tuple[int, dict[str, Any]]:
    done = fuzz("gate", *arguments, "--budget", budget, "--out", "out", "--json", cwd=folder)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


HALF, SLOPE = ("end = n;", "end = n - n % 8;"), ("alpha * x[i]", "alpha * 1.01f * x[i]")


@needs_compiler
@pytest.mark.slow
def test_a_change_is_compared_with_what_was_there_before(tmp_path: Path) -> None:
    """Nothing, then something new, then the same as something old, then something new beside something old."""
    folder = project(tmp_path)
    status, about = gated(folder, "--base", "HEAD")
    assert (status, about["verdict"]) == (0, "nothing to test: no kernel's files changed since HEAD")
    broken(folder, *SLOPE)
    status, about = gated(folder, "--base", "HEAD", "--report", "junit,sarif,md")
    (found,) = about["findings"]
    assert status == about["status"] == 1
    assert (found["state"], found["kernel"], found["verdict"], found["reproduced"]) == ("new", "example-leaky-relu", "wrong", 3)
    assert found["source"] == "kernels/leaky_relu.cpp:4"
    _reports(folder, found["name"])
    again = fuzz("replay", f"out/findings/{found['name']}", cwd=folder)
    assert again.returncode == 1 and again.stdout.startswith("STILL")
    commit(folder)
    broken(folder, "/* planted", "/* it is planted")
    status, about = gated(folder, "--base", "HEAD")
    assert (status, [f["state"] for f in about["findings"]]) == (0, ["old"])
    assert about["kernels"][0]["replayed"] > 0, "the finding before is a known one now, and is run again"
    status, about = gated(folder, "--base", "HEAD", "--strict")
    assert status == 1
    broken(folder, *HALF)
    status, about = gated(folder, "--base", "HEAD")
    assert status == 1 and {f["state"] for f in about["findings"]} >= {"new"}
    assert any("did not write" in f["claim"] for f in about["findings"] if f["state"] == "new")


def _reports(folder: Path, name: str) -> None:
    report = folder / "out" / "report"
    case = ET.parse(report / "junit.xml").getroot().find("testcase")
    assert case is not None and case.get("name") == "example-leaky-relu" and case.find("failure") is not None
    (result,) = json.loads((report / "report.sarif").read_text())["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "kernels/leaky_relu.cpp" and place["region"]["startLine"] == 4
    assert (result["baselineState"], result["level"]) == ("new", "error")
    assert "FAILED: 1 cause" in (report / "report.md").read_text()
    assert (folder / "out" / "findings" / name / "repro.py").exists()


BLUNT = '''
from oracles.kernel import kernel


@kernel("blunt", implements="Identity", dtypes=("float32",), form="python")
def blunt(node, x):
    """A result equal to the input: nobody could tell it from one that does nothing."""
    return x.clone()


@kernel("nowhere", implements="Relu", form="python", where=lambda node, inputs: inputs[0].ndim == 77)
def nowhere(node, x):
    """Applies to nothing."""
    return x.relu()
'''


def test_a_gate_that_tested_nothing_does_not_pass(tmp_path: Path) -> None:
    folder = project(tmp_path, blunt=BLUNT)
    status, about = gated(folder, "--kernels", "blunt,nowhere", "--seed", "1")
    told = {k["kernel"]: k["tested_nothing"] for k in about["kernels"]}
    assert status == 5 and about["verdict"].startswith("TESTED NOTHING of blunt, nowhere")
    assert "would not notice a kernel that gives its input" in told["blunt"] and "was it at work" in told["nowhere"]


@needs_compiler
def test_the_same_commit_gets_the_same_cases(tmp_path: Path) -> None:
    folder = project(tmp_path)
    runs = list[Any]()
    for _ in range(2):
        status, about = gated(folder, "--kernels", "example-leaky-relu", budget="12cases")
        assert status == 0, about
        shutil.rmtree(folder / "out")
        runs.append([about["seed"], about["kernels"]])
    assert runs[0] == runs[1]


@needs_compiler
@pytest.mark.slow
def test_slower_than_base_is_noticed_and_as_fast_is_not(tmp_path: Path) -> None:
    folder = project(tmp_path)
    broken(folder, "/* planted", "/* it is planted")
    status, about = gated(folder, "--base", "HEAD", "--perf", "20", budget="8cases")
    (pace,) = about["pace"]
    assert status == 0 and pace["low"] <= 1.2 and not pace["problem"], pace
    broken(
        folder, "    return 0;", "    for (int k = 0; k < 3; k++)\n        for (int64_t i = 0; i < end; i++) ((volatile float *)y)[i] = y[i];\n    return 0;"
    )
    status, about = gated(folder, "--base", "HEAD", "--perf", "20", budget="8cases")
    assert status == 1 and about["pace"][0]["low"] > 1.2 and not about["findings"]


@needs_compiler
def test_a_planted_defect_is_found(tmp_path: Path) -> None:
    status, about = gated(tmp_path, "--kernels", "relu!tail", "--seed", "3", "--stop-on-first", budget="300cases")
    assert status == 1 and about["findings"][0]["state"] == "new"
