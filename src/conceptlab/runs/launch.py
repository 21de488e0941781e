"""Launchers: who runs the workers of a job. Each gives the reports of finished shards as they come; the bytes are the same."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from conceptlab.errors import InputError
from conceptlab.runs.job import Job, Worker, listen, work
from conceptlab.runs.reports import Report, Reports, error_of, keep_dying
from conceptlab.runs.threads import threads as fixed_threads

OnTick = Callable[[Report], None]
RETRIES = 3  # times that a worker which died is started again
PATIENCE = 5.0  # seconds that a worker has to end when told to


def in_process(
    job: Job | Worker,
    rank: int = 0,
    world_size: int = 1,
    *,
    threads: int | None = None,
    on_tick: OnTick | None = None,
) -> Reports:
    """Work in this process; with `rank` of `world_size` (torchrun, Slurm arrays) begin with this rank's own shards.

    `job` may be a worker that is made already; `threads` are then those of its plan. `on_tick` is called while shards go on.
    Raises InputError for a rank that does not exist.
    """
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} of {world_size} does not exist; ranks count from 0 to {world_size - 1}")
    with fixed_threads(job.threads if isinstance(job, Job) else threads):
        worker = job.worker() if isinstance(job, Job) else job
        listen(worker, on_tick)
        yield from work(worker, rank, world_size)


def processes(job: Job, n_workers: int, *, retries: int = RETRIES, on_tick: OnTick | None = None) -> Reports:
    """Work in `n_workers` processes on this machine. One that dies is started again, at most `retries` times in all.

    Raises the error of a worker whose input is wrong, RunError where workers keep dying; finished shards are kept. Ctrl-C reaches
    this process alone, which ends the others; they also end by themselves when it dies.
    """
    if n_workers < 1:
        raise InputError(f"{n_workers} workers were asked for; use at least 1")
    pool = _Pool(job, n_workers)
    try:
        for said in pool.reports(retries):
            if "tick" not in said:
                yield said
            elif on_tick is not None:
                on_tick(said)
    finally:
        pool.stop()


class _Pool:
    """Worker processes and one queue of what they say."""

    def __init__(self, job: Job, n_workers: int) -> None:
        self.job, self.n_workers = job, n_workers
        self.said: queue.Queue[tuple[int, Report]] = queue.Queue()
        self.running: dict[int, subprocess.Popen[str]] = {}

    def start(self, rank: int) -> None:
        line = [sys.executable, "-P", "-m", "conceptlab.runs.worker", str(rank), str(self.n_workers)]
        pipe = subprocess.PIPE
        with _ctrl_c_later():
            process = subprocess.Popen(
                line, stdin=pipe, stdout=pipe, text=True, env=_environment(self.job.threads, rank)
            )
            self.running[rank] = process
        threading.Thread(target=self._listen, args=(rank, process), daemon=True).start()
        if process.stdin is not None:  # stays open: its end is the end of the worker
            with suppress(BrokenPipeError):
                process.stdin.write(self.job.to_json() + "\n")
                process.stdin.flush()

    def _listen(self, rank: int, process: "subprocess.Popen[str]") -> None:
        ended = False
        for line in process.stdout or ():
            with suppress(ValueError):  # half a line of a worker that died
                said = json.loads(line)
                ended = ended or "end" in said
                self.said.put((rank, said))
        if not ended:
            self.said.put((rank, {"end": "died", "exit_code": process.wait()}))

    def reports(self, retries: int) -> Reports:
        for rank in range(self.n_workers):
            self.start(rank)
        while self.running:
            rank, said = self.said.get()
            if "end" not in said:
                yield said
                continue
            _close(self.running.pop(rank))
            if said["end"] == "failed":
                raise error_of(said)
            if said["end"] == "died":
                retries -= 1
                if retries < 0:
                    raise keep_dying(_how(said["exit_code"]))
                self.start(rank)

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            _close(process)


def _close(process: "subprocess.Popen[str]") -> None:
    """Wait for a process that ends, or make it end."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _environment(threads: int | None, rank: int) -> dict[str, str]:
    """What a worker finds: the modules that this process finds, as many threads as the job says, and its place on this machine."""
    paths = os.pathsep.join(dict.fromkeys(path or os.getcwd() for path in sys.path))
    found = {**os.environ, "PYTHONPATH": paths, "LOCAL_RANK": str(rank)}
    return found if threads is None else {**found, "OMP_NUM_THREADS": str(threads)}


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hold Ctrl-C back in the body; a process that is started there never sees one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"killed by {name}; is there enough memory?" if name == "SIGKILL" else f"by {name}"
