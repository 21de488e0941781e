"""Named moments of the write path, where a test may kill the process; in use they cost one comparison."""

from collections.abc import Callable

MOMENTS = (
    "draft opened",
    "batch written",
    "draft written",
    "draft on disk",
    "file renamed",
    "file published",
    "files published",
    "commit drafted",
    "commit linked",
    "commit written",
)
_watch: Callable[[str], None] | None = None


def watch(watcher: Callable[[str], None] | None) -> None:
    """Call `watcher` with the name of every moment from now on; None stops it."""
    global _watch
    _watch = watcher


def moment(name: str) -> None:
    """Say that the write path has come to `name`."""
    if _watch is not None:
        _watch(name)
