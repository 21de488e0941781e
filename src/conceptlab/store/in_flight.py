"""One shard on its way from the model to its commit: written beside the computing of its own batches, published beside that of the
next shard's.

The writing thread of a worker calls `open`, `keep` and `seal`, in this order; `seal` starts a thread that flushes the files, moves
them to their names and commits. Whoever gave the work waits with `land`, or ends what cannot go on with `end`.
"""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from conceptlab.errors import RunError
from conceptlab.runs.ledger import Ledger
from conceptlab.runs.moments import moment
from conceptlab.runs.place import Place
from conceptlab.store.copies import Handed
from conceptlab.store.overlap import PATIENCE, Overlap
from conceptlab.store.shard_files import ShardFiles


class MakeFiles(Protocol):
    """What opens the drafts of a shard in a folder."""

    def __call__(self, drafts: Path) -> ShardFiles: ...


class InFlight:
    """Shard `shard` of `n_kept` tokens. `record_nonfinite`: NaN and infinite values are counted, else they end the shard."""

    def __init__(
        self, place: Place, ledger: Ledger, shard: int, n_kept: int, make: MakeFiles, *, record_nonfinite: bool
    ) -> None:
        self.place, self.ledger, self.shard, self.n_kept, self.make = place, ledger, shard, n_kept, make
        self.record_nonfinite = record_nonfinite
        self.cancelled = False
        self.files: ShardFiles | None = None
        self._drafts = ExitStack()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._error: BaseException | None = None

    def open(self) -> None:
        """Make the drafts."""
        if not self.cancelled:
            self.files = self.make(self._drafts.enter_context(self.place.drafts(f"{self.shard:06d}")))

    def keep(self, handed: Handed) -> None:
        """Append one batch. Raises RunError for values that are not finite, where those are not recorded."""
        with handed:
            if self.files is None or self.cancelled:
                return
            self.files.put_all(handed.values, handed.finite)
        moment("batch written")
        if self.files.nonfinite and not self.record_nonfinite:
            part, counts = min(self.files.nonfinite.items())
            raise RunError(
                f"shard {self.shard}: {part} has {counts['nan']} NaN and {counts['inf']} infinite values; "
                "look at the model, or count and keep them with --on-nonfinite record"
            )

    def seal(self) -> None:
        """Every batch was kept: close the files, and have them published and committed by a thread of their own."""
        if self.files is not None and not self.cancelled:
            self.files.close()
            thread = threading.Thread(target=self._publish, args=(self.files,), daemon=True)
            thread.start()
            self._thread = thread

    def _publish(self, files: ShardFiles) -> None:
        try:
            published = files.publish(self.place)
            self.ledger.commit(self.shard, published, {"n_tokens": self.n_kept, "nonfinite": files.nonfinite})
        except BaseException as error:  # raised again by `check`
            self._error = error
        finally:
            self._drafts.close()
            self._over.set()

    def check(self) -> None:
        """Raise what went wrong since the shard was sealed."""
        if self._error is not None:
            raise self._error

    def land(self, writer: Overlap) -> None:
        """Wait for the commit. Raises the error of the publishing, or of the writer that did not come to it."""
        while not self._over.wait(PATIENCE):
            writer.check()
        self.check()

    def hurry(self) -> None:
        """Give the shard up at the next file, if it is not committed by then."""
        self.cancelled = True
        if self.files is not None:
            self.files.stop()

    def end(self) -> None:
        """Once the writer has ended: wait for a shard that is being published, take back one that is not. Never raises its
        error."""
        if self._thread is not None:
            self._over.wait()  # not join: interrupted, it takes the thread for ended
        elif not self._over.is_set():
            self._error = self._error or RunError(
                f"shard {self.shard} was given up; the same command computes it again"
            )
            if self.files is not None:
                self.files.abandon()
            self._drafts.close()
            self._over.set()
