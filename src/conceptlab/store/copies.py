"""Values on their way from a GPU to the writing thread, while the model computes the next ones.

A batch's values are copied into one of a few pinned buffers, on a stream of its own; the writing thread waits for the copy, writes,
and gives the buffer back. There are no more buffers than `SLOTS`, so a model that is quicker than its writer waits for one. Values
that lie on the CPU are handed on as they are. The bytes are those of `tensor.cpu()`.
"""

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from conceptlab.store.overlap import DEEP, Overlap

Values = dict[
    str, tuple[Tensor, Tensor | None]
]  # part -> values in the store's dtype, and what they were where that is a cast
SLOTS = DEEP + 1  # one that is written and those that wait
ALIGN = 64  # bytes: where a part begins in a buffer


class Carrier(Protocol):
    """What makes buffers and copies into them."""

    def buffer(self, n_bytes: int) -> Tensor:
        """Bytes on the CPU."""
        ...

    def carry(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        """Begin to copy (into, source) pairs once what was computed so far is there; calling the result waits for the copies."""
        ...


class Pinned:
    """Pinned memory, and a stream of its own for each GPU."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def buffer(self, n_bytes: int) -> Tensor:
        return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)

    def carry(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        events = []
        for device in dict.fromkeys(source.device for _, source in pairs):
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)
            stream = self._streams[device]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for into, source in (pair for pair in pairs if pair[1].device == device):
                    into.copy_(source, non_blocking=True)
                    source.record_stream(stream)  # its memory is not given to others before the copy is done
                events.append(torch.cuda.Event(blocking=True))
                events[-1].record(stream)

        def wait() -> None:
            for event in events:
                event.synchronize()

        return wait


@dataclass(eq=False)
class Slot:
    """One buffer, made when it is first needed and kept for the batches that follow."""

    memory: Tensor | None = None

    def cut(self, carrier: Carrier, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Room for tensors of these shapes and types, side by side."""
        starts, total = [], 0
        for tensor in tensors:
            starts.append(total)
            total += -(-tensor.numel() * tensor.element_size() // ALIGN) * ALIGN
        if self.memory is None or self.memory.numel() < total:
            self.memory = None  # before the larger one is made
            self.memory = carrier.buffer(total)
        memory = self.memory
        return [
            memory[start : start + t.numel() * t.element_size()].view(t.dtype).view(t.shape)
            for start, t in zip(starts, tensors, strict=True)
        ]


@dataclass(eq=False)
class Handed:
    """One batch for the writing thread, used as a context manager in which the values are there: `values`, and which parts are
    known to be `finite`."""

    values: Values
    finite: dict[str, bool] = field(default_factory=dict)
    wait: Callable[[], None] = lambda: None
    release: Callable[[], None] = lambda: None
    flags: Tensor | None = None

    def __enter__(self) -> "Handed":
        self.wait()
        if self.flags is not None:
            self.finite = dict(zip(self.values, self.flags.tolist(), strict=True))
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Copies:
    """The buffers of one worker. `carrier` None: pinned memory of a GPU."""

    def __init__(self, carrier: Carrier | None = None, slots: int = SLOTS) -> None:
        self.carrier: Carrier = Pinned() if carrier is None else carrier
        self.slots = slots
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self.reset()

    def reset(self) -> None:
        """Begin anew after an error: buffers that somebody may still use are left to them."""
        self._free = queue.SimpleQueue()
        for _ in range(self.slots):
            self._free.put(Slot())

    def handed(self, values: Values, writer: Overlap) -> Handed:
        """Begin to copy a batch; waits for a free buffer. Raises the writer's error."""
        devices = {values.device.type for values, _ in values.values()}
        if devices != {"cuda"}:
            return Handed({part: tuple(None if t is None else t.cpu() for t in pair) for part, pair in values.items()})  # type: ignore[misc]
        return self._begun(values, writer)

    def _begun(self, values: Values, writer: Overlap) -> Handed:
        free = self._free
        slot = writer.next_of(free)
        sources = [tensor.contiguous() for pair in values.values() for tensor in pair if tensor is not None]
        sums = torch.stack([v.sum(dtype=torch.float32).to(sources[0].device) for v, _ in values.values()])
        sources.append(torch.isfinite(sums))  # a finite sum has no NaN and nothing infinite in it
        rooms = slot.cut(self.carrier, sources)
        wait = self.carrier.carry(list(zip(rooms, sources, strict=True)))
        taken = iter(rooms)
        found: Values = {
            part: (next(taken), None if source is None else next(taken)) for part, (_, source) in values.items()
        }
        return Handed(found, wait=wait, release=lambda: free.put(slot), flags=rooms[-1])
