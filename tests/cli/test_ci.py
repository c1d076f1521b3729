"""The jobs that are shipped for CI do what they say: their YAML is read and every shell line in them is run, in a project made by `fuzz init`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.command import CODE, ROOT, environment, fuzz

yaml = pytest.importorskip("yaml")

BUDGET = "12cases"
CI = ROOT / "examples" / "ci"
SHIPPED = [ROOT / "action.yml", CI / "github.yml", CI / "gitlab.yml"]
BROKEN = ("alpha * x[i]", "alpha * 1.01f * x[i]")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two commits; the second one breaks the kernel of the first."""
    if shutil.which("git") is None or not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("needs git and a C++ compiler")
    folder = tmp_path_factory.mktemp("project")
    for service in ("github", "gitlab"):
        assert fuzz("init", "--ci", service, "--budget", BUDGET, cwd=folder).returncode == 0
    (folder / ".gitignore").write_text("fuzz-gate\nbin\n")
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    source = folder / "kernels" / "leaky_relu.cpp"
    assert BROKEN[0] in source.read_text()
    source.write_text(source.read_text().replace(*BROKEN))
    commit(folder)
    bin_ = folder / "bin"
    bin_.mkdir()
    stand_ins = {
        "pip": "exit 0",
        "python": f'[ "$1 $2" = "-m pip" ] || exec {sys.executable} "$@"',
        "fuzz": f'exec {sys.executable} -c "{CODE}" "$@"',
    }
    for name, text in stand_ins.items():
        (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin_ / name).chmod(0o755)
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.email=a@example.org", "-c", "user.name=a")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a state")


