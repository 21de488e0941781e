"""Which units cannot change anything, because what they write into the stream is what stands there."""

import numpy as np
import torch

from conceptlab.model.sweep.clean import Kept
from conceptlab.model.sweep.packed import Writes
from conceptlab.model.sweep.work import Work
from conceptlab.model.sweep.writes import SET
from conceptlab.results import Edit

STREAM = ("embed", "resid_pre", "resid_post")


def unchanged(kept: Kept, items: list[tuple[Edit, ...]], writes: Writes, work: Work) -> np.ndarray:
    """Units [unit] all of whose edits set the stream to exactly its clean values."""
    possible = np.array([all(e.site.name in STREAM and e.op in SET for e in item) for item in items])
    same = np.repeat(possible[:, None], kept.run.n_rows, 1)
    if not possible.any():
        return same[work.item, work.row]
    for (name, layer), members in writes.items():
        if name not in STREAM:
            continue
        depth = 0 if name == "embed" else (layer or 0) + (name == "resid_post")
        clean = kept.run.streams[depth]
        for write in (w for w in members if w.value is not None and w.edit.op in SET):
            rows, pos = torch.from_numpy(write.row), torch.from_numpy(write.pos)
            equal = (write.value.to(clean) == clean[rows, pos]).all(-1).cpu().numpy()  # type: ignore[union-attr]
            np.logical_and.at(same, (write.item, write.row), equal)
    return same[work.item, work.row]
