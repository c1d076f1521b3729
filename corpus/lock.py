"""One live run per output folder: a lock that dies with its owner, and the error of everything that concerns the folder."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from specs.rule import UsageError


class StoreError(UsageError):
    """The output folder cannot be used or written; the text is one sentence. What was stored before stays as it was. Exit status 2."""


_held = set[Path]()


class Lock:
    """A record lock on a file that holds our pid.

    fcntl record locks vanish with the process, so a lock file left by a killed run is taken over; and unlike flock they are
    not inherited by forked workers that may outlive us. They do not exclude a second opening in the same process: `_held` does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        key = path.resolve()
        if key in _held:
            raise StoreError(f"{path.parent}: is already in use by this process")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            owner = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            if e.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise StoreError(f"{path.parent}: another run is using it{f' (process {owner})' if owner else ''}; wait for it, or choose another folder") from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        self._key = key
        _held.add(key)

    def release(self) -> None:
        """Safe to call twice. The file stays: removing it would race with a run that has just opened it."""
        if self._key in _held:
            _held.discard(self._key)
            os.close(self._file)


@contextmanager
def storing(path: Path) -> Generator[None]:
    """Turn what the disk or SQLite refuses into a StoreError that names the path and says what to do."""
    try:
        yield
    except OSError as e:
        raise StoreError(f"{path}: {_reason(e.errno, e.strerror or str(e))}") from e
    except sqlite3.Error as e:
        raise StoreError(f"{path}: {_database(str(e))}") from e


def _reason(code: int | None, text: str) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "no space is left to write to; everything stored so far is kept: free some space and run the same command to go on"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot be written ({text.lower()}); choose another folder with --out"
    return f"cannot be written ({text})"


def _database(text: str) -> str:
    if "full" in text or "disk I/O" in text:
        return _reason(errno.ENOSPC, text)
    if "readonly" in text or "unable to open" in text:
        return _reason(errno.EACCES, text)
    if "not a database" in text or "malformed" in text:
        return f"is damaged ({text}); its findings/ folder is still readable: move it away, or start over with --fresh"
    if "locked" in text:
        return "is locked by another program"
    return f"cannot be used ({text})"
