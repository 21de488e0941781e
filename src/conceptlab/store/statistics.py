"""Read the statistics of a store: those of its finished shards, merged in their order."""

import math
from typing import TYPE_CHECKING

from conceptlab.errors import InputError, ResultError
from conceptlab.numerics.streaming import Statistics
from conceptlab.runs import SILENT, Progress
from conceptlab.runs.blocks import record_of
from conceptlab.store.mapped import ADVICE

if TYPE_CHECKING:
    from conceptlab.store.store import Store


def check_statistics(store: "Store") -> None:
    """Raises InputError for a store without statistics."""
    if not store.manifest.statistics:
        raise InputError("this store keeps no statistics; harvest into another folder with --statistics")


def read_statistics(store: "Store", name: str, layer: int | None = None, *, progress: Progress = SILENT) -> Statistics:
    """Statistics of one site and layer over units [prod(shape)]; the tokens of the largest values are numbers in the store.

    Every file is checked against its hash (unless the store was opened with verify=False). Raises InputError for a part that is not
    stored or a store without statistics, ResultError for a damaged file.
    """
    part, shape = store.part_name(name, layer), store.manifest.site(name).shape
    check_statistics(store)
    found = Statistics(math.prod(shape))
    with progress.task(f"statistics of {part}", len(store.shards)) as task:
        for number, shard in enumerate(store.shards):
            found.merge(_of_shard(store, shard, f"stats/{part}", found), int(store.starts[number]))
            task.advance()
    return found


def _of_shard(store: "Store", shard: int, folder: str, like: Statistics) -> Statistics:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    name, record = store.file_of(shard, folder)
    content = store.place.read(name)
    if content is None:
        raise ResultError(f"{store.place.url}/{name} is missing; {ADVICE}")
    if store.verify and record_of(content, record.block_hash) != record:
        raise ResultError(f"{store.place.url}/{name} is damaged; {ADVICE}")
    try:
        arrays = load(content)
        if arrays["largest_value"].shape != like.largest.value.shape:
            raise ValueError(f"is of {arrays['largest_value'].shape} values, not {like.largest.value.shape}")
        found = Statistics.from_arrays(arrays)
        if (found.count + found.nan + found.inf != store.plan.index["n_kept"][shard]).any():
            raise ValueError("counts other tokens than the plan")
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ResultError(f"{store.place.url}/{name}: {error}; {ADVICE}") from error
    return found
