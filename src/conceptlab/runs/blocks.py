"""Files with a hash of every block: written in order, checked block by block as they are read."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3

from conceptlab.runs.durable import begin_writing
from conceptlab.runs.moments import moment
from conceptlab.runs.place import Place, disk
from conceptlab.runs.sealed import Damaged

BLOCK = 1 << 20  # bytes
SHA256, BLAKE3 = "sha256", "blake3"
HASHES: Mapping[str, Callable[..., Any]] = {SHA256: hashlib.sha256, BLAKE3: blake3}  # of a block


@dataclass(frozen=True)
class FileRecord:
    """What a file must hold: its length in bytes, its sha256, and the hash of every block of BLOCK bytes, by `block_hash`."""

    size: int
    sha256: str
    blocks: tuple[str, ...]
    block_hash: str = SHA256

    def entry(self) -> dict[str, Any]:
        """As plain JSON values. Blocks of sha256 are not named as such: the first records had no others."""
        named = {} if self.block_hash == SHA256 else {"block_hash": self.block_hash}
        return {"size": self.size, "sha256": self.sha256, "blocks": list(self.blocks), **named}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "FileRecord":
        """Read what `entry` gave. Raises Damaged where it is no record of a file."""
        try:
            size, sha256, blocks = entry["size"], entry["sha256"], tuple(entry["blocks"])
        except (KeyError, TypeError) as error:
            raise Damaged("names a file without its size and hashes") from error
        if type(size) is not int or size < 0 or len(blocks) != -(-size // BLOCK):
            raise Damaged(f"names a file of {str(size)[:40]} bytes with {len(blocks):,} hashes")
        kind = entry.get("block_hash", SHA256)
        if not isinstance(kind, str) or kind not in HASHES:
            raise Damaged(f"names blocks hashed by {str(kind)[:40]!r}, which is none of {', '.join(HASHES)}")
        return cls(size, str(sha256), tuple(str(block) for block in blocks), kind)

    def check_block(self, name: str, index: int, content: bytes | memoryview) -> None:
        """Raise Damaged where block `index` of the file `name` is not as it was written."""
        length = min(BLOCK, self.size - index * BLOCK)
        if len(content) != length:
            raise Damaged(f"{name} ends at byte {index * BLOCK + len(content):,} of {self.size:,}")
        if HASHES[self.block_hash](content).hexdigest() != self.blocks[index]:
            raise Damaged(f"{name} is damaged between bytes {index * BLOCK:,} and {index * BLOCK + length:,}")


class BlockWriter:
    """Writes one draft file in order and knows its record at the end; `block_hash` is one of HASHES."""

    def __init__(self, draft: Path, block_hash: str = SHA256) -> None:
        self.draft, self.block_hash = draft, block_hash
        with disk(draft):
            self._file = draft.open("wb", buffering=0)
        self._whole, self._block = hashlib.sha256(), HASHES[block_hash]()
        self._blocks: list[str] = []
        self._size = self._waiting = 0
        moment("draft opened")

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes (a flat view of bytes)."""
        for step in self.steps(content):
            step()

    def steps(self, content: bytes | memoryview) -> tuple[Callable[[], None], ...]:
        """What `write` does, in parts that may run at the same time; all of them must end before the next content is given."""
        return partial(self._append, content), partial(self._whole.update, content), partial(self._hash_blocks, content)

    def _append(self, content: bytes | memoryview) -> None:
        with disk(self.draft):
            written = 0
            while written < len(content):
                written += self._file.write(content[written:]) or 0
        self._waiting += len(content)

    def _hash_blocks(self, content: bytes | memoryview) -> None:
        start = 0
        while start < len(content):
            room = BLOCK - self._size % BLOCK
            piece = content[start : start + room]
            self._block.update(piece)
            self._size += len(piece)
            start += len(piece)
            if self._size % BLOCK == 0:
                self._end_block()

    @property
    def waiting(self) -> int:
        """Bytes written since the last `begin_flush`."""
        return self._waiting

    def begin_flush(self) -> None:
        """Have the disk begin with what was written so far; may run while more is written."""
        self._waiting = 0
        with suppress(OSError, ValueError):  # closed meanwhile; what the disk says is heard when the file is published
            begin_writing(self._file.fileno())

    def _end_block(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block = HASHES[self.block_hash]()

    def close(self) -> FileRecord:
        """Close the file; it is not on the disk before `publish`."""
        if self._size % BLOCK:
            self._end_block()
        with disk(self.draft):
            self._file.close()
        moment("draft written")
        return FileRecord(self._size, self._whole.hexdigest(), tuple(self._blocks), self.block_hash)

    def abandon(self) -> None:
        """Close the file without a record; what the disk says now is no news."""
        with suppress(OSError):
            self._file.close()


def record_of(content: bytes, block_hash: str = SHA256) -> FileRecord:
    """The record of bytes in memory."""
    blocks = tuple(HASHES[block_hash](content[i : i + BLOCK]).hexdigest() for i in range(0, len(content), BLOCK))
    return FileRecord(len(content), hashlib.sha256(content).hexdigest(), blocks, block_hash)


def check_file(place: Place, name: str, record: FileRecord) -> None:
    """Read a whole file. Raises Damaged where it is missing, cut, longer, or any byte differs."""
    size = place.size(name)
    if size is None:
        raise Damaged(f"{name} is missing")
    if size != record.size:
        raise Damaged(f"{name} has {size:,} bytes, {record.size:,} were written")
    for index in range(len(record.blocks)):
        start = index * BLOCK
        record.check_block(name, index, place.span(name, start, min(start + BLOCK, record.size)))