def shell(folder: Path, text: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """As both services run a step."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
    whole = {**environment(), **env}
    whole["PATH"] = f"{folder / 'bin'}:{whole['PATH']}"
    return subprocess.run(command, cwd=folder, env=whole, capture_output=True, text=True, timeout=300, check=False)


def filled(text: str, context: Mapping[str, str]) -> str:
    """Expressions of GitHub: the first of some names that is there and not empty."""

    def value(match: re.Match[str]) -> str:
        return next((context[n] for n in map(str.strip, match[1].split("||")) if context.get(n)), "")

    return re.sub(r"\$\{\{(.*?)\}\}", value, text)


def steps(folder: Path, listed: list[dict[str, Any]], context: Mapping[str, str]) -> Iterator[tuple[str, subprocess.CompletedProcess[str]]]:
    """Runs every step that is a shell line, as the job would, and says how it ended."""
    for step in listed:
        if "run" in step:
            env = {k: filled(str(v), context) for k, v in step.get("env", {}).items()}
            output = folder / "fuzz-gate-output.txt"
            output.write_text("")
            yield step.get("name", step["run"]), shell(folder, filled(step["run"], context), {**env, "GITHUB_OUTPUT": str(output)})
        else:
            assert re.fullmatch(r"[\w./-]+@v\d+|\./", step["uses"]), f"{step['uses']}: without a version"


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder / "fuzz-gate", ignore_errors=True)
    return folder / "fuzz-gate"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_what_is_shipped_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_examples_agree_with_the_action_and_with_what_init_writes(tmp_path: Path) -> None:
    action, github = yaml.safe_load((ROOT / "action.yml").read_text()), yaml.safe_load((CI / "github.yml").read_text())
    (used,) = (s for s in github["jobs"]["gate"]["steps"] if s["uses"].startswith("./"))
    assert set(used["with"]) <= set(action["inputs"]) and all("description" in i for i in action["inputs"].values())
    assert set(re.findall(r"steps\.gate\.outputs\.(\w+)", (CI / "github.yml").read_text())) <= set(action["outputs"])
    assert set(re.findall(r"inputs\.(\w+)", (ROOT / "action.yml").read_text())) <= set(action["inputs"])
    assert fuzz("init", "--ci", "gitlab", cwd=tmp_path).returncode == 0
    assert (tmp_path / ".gitlab" / "fuzz-gate.yml").read_text() == (CI / "gitlab.yml").read_text()


@pytest.mark.slow
def test_the_workflow_that_init_writes(project: Path) -> None:
    """On a pull request it fails for what the change broke, and what it uploads is there; on a push all own kernels are tested."""
    workflow = yaml.safe_load((project / ".github" / "workflows" / "fuzz-gate.yml").read_text())
    (job,) = workflow["jobs"].values()
    out = fresh(project)
    ends = dict(steps(project, job["steps"], {"github.event.pull_request.base.sha": git(project, "rev-parse", "HEAD^")}))
    done = ends.pop("Gate")
    assert done.returncode == 1 and "NEW wrong-" in done.stdout, done.stdout + done.stderr
    assert all(d.returncode == 0 for d in ends.values())
    wanted = [p for s in job["steps"] for p in str(s.get("with", {}).get("path", "")).split()]
    wanted += [s["with"]["sarif_file"] for s in job["steps"] if "upload-sarif" in s.get("uses", "")]
    assert wanted and all((project / p).exists() for p in wanted), wanted
    (result,) = json.loads((out / "report" / "report.sarif").read_text())["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "kernels/leaky_relu.cpp"
    fresh(project)
    done = dict(steps(project, job["steps"], {}))["Gate"]
    assert done.returncode == 1 and done.stdout.startswith("gate: 1 kernel;"), done.stdout + done.stderr


@pytest.mark.slow
def test_the_composite_action(project: Path) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert action["runs"]["using"] == "composite" and all(s["shell"] == "bash" for s in action["runs"]["steps"] if "run" in s)
    inputs = {f"inputs.{k}": str(i.get("default", "")) for k, i in action["inputs"].items()} | {"inputs.budget": BUDGET}
    base = git(project, "rev-parse", "HEAD^")
    out = fresh(project)
    ends = dict(steps(project, action["runs"]["steps"], {**inputs, "github.event.pull_request.base.sha": base}))
    assert ends["Install"].returncode == 0 and ends["Gate"].returncode == 1, ends["Gate"].stdout + ends["Gate"].stderr
    assert (project / "fuzz-gate-output.txt").read_text() == "status=1\n"
    assert {p.name for p in (out / "report").iterdir()} >= {"junit.xml", "report.sarif", "report.md", "report.json"} and list((out / "findings").iterdir())
    assert list((out / "corpus").rglob("model.onnx")), "nothing for the cache to keep"
    head = {"github.event.before": git(project, "rev-parse", "HEAD")}
    done = dict(steps(project, action["runs"]["steps"], {**inputs, **head}))["Gate"]
    assert done.returncode == 0 and "nothing to test" in done.stdout
    fresh(project)
    first = {"github.event.before": "0" * 40, "inputs.kernels": "example-leaky-relu", "inputs.args": "--stop-on-first"}
    done = dict(steps(project, action["runs"]["steps"], {**inputs, **first}))["Gate"]
    assert done.returncode == 1, "the first push of a branch has nothing before it: everything counts"


@pytest.mark.slow
def test_the_job_for_gitlab(project: Path) -> None:
    (job,) = yaml.safe_load((project / ".gitlab" / "fuzz-gate.yml").read_text()).values()
    out = fresh(project)
    assert all(shell(project, line, {}).returncode == 0 for line in job["before_script"])
    (line,) = job["script"]
    done = shell(project, line, {"CI_MERGE_REQUEST_DIFF_BASE_SHA": git(project, "rev-parse", "HEAD^")})
    assert done.returncode == 1 and "NEW wrong-" in done.stdout, done.stdout + done.stderr
    assert all((project / p).exists() for p in [*job["artifacts"]["paths"], *job["artifacts"]["reports"].values(), *job["cache"]["paths"]])
    assert out.exists()
