"""Messages of compilers with everything removed that differs between two cases of one cause: names, numbers, shapes, paths, addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable

LENGTH = 300

_NOISE = re.compile(r"^\s*(File \"|Traceback |\^+\s*$|\d+: |at [\w.]+\(|#\d+ |~+\^|\[bt\]|Stack trace:|note: )")
SOURCE = re.compile(r"(?:[A-Za-z]:)?[\w.@+-]*(?:[\\/]+[\w.@+<>-]+)*[\\/]+([\w.+-]+\.(?:cc|cpp|c|cu|h|hpp|cuh|py|pyx|rs|inc))\b(?:[:(]\d+\)?)*")
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/]+[\w.@+-]+){2,}[\\/]*")
_LINE = re.compile(r"(\.(?:cc|cpp|c|cu|h|hpp|cuh|py|inc))\b[:(]\d+\)?(?::\d+)?")
SIGNATURE = re.compile(r"\((?:[^()]*(?:::|&)[^()]*)\)(?:\s*const\b)?")
_ADDRESS = re.compile(r"\b0[xX][0-9a-fA-F?]+\b|\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{12,}\b")
_HASH = re.compile(r"\b(?=\w*\d)(?=\w*[a-z])[a-z0-9]{20,}\b")
_VERSION = re.compile(r"(?<=\w)\(\d+\)")
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\binf\b|\bnan\b"
_DIM = rf"(?:{_NUMBER}|\?|None|<name>|[NMKx*])"
_SHAPE = re.compile(rf"[\[({{]\s*(?:{_DIM}(?:\s*[,x ]\s*{_DIM})*)?\s*,?\s*[\])}}]")
_NUMBERS = re.compile(rf"(?<![\w.])(?:{_NUMBER})(?![\w])")
_NAMED = re.compile(r"(?<!\w)(?:[A-Za-z_][\w.]*)?(?:/[\w.:]+)+(?!\w)|\b[A-Za-z]\w*?_\d\w*\b|\b[a-z]\d+\b")
_DIGITS = re.compile(r"\b[A-Za-z_]\w*\d\w*\b")
_TYPE = re.compile(r"^(?:u?int|float|bfloat|complex|fp|bf|f|i|u)\d+(?:e\d+m\d+\w*)?$|^\w+\dd$|^[A-Z][A-Za-z]+\d[A-Z]\w*$|^(?:avx|sse)\w*$")
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : ([A-Z_]+) :")
CPP = re.compile(r"\b(?:virtual|static|inline|class|struct) |\b(?:onnxruntime|std|tvm|common|at|torch|c10)::(?=\w)")
_SPACE = re.compile(r"\s+")


def normalise(message: str, names: Iterable[str] = ()) -> str:
    """The same text for the same cause. `names` are the node and value names of the model, which are removed wherever they stand as a word."""
    lines = [line for line in message.splitlines() if line.strip() and not _NOISE.match(line)]
    text = " ".join(line.strip() for line in lines[:4])
    text = _PREFIX.sub(r"\1:", text)
    text = without(text, names)
    text = SOURCE.sub(r"\1", text)
    text = _LINE.sub(r"\1", text)
    text = CPP.sub("", text)
    text = SIGNATURE.sub("", text)
    text = _ADDRESS.sub("0x", text)
    text = _HASH.sub("<hash>", text)
    text = _VERSION.sub("(#)", text)
    text = _PATH.sub("<path>", text)
    text = _NAMED.sub(_name, text)
    text = _SHAPE.sub("<shape>", text)
    text = _NUMBERS.sub("#", text)
    text = _DIGITS.sub(_plain, text)
    return _SPACE.sub(" ", text).strip(" .:,")[:LENGTH]


def without(text: str, names: Iterable[str]) -> str:
    """Names of the model, replaced. A name of plain letters ("x", "min") may be a word of the message, so only its quoted form goes."""
    sure = sorted({n for n in names if n and (len(n) > 3 or not n.isalpha())}, key=len, reverse=True)
    plain = sorted({n for n in names if n and len(n) <= 3 and n.isalpha()}, key=len, reverse=True)
    for group, pattern in ((sure, r"(?<![\w/])(?:%s)(?![\w/])"), (plain, r"(?<=['\"(\[])(?:%s)(?=['\")\]])")):
        for start in range(0, len(group), 200):  # one expression per 200 names: real models have thousands
            text = re.sub(pattern % "|".join(re.escape(n) for n in group[start : start + 200]), "<name>", text)
    return text


def _name(m: re.Match[str]) -> str:
    return m[0] if _TYPE.match(m[0]) else "<name>"


def _plain(m: re.Match[str]) -> str:
    return m[0] if _TYPE.match(m[0]) else re.sub(r"\d+", "#", m[0])
