"""Who works on which shard: locks on single bytes of one empty file, which the system lets go when a process dies."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conceptlab.errors import RunError
from conceptlab.runs.place import disk

_WHOLE = 1 << 40  # the byte that stands for the run itself


class Claims:
    """Locks of one run, kept in the file `path` (made if missing). `path` None: nothing is ever claimed by somebody else."""

    def __init__(self, path: Path | None) -> None:
        self._file: int | None = None
        if path is not None:
            with disk(path):
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)

    def close(self) -> None:
        """Let everything go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Hold shard `number` in the body; gives False at once where somebody else holds it."""
        taken = self._set(fcntl.LOCK_EX | fcntl.LOCK_NB, number)
        try:
            yield taken
        finally:
            if taken:
                self._set(fcntl.LOCK_UN, number)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for, then hold the run itself in the body."""
        self._set(fcntl.LOCK_EX, _WHOLE)
        try:
            yield
        finally:
            self._set(fcntl.LOCK_UN, _WHOLE)

    def _set(self, how: int, number: int) -> bool:
        if self._file is None:
            return True
        try:
            _lock(self._file, how, number)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise RunError(
                f"this file system has no locks ({error.strerror}); choose a local folder or s3://"
            ) from error
        return True


def _lock(file: int, how: int, byte: int) -> None:
    """Like `fcntl.lockf`, but where the system can, the lock belongs to the opened file and not to the process: two writers in
    one process exclude each other, too."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        fcntl.lockf(file, how, 1, byte)
        return
    kind = fcntl.F_UNLCK if how == fcntl.LOCK_UN else fcntl.F_WRLCK
    command = fcntl.F_OFD_SETLKW if how == fcntl.LOCK_EX else fcntl.F_OFD_SETLK
    fcntl.fcntl(file, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))  # struct flock
