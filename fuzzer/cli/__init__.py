"""The command line. Every command is one file; heavy imports happen inside the commands, so that `fuzz --help` is quick."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from pathlib import Path

import typer

app = typer.Typer(
    name="fuzz",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Fuzz deep-learning compilers through ONNX, and be believed.\n\nStart with `fuzz doctor`, then `fuzz run --budget 2m`.",
)
COMMANDS = (
    "run",
    "check",
    "gate",
    "generate",
    "init",
    "reduce",
    "replay",
    "report",
    "show",
    "triage",
    "specs",
    "blocks",
    "backends",
    "corpus",
    "coverage",
    "doctor",
    "bench",
)


class Exit:
    """Exit statuses, as documented."""

    NOTHING_NEW, FINDING, USAGE, OUR_BUG, NOTHING_TESTED, INTERRUPTED = 0, 1, 2, 3, 5, 130


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"fuzz {version('onnx-assay')}")
        except PackageNotFoundError:
            typer.echo("fuzz (not installed)")
        raise typer.Exit


@app.callback()
def options(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit.")) -> None:
    pass


def main() -> None:
    """The entry point: runs a command and turns every way it can end into the documented exit status."""
    for name in COMMANDS:
        importlib.import_module(f"fuzzer.cli.{name}")
    sys.exit(_status())


def _status() -> int:
    try:
        app()
    except SystemExit as e:  # how typer ends: commands by typer.Exit, wrong usage with 2
        return e.code if isinstance(e.code, int) else Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # `fuzz specs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as e:
        return _failed(e)
    return 0


def _failed(error: Exception) -> int:
    from corpus.lock import StoreError
    from specs.rule import UsageError

    if isinstance(error, (UsageError, StoreError)):
        typer.echo(f"fuzz: {error}", err=True)
        return Exit.USAGE
    bundle = Path(tempfile.gettempdir()) / f"fuzz-bug-{os.getpid()}.txt"
    bundle.write_text(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    typer.echo(f"fuzz: this is a bug in fuzz itself ({type(error).__name__}: {error}); the details are in {bundle}", err=True)
    return Exit.OUR_BUG
