"""The statistics of one shard: what every unit of every part did over the shard's kept tokens, counted from 0 within the shard.

stats/<site>/<layer>/<shard>-<hash12>.safetensors   the arrays of `numerics.streaming.Statistics`, over units [prod(shape)]
"""

import math

import torch
from torch import Tensor

from conceptlab.numerics.streaming import Statistics
from conceptlab.runs.blocks import FileRecord, record_of
from conceptlab.runs.place import Place, put
from conceptlab.store.manifest import Manifest

BYTES_A_UNIT = 1600  # about what a file keeps of a unit that has seen some thousands of tokens


class ShardStatistics:
    """Statistics of each part (`resid_post/3`) of one shard, in memory until they are published."""

    def __init__(self, shard: int, manifest: Manifest) -> None:
        self.shard, self.block_hash = shard, manifest.block_hash
        self.of = {part: Statistics(math.prod(site.shape)) for site in manifest.sites for part in site.parts}
        self.seen = dict.fromkeys(self.of, 0)
        self.contents: dict[str, bytes] = {}

    def put(self, part: str, values: Tensor) -> None:
        """Add the values [token, …] of the next tokens, as they are stored."""
        self.of[part].update(values.to(torch.float32).reshape(len(values), -1).numpy(), self.seen[part])
        self.seen[part] += len(values)

    def close(self) -> None:
        """Turn the statistics into the files they become, which take a quarter of the memory."""
        from safetensors.numpy import save

        while self.of:
            part = next(iter(self.of))
            self.contents[part] = save(self.of.pop(part).arrays())

    def publish(self, place: Place) -> dict[str, FileRecord]:
        """Write every file; name -> record."""
        found = {}
        while self.contents:
            part = next(iter(self.contents))
            content = self.contents.pop(part)
            record = record_of(content, self.block_hash)
            name = f"stats/{part}/{self.shard:06d}-{record.sha256[:12]}.safetensors"
            put(place, name, content)
            found[name] = record
        return found
