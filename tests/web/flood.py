"""A flood of garbage against a running viewer, and what somebody who reads a page meanwhile gets to feel.

The short form runs in the tests; the long one is `flooded(port, headers, per_second=1000, seconds=60)`, with the server in a
process of its own.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field

from tests.web.garbage import garbage
from tests.web.looped import looped

LINGER = 2.0  # seconds that a piece of garbage waits for its answer
MOST_OPEN = 200


@dataclass
class Flooded:
    """How much was thrown, and for every look at the page meanwhile its seconds and whether it was answered with 200."""

    thrown: int = 0
    refused: int = 0  # connections that could not even be opened
    seconds: float = 0.0
    looks: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def per_second(self) -> float:
        return self.thrown / max(self.seconds, 1e-9)

    @property
    def slowest(self) -> float:
        return max(self.looks, default=float("inf"))


def flooded(
    port: int, headers: dict[str, str], *, per_second: int = 1000, seconds: float = 60.0, path: str = "/"
) -> Flooded:
    """Throw garbage at a viewer on loopback and look at `path` ten times a second; `headers` let the reader in."""
    return looped(_flooded(port, headers, per_second, seconds, path))


async def _flooded(port: int, headers: dict[str, str], per_second: int, seconds: float, path: str) -> Flooded:
    found, begun = Flooded(), time.monotonic()
    gate, pieces = asyncio.Semaphore(MOST_OPEN), garbage(500)
    reader = asyncio.create_task(_look(port, headers, path, found))
    thrown: set[asyncio.Task[None]] = set()
    for at in range(int(per_second * seconds)):
        await gate.acquire()
        task = asyncio.create_task(_throw(port, pieces[at % len(pieces)], gate, found))
        thrown.add(task)
        task.add_done_callback(thrown.discard)
        await asyncio.sleep(max(0.0, begun + (at + 1) / per_second - time.monotonic()))
    found.seconds = time.monotonic() - begun
    reader.cancel()
    await asyncio.gather(*thrown, reader, return_exceptions=True)
    return found


async def _throw(port: int, piece: bytes, gate: asyncio.Semaphore, found: Flooded) -> None:
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(piece)
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                await reader.read()
    except OSError:
        found.refused += writer is None
    finally:
        found.thrown += 1
        gate.release()
        if writer is not None:
            writer.transport.abort()


async def _look(port: int, headers: dict[str, str], path: str, found: Flooded) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Connection": "close"}.items())
    while True:
        begun = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
            answer = await reader.read()
            writer.close()
            found.failed += not answer.startswith(b"HTTP/1.1 200")
        except OSError:
            found.failed += 1
        found.looks.append(time.monotonic() - begun)
        await asyncio.sleep(0.1)
