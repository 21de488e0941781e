"""Launchers: who runs the workers of a job. Each gives the reports of finished shards as they come; the bytes are the same."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from conceptlab.errors import ConceptlabError, InputError, RunError
from conceptlab.runs.job import Job, work
from conceptlab.runs.threads import threads

Reports = Iterator[Mapping[str, Any]]
RETRIES = 3  # times that a worker which died is started again


def in_process(job: Job, rank: int = 0, world_size: int = 1) -> Reports:
    """Work in this process; with `rank` of `world_size` (torchrun, Slurm arrays) begin with this rank's own shards.

    Raises InputError for a rank that does not exist.
    """
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} of {world_size} does not exist; ranks count from 0 to {world_size - 1}")
    with threads(job.threads):
        yield from work(job.worker(), rank, world_size)


def processes(job: Job, n_workers: int, *, retries: int = RETRIES) -> Reports:
    """Work in `n_workers` processes on this machine. One that dies is started again, at most `retries` times in all.

    Raises the error of a worker whose input is wrong, RunError where workers keep dying; finished shards are kept.
    """
    if n_workers < 1:
        raise InputError(f"{n_workers} workers were asked for; use at least 1")
    pool = _Pool(job, n_workers)
    try:
        yield from pool.reports(retries)
    finally:
        pool.stop()


class _Pool:
    """Worker processes and one queue of what they say."""

    def __init__(self, job: Job, n_workers: int) -> None:
        self.job, self.n_workers = job, n_workers
        self.said: queue.Queue[tuple[int, Mapping[str, Any]]] = queue.Queue()
        self.running: dict[int, subprocess.Popen[str]] = {}

    def start(self, rank: int) -> None:
        line = [sys.executable, "-m", "conceptlab.runs.worker", str(rank), str(self.n_workers)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.job.threads)}
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.running[rank] = process
        threading.Thread(target=self._listen, args=(rank, process), daemon=True).start()
        if process.stdin is not None:
            process.stdin.write(self.job.to_json() + "\n")
            process.stdin.close()

    def _listen(self, rank: int, process: "subprocess.Popen[str]") -> None:
        ended = False
        for line in process.stdout or ():
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
            self.running.pop(rank).wait()
            if said["end"] == "failed":
                raise _error(said)
            if said["end"] == "died":
                retries -= 1
                if retries < 0:
                    raise RunError(
                        f"workers keep dying (the last one with exit code {said['exit_code']}); "
                        "finished shards are kept, the same command goes on"
                    )
                self.start(rank)

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait()


def _error(said: Mapping[str, Any]) -> ConceptlabError:
    """The error of a worker, with its message and exit code."""
    if said["exit_code"] == 130:
        raise KeyboardInterrupt
    kind = InputError if said["exit_code"] == 2 else RunError
    return kind(str(said["message"]))
