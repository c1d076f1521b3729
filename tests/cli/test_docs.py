"""What README and CONTRIBUTING promise is true: commands, code and the plugin in ten lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from fuzzer.cli import COMMANDS
from oracles.kernel import Form
from oracles.records import VerdictName
from tests.cli.test_check import FINE, save
from tests.command import ROOT, environment, fuzz

README, CONTRIBUTING = (ROOT / "README.md").read_text(), (ROOT / "CONTRIBUTING.md").read_text()


def snippets(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_readme_names_every_command_and_every_verdict() -> None:
    missing = [c for c in COMMANDS if f"`fuzz {c}`" not in README] + [v for v in get_args(VerdictName) if f"`{v}`" not in README]
    assert not missing, f"README.md says nothing of {missing}"
    assert README.index("make fuzz") < README.index("make test") < 900


def test_options_in_the_readme_exist(tmp_path: Path) -> None:
    """Every `fuzz ...` example is made of options that its command has."""
    examples = re.findall(r"`fuzz ([a-z]+) ([^`]*)`", README)
    assert len(examples) > 8
    for command in {c for c, _ in examples} & set(COMMANDS):
        text = fuzz(command, "--help", cwd=tmp_path).stdout
        for _, arguments in (e for e in examples if e[0] == command):
            for option in re.findall(r"(--[a-z-]+)", arguments):
                assert option in text, f"fuzz {command} has no {option}"


def test_the_python_example_runs(tmp_path: Path) -> None:
    (code,) = snippets(README, "python")
    code += "\nimport oracles\ndef my_compiler(model):\n    return lambda inputs: specs.run(model, inputs)\n"
    code += "test_my_compiler()\nprint(len(outcomes), {v.verdict for v in verdicts} <= {'ok', 'noise', 'mistyped'})\n"
    (tmp_path / "example.py").write_text(code)
    quiet = {**environment(), "CI": "1"}  # Hypothesis then does not take a busy machine for a slow strategy
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=quiet, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "True"]


def test_the_operator_shown_is_the_one_in_the_repository() -> None:
    operator = snippets(CONTRIBUTING, "python")[0]
    source = (ROOT / "specs" / "ops" / "joining.py").read_text()
    for part in operator.split("\n\n\n"):
        assert part.strip() in source, "CONTRIBUTING.md shows code that the repository no longer has"
    for path in re.findall(r"`((?:specs|tests|fuzzer|oracles|triage)/[\w/]+\.(?:py|json))`", CONTRIBUTING):
        assert (ROOT / path).exists(), path


RELU = "fine (float[11] x) => (float[11] y) { y = Relu(x) }"
ACME = """
import onnx
import onnx.reference


class _Program:
    def __init__(self, model):
        self._evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(model))
        self.output_names = self._evaluator.output_names

    def run(self, inputs):
        return self._evaluator.run(None, dict(inputs))


def compile(model, level):
    if level == 2:
        raise RuntimeError("acme: internal error in the fusion pass")
    return _Program(model)
"""


@pytest.mark.slow
def test_the_backend_shown_works_as_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed like any distribution: a package and its entry point."""
    backend, entry = snippets(CONTRIBUTING, "python")[1], snippets(CONTRIBUTING, "toml")[0]
    site = tmp_path / "site"
    (site / "acme").mkdir(parents=True)
    (site / "acme" / "__init__.py").write_text(ACME)
    (site / "acme" / "fuzz.py").write_text(backend)
    group, line = re.search(r'entry-points\."(.+)"\]\n(.+)', entry).groups()  # type: ignore[union-attr]
    info = site / "acme-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")
    monkeypatch.setitem(environment.__globals__["ENVIRONMENT"], "PYTHONPATH", f"{ROOT}:{site}")
    listed = {r["name"]: r for r in json.loads(fuzz("backends", "--json", cwd=tmp_path).stdout)}
    assert listed["acme"]["version"] == "1.5" and listed["acme"]["settings"] == ["O0", "O2"] and listed["acme"]["available"]
    save(tmp_path / "fine.onnx", FINE)
    done = fuzz("check", "fine.onnx", "--backends", "acme", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [(v["setting"], v["verdict"]) for v in json.loads(done.stdout)["verdicts"]] == [("O0", "ok"), ("O2", "broken")]


@pytest.mark.slow
def test_the_kernel_shown_works(tmp_path: Path) -> None:
    """In a project with the three files as printed."""
    (tmp_path / "wide_relu.py").write_text(snippets(CONTRIBUTING, "python")[2])
    (tmp_path / "wide_relu.cpp").write_text(snippets(CONTRIBUTING, "cpp")[0])
    (tmp_path / "pyproject.toml").write_text(snippets(CONTRIBUTING, "toml")[1])
    save(tmp_path / "fine.onnx", RELU)
    listed = {r["name"]: r for r in json.loads(fuzz("backends", "kernels", "--json", cwd=tmp_path).stdout)}
    assert listed["wide-relu"]["title"] == "max(x, 0), eight at a time." and not listed["wide-relu"]["problem"]
    done = fuzz("check", "fine.onnx", "--backends", "kernels:off+wide-relu+wide-relu!tail", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {v["setting"]: (v["verdict"], v["message"]) for v in json.loads(done.stdout)["verdicts"]}
    assert found["off"][0] == found["wide-relu"][0] == "ok"
    assert found["wide-relu!tail"] == ("broken", "KernelFault: kernel wide-relu at Relu: did not write 3 of the 11 elements of output 0, the first at [8]")


def test_the_kernels_shown_are_those_of_the_examples() -> None:
    """One of every form, and each of them is run by tests/oracles/test_kernels.py."""
    folder = ROOT / "examples" / "kernels"
    text = (folder / "README.md").read_text()
    shown = re.findall(r"`([\w.]+)`:\n\n```(?:python|cpp)\n(.*?)```", text, flags=re.DOTALL)
    for name, code in shown:
        assert code.rstrip() in (folder / name).read_text(), f"{name} is another one by now"
    assert set(re.findall(r"^## .*`([\w-]+)`$", text, flags=re.MULTILINE)) == set(get_args(Form))
    assert {name for name, _ in shown} >= {p.name for p in folder.glob("*.py")}
