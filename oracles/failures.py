"""What a failure means: not implemented, out of memory or an error; and its message made comparable between runs."""

from __future__ import annotations

import re
import traceback

from oracles.plugin import Refusals
from oracles.records import Status
from specs.rule import Unsupported

#: Messages of allocators that were refused memory, in Python, C++ and the compilers.
OUT_OF_MEMORY = re.compile(
    r"std::bad_alloc|bad allocation|MemoryError|DefaultCPUAllocator|not enough memory|out of memory"
    r"|Failed to allocate memory|Unable to allocate|Cannot allocate memory",
    re.IGNORECASE,
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}\b")
_TEMPORARY = re.compile(r"(?:/[\w.+-]+)*/(?:assay-|torchinductor_|tmp)[\w.+-]*(?:/[\w.+-]+)*/([\w.+-]+)")
_THREAD = re.compile(r"(?:\[?\b\d{2}:\d{2}:\d{2}[.\d]*\]?\s*)")
_LOCATION = re.compile(r"/(?:[\w.+-]+/)+([\w.+-]+\.(?:cc|cpp|cu|h|hpp)):\d+ ")
_TVM_OPERATOR = re.compile(r'ir\.Op\(span=None, ty=ir\.Type\(span=None\), name="([\w.]+)".*?support_level=\d+\)', re.DOTALL)
_QUALIFIERS = re.compile(r">?(?: const)?(?: \[with [^\]]*\])?\s*")
LINES, WIDTH = 8, 1200


def tidy(text: str) -> str:
    """The first lines that say something, without colours, addresses, clock times, temporary folders and C++ signatures."""
    text = _without_signatures(_THREAD.sub("", _TEMPORARY.sub(r"\1", _ADDRESS.sub("0x?", _ANSI.sub("", text)))))
    text = _TVM_OPERATOR.sub(r"\1", text)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    compiler = [line for line in lines if re.search(r"\b(?:fatal )?error: ", line)]
    if compiler and len(lines) > LINES:  # a C++ compiler's output: the command line before it says nothing
        lines = lines[:1] + compiler
    return "\n".join(lines[:LINES])[:WIDTH]


def _without_signatures(text: str) -> str:
    """C++ checks print '/path/file.cc:12 ns::Type ns::Class::Method(args) const [with T = float] what was false': keep the file and what."""
    out, at = "", 0
    for found in _LOCATION.finditer(text):
        if found.start() < at:
            continue
        end = found.end()
        opening = text.find("(", end)
        if opening < 0 or "::" not in text[end:opening] or "\n" in text[end:opening]:
            continue
        depth, i = 0, opening
        while i < len(text):
            depth += {"(": 1, ")": -1}.get(text[i], 0)
            i += 1
            if depth == 0 and not text.startswith("::", i):  # '(anonymous namespace)::f(...)' goes on
                break
        tail = _QUALIFIERS.match(text, i)
        out += text[at : found.start()] + found[1] + ": "
        at = tail.end() if tail else i
    return out + text[at:]


def words(error: BaseException) -> str:
    """'TypeName: message' of an exception; what the tables of `unsupported` messages are matched against."""
    text = str(error).strip()
    if text:
        return f"{type(error).__name__}: {text}"
    frames = traceback.extract_tb(error.__traceback__)  # a bare assert: its source line is all there is
    return f"{type(error).__name__}: {frames[-1].line if frames else ''}"


def classify(error: BaseException, refusals: Refusals) -> tuple[Status, str]:
    """Status and tidied message of a backend's exception.

    NotImplementedError is Python's own way to say it; everything else has to be in the backend's table.
    """
    if isinstance(error, (Unsupported, NotImplementedError)):
        return "unsupported", tidy(words(error))
    if isinstance(error, MemoryError):
        return "oom", tidy(words(error))
    return classify_words(words(error), refusals)


def classify_words(said: str, refusals: Refusals) -> tuple[Status, str]:
    """The same of an exception in another interpreter, of which only "TypeName: message" has come through."""
    if re.match(r"(?:NotImplementedError|Unsupported):", said):
        return "unsupported", tidy(said)
    if OUT_OF_MEMORY.search(said):
        return "oom", tidy(said)
    if any(re.search(pattern, said) for pattern, _ in refusals):
        return "unsupported", tidy(said)
    return "error", tidy(said)
