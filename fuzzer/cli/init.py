"""`fuzz init`: what a project needs for its kernels to be tested."""

from __future__ import annotations

from pathlib import Path

import typer

from fuzzer.cli import app

GITHUB, GITLAB = ".github/workflows/fuzz-gate.yml", ".gitlab/fuzz-gate.yml"


@app.command()
def init(
    folder: Path = typer.Argument(Path(), metavar="[FOLDER]", help="The project; default: the working directory."),
    ci: str = typer.Option("github", "--ci", help="github, gitlab or none."),
    budget: str = typer.Option("10m", "--budget", help="Of the gate in CI."),
    branch: str = typer.Option("main", "--branch", help="On which CI tests every push."),
    force: bool = typer.Option(False, "--force", help="Overwrite files that are there. pyproject.toml is only ever added to."),
) -> None:
    """Write an example kernel, its entry in pyproject.toml, and a CI job that runs the gate.

    Exit status: 0 written or there already, 2 usage.

    Example: `fuzz init --ci gitlab --budget 5m`
    """
    from fuzzer.settings import parse_budget
    from specs.rule import UsageError

    if ci not in ("github", "gitlab", "none"):
        raise UsageError(f"--ci '{ci}': choose github, gitlab or none")
    parse_budget(budget)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; init takes the folder of a project")
    files = {"kernels/leaky_relu.cpp": _text("leaky_relu.cpp"), "kernels/leaky_relu.py": _text("leaky_relu.py.jinja")}
    if ci == "github":
        files[GITHUB] = _text("github.yml.jinja", budget=budget, branch=branch)
    elif ci == "gitlab":
        files[GITLAB] = _text("gitlab.yml.jinja", budget=budget, path=GITLAB)
    try:
        for name, text in files.items():
            typer.echo(_put(folder / name, text, force))
        typer.echo(_entry(folder / "pyproject.toml", "leaky-relu", "kernels/leaky_relu.py"))
    except OSError as e:
        raise UsageError(f"{e.filename or folder}: cannot be written ({e.strerror})") from None
    typer.echo("next: fuzz gate --kernels example-leaky-relu --budget 1m")


def _text(name: str, **values: str) -> str:
    """A file of `fuzzer/starting`, filled in when it is a template."""
    from importlib.resources import files

    text = (files("fuzzer.starting") / name).read_text()
    if not name.endswith(".jinja"):
        return text
    from jinja2 import Environment

    return Environment(keep_trailing_newline=True, autoescape=False).from_string(text).render(**values)


def _put(path: Path, text: str, force: bool) -> str:
    """Write one file and say what became of it."""
    if path.exists() and path.read_text() == text:
        return f"there already  {path}"
    if path.exists() and not force:
        return f"kept           {path} (it is there; --force overwrites it)"
    done = "overwritten" if path.exists() else "written"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return f"{done:14} {path}"


def _entry(path: Path, name: str, target: str) -> str:
    """The table that names the kernels' files; a table that is there is the user's. Raises UsageError for a file that is no TOML."""
    import tomllib

    from specs.rule import UsageError

    line = f'{name} = "{target}"'
    table = f"[tool.fuzz.kernels]\n{line}\n"
    if not path.exists():
        path.write_text(table)
        return f"written        {path}"
    text = path.read_text()
    try:
        known = tomllib.loads(text).get("tool", {}).get("fuzz", {}).get("kernels")
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"{path}: is not valid TOML ({e})") from None
    if known is None:
        path.write_text(f"{text.rstrip()}\n\n{table}")
        return f"added to       {path}"
    return f"there already  {path}" if target in known.values() else f"kept           {path} (it has a [tool.fuzz.kernels]; add {line} to it)"
