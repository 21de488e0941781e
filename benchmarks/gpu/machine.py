"""What the machine itself can do: products, the link to its memory, its disk, its hashing; and how long a call takes on it."""

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from blake3 import blake3


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, with all work that it starts."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def seconds_of(
    call: Callable[[], object], device: torch.device, *, n: int = 3, limit: float = 20.0
) -> tuple[float, int]:
    """The median of up to `n` calls after a warming one, within about `limit` seconds, and of how many (0: the warming one)."""
    first = once(call, device)
    times: list[float] = []
    while len(times) < n and first + sum(times) + (times[-1] if times else first) <= limit:
        times.append(once(call, device))
    return (statistics.median(times), len(times)) if times else (first, 0)


def peak_flops(device: torch.device, *, size: int = 8192, n: int = 10) -> float:
    """Floating-point operations a second of a square bfloat16 product, the median of single products."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in "ab")
    seconds, _ = seconds_of(lambda: torch.mm(a, b), device, n=n)
    return 2.0 * size**3 / seconds


def link_rate(device: torch.device, n_bytes: int, *, n: int = 5) -> float:
    """Bytes a second from the device into pinned memory, in pieces of `n_bytes`."""
    source = torch.ones(n_bytes, dtype=torch.uint8, device=device)
    into = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    seconds, _ = seconds_of(lambda: into.copy_(source, non_blocking=True), device, n=n)
    return n_bytes / seconds


def disk_rate(folder: Path, *, n_files: int, file_bytes: int, threads: int, piece: int = 8 << 20) -> float:
    """Bytes a second of plain writing with an fsync of every file, several files at a time; the files are taken away again."""
    content = memoryview(os.urandom(piece))
    folder.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        with (folder / str(number)).open("wb", buffering=0) as file:
            left = file_bytes
            while left:
                left -= file.write(content[:left]) or 0
            os.fsync(file.fileno())

    try:
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(write, range(n_files)))
        return n_files * file_bytes / (time.perf_counter() - start)
    finally:
        for path in folder.iterdir():
            path.unlink()


def hash_rate(threads: int, *, n_bytes: int = 256 << 20) -> float:
    """Bytes a second that threads put through a sha256 and a BLAKE3 each."""
    content = memoryview(bytearray(n_bytes))
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: (hashlib.sha256(content).digest(), blake3(content).digest()), range(threads)))
    return threads * n_bytes / (time.perf_counter() - start)


def start_memory(device: torch.device) -> None:
    """From here on the largest memory counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> float:
    """The largest memory of the device since `start_memory`, weights included, in GB."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else float("nan")
