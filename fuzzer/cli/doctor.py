"""`fuzz doctor`: what is installed, what works, and how to install what is missing."""

from __future__ import annotations

import json
from importlib import metadata
from typing import TYPE_CHECKING, Any

import typer

from fuzzer.cli import Exit, app

if TYPE_CHECKING:
    from oracles.health import Health

#: Distributions whose versions decide what a run finds.
LIBRARIES = ("onnx-assay", "onnx", "onnx-ir", "numpy", "ml-dtypes", "torch", "z3-solver", "hypothesis", "networkx")
#: Flags of the processor that change which kernels a compiler chooses; results differ with them.
FLAGS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "neon",
    "asimd",
    "sve",
    "bf16",
    "i8mm",
)
COMPILERS = ("g++", "clang++", "c++")


@app.command()
def doctor(
    names: list[str] = typer.Argument(None, metavar="[BACKEND...]", help="Backends to look at; default: all."),
    timeout: str = typer.Option("120s", "--timeout", help="Per backend and setting."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Say what is installed, run a small model on every backend, and say how to install what is missing.

    Exit status: 0 at least one compiler works, 5 none does.

    Example: `fuzz doctor onnxruntime tvm`
    """
    from fuzzer.cli.progress import bar
    from fuzzer.settings import parse_seconds
    from oracles.health import examine
    from oracles.plugin import backends, find

    seconds, chosen = parse_seconds(timeout), [find(n).name for n in names or backends()]
    machine = _machine()
    if not as_json:
        typer.echo(_machine_text(machine))
    found: list[Health] = []
    with bar("looking at") as step:
        for name in chosen:
            step(name)
            for health in examine([name], seconds):
                found.append(health)
                if not as_json:
                    typer.echo(_backend_text(health))
    works = [h.name for h in found if h.works and find(h.name).under_test]
    if as_json:
        typer.echo(json.dumps({**machine, "backends": [{**vars(h), "under_test": find(h.name).under_test} for h in found], "ready": bool(works)}))
    else:
        typer.echo(f"\n{_summary(works, found)}")
    raise typer.Exit(Exit.NOTHING_NEW if works else Exit.NOTHING_TESTED)


def _machine() -> dict[str, Any]:
    import platform
    import shutil

    import psutil

    from corpus.store import cpu

    about, versions = cpu(), dict[str, str | None]()
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    flags = [f for f in FLAGS if f in about.get("flags", ())]
    processor = {"name": about["name"], "count": about["count"], "flags": flags, "memory": psutil.virtual_memory().total}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor,
        "compiler": next(filter(shutil.which, COMPILERS), None),
        "libraries": versions,
    }


def _machine_text(machine: dict[str, Any]) -> str:
    cpu = machine["cpu"]
    lines = [
        f"python       {machine['python']} on {machine['platform']}",
        f"processor    {cpu['name']}, {cpu['count']} cores, {cpu['memory'] / 2**30:.1f} GB, {' '.join(cpu['flags']) or 'no vector flags known'}",
        f"compiler     {machine['compiler'] or 'no C++ compiler: inductor needs one, for example `apt install g++`'}",
        "libraries    " + ", ".join(f"{n} {v or 'NOT INSTALLED'}" for n, v in machine["libraries"].items()),
        "",
    ]
    return "\n".join(lines)


def _backend_text(health: Health) -> str:
    state = "works" if health.works else "BROKEN" if health.available else "missing"
    settings = " ".join(f"{s}{'' if status == 'ok' else f':{status}'}" for s, status in health.statuses.items())
    text = f"{health.name:12} {state:8} {health.version or '-':14} {f'ready in {health.start:.1f} s' if health.available else '':16} {settings}".rstrip()
    return f"{text}\n{'':12} {' '.join(health.advice.split())[:300]}" if health.advice else text


def _summary(works: list[str], found: list[Health]) -> str:
    if works:
        return f"ready to test {', '.join(works)}: `fuzz run --budget 2m`"
    return f"nothing to test: none of {', '.join(h.name for h in found)} is a compiler that works here; `pip install onnx-assay[ort,tvm]` brings two"
