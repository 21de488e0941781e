"""Failures of the machine, not of the input: a full or broken disk, no memory, a lost device. Exit code 1."""

import errno

from conceptlab.errors import RunError

_DISK = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EIO: "the disk reports an input/output error; check it",
    errno.EACCES: "no permission; choose a folder you may write to",
    errno.EPERM: "no permission; choose a folder you may write to",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENOMEM: "no memory is left; use less data or a smaller model",
}
_DEVICE_SIGNS = ("cuda error", "cublas", "cudnn", "device-side assert", "nccl error", "hip error", "mps backend")


def as_run_error(error: BaseException) -> RunError | None:
    """The RunError that says what the machine did, or None where `error` is of another kind."""
    if isinstance(error, RunError):
        return error
    if isinstance(error, OSError):
        return _disk_error(error)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "not enough memory" in text or "can't allocate memory" in text:
        return RunError("no memory is left; use less data, a smaller model or --dtype bfloat16")
    if type(error).__name__ == "OutOfMemoryError" or "out of memory" in text:
        return RunError("the device is out of memory; use --device cpu, --dtype bfloat16 or fewer texts")
    if isinstance(error, RuntimeError) and any(sign in text.lower() for sign in _DEVICE_SIGNS):
        return RunError(f"the device failed ({text[:120]}); check it, or use --device cpu")
    return None


def _disk_error(error: OSError) -> RunError | None:
    advice = _DISK.get(error.errno or 0)
    if advice is None:
        return None
    where = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return RunError(f"{where}{advice}")
