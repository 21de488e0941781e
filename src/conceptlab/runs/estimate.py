"""Estimate: what a run will cost, said before it starts."""

import resource
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """`forwards` counts texts through the model (one text forward = 1), `bytes_peak` is the peak memory of the run."""

    forwards: int
    seconds: float
    bytes_peak: int

    def __str__(self) -> str:
        return f"about {duration(self.seconds)}, {size(self.bytes_peak)}, {self.forwards:,} texts through the model"

    def __add__(self, other: "Estimate") -> "Estimate":
        """Two pieces of work, one after the other: times and texts add, the larger peak counts."""
        peak = max(self.bytes_peak, other.bytes_peak)
        return Estimate(self.forwards + other.forwards, self.seconds + other.seconds, peak)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def size(n_bytes: float) -> str:
    """Bytes in decimal units, as disks and `free --si` count them."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= 0.9995 * scale:
            return f"{n_bytes / scale:.1f} {unit}" if unit != "MB" else f"{n_bytes / scale:.0f} {unit}"
    return f"{max(n_bytes / 1e3, 1):.0f} kB"


def resident_bytes() -> int:
    """The most memory that this process has held so far (kilobytes on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
