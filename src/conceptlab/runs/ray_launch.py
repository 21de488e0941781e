"""Launch a job over a Ray cluster: actors hold the workers, this process hands out shard numbers (extra `[ray]`; Ray Core only).

A shard whose actor or node died is handed to another one, and a new actor takes the dead one's place when the cluster has room for
it; until then this waits. Ray sends reports and shard numbers only: values go from the actors to the job's place, which every node
must reach under the same URL. A cluster runs the code of whoever may connect: one that is started here asks for Ray's token, has no
dashboard and ends with the launch; one of your own needs the same care.
"""

import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from conceptlab.errors import InputError, RunError
from conceptlab.runs.job import Job, Worker
from conceptlab.runs.launch import RETRIES
from conceptlab.runs.reports import Report, Reports, error_of, failed, keep_dying
from conceptlab.runs.threads import threads

AHEAD = 2  # calls that wait at an actor
HELD_SECONDS = 1.0  # how long an actor waits for a shard that a dying process may still hold
CONNECT_SECONDS = 10.0
STORE_BYTES = 100 << 20  # of a cluster started here: nothing large goes through Ray


def ray_cluster(
    job: Job, n_workers: int, *, address: str | None = None, retries: int = RETRIES, gpus_per_worker: float = 0
) -> Reports:
    """Work in `n_workers` actors of the cluster at `address` ("auto": the one that runs here), which is left running.

    None: the one in RAY_ADDRESS, else a cluster of this machine alone, ended afterwards. At most `retries` actors are replaced in
    all. Raises InputError where Ray is missing or no cluster answers, the error of a worker whose input is wrong, RunError where
    actors keep dying; finished shards are kept.
    """
    if n_workers < 1:
        raise InputError(f"{n_workers} workers were asked for; use at least 1")
    with _connected(address, n_workers * (job.threads or 1), gpus_per_worker) as ray:
        crew = Crew(ray, job, gpus_per_worker)
        try:
            yield from crew.reports(n_workers, retries)
        finally:
            crew.stop()


class Replica:
    """The actor: one worker of the job, made at the first call."""

    def __init__(self, line: str) -> None:
        self.job = Job.from_json(line)
        self.worker: Worker | None = None

    def begin(self) -> Report:
        """Make the worker; says which shards are `left`."""
        try:
            with threads(self.job.threads):
                self.worker = self.job.worker()
            ledger = self.worker.ledger.__enter__()
            return {"left": sorted(set(range(ledger.n_shards)) - set(ledger.finished()))}
        except Exception as error:  # told to the launcher, which raises it there
            return failed(error)

    def do(self, shard: int, seconds: float) -> Report:
        """Compute a shard; where somebody else has it, look again for `seconds`. `held`: somebody has it still."""
        end = time.monotonic() + seconds
        try:
            while (said := self._try(shard)) == {"held": True} and time.monotonic() < end:
                time.sleep(0.1)
            return said
        except Exception as error:  # told to the launcher, which raises it there
            return failed(error)

    def _try(self, shard: int) -> Report:
        if self.worker is None:
            raise RuntimeError("the actor was not begun")
        ledger = self.worker.ledger
        with ledger.claim(shard) as mine, threads(self.job.threads):
            if mine:
                return {"shard": shard, **self.worker.do(shard)}
        return {"held": shard not in ledger.finished()}


class Crew:
    """The actors, what each was asked, and the shards that nobody was asked for yet."""

    def __init__(self, ray: Any, job: Job, gpus: float) -> None:
        self.ray, self.job = ray, job
        self.kind = ray.remote(Replica).options(
            num_cpus=job.threads or 1, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        self.actors: list[Any] = []  # not known to be dead
        self.ready: list[Any] = []
        self.asked: dict[Any, tuple[Any, int | None]] = {}  # call -> actor and shard; None: the call that begins
        self.todo: deque[int] | None = None  # not known yet
        self.lost: set[int] = set()  # shards whose actor died

    def start(self) -> None:
        actor = self.kind.remote(self.job.to_json())
        self.actors.append(actor)
        self.asked[actor.begin.remote()] = (actor, None)

    def reports(self, n_workers: int, retries: int) -> Reports:
        for _ in range(n_workers):
            self.start()
        while self.todo is None or self.todo or any(shard is not None for _, shard in self.asked.values()):
            answered, _ = self.ray.wait(list(self.asked), num_returns=1)
            actor, shard = self.asked.pop(answered[0])
            try:
                said = self.ray.get(answered[0])
            except self.ray.exceptions.RayTaskError as error:
                raise RunError(f"a worker failed in a way of its own ({_line(error)})") from error
            except self.ray.exceptions.RayError as error:
                retries -= self._bury(actor, shard)
                if retries < 0:
                    raise keep_dying(f"said: {_line(error)}") from error
                self._restaff(n_workers)
            else:
                if "end" in said:
                    raise error_of(said)
                self._hear(actor, shard, said)
                if "shard" in said:
                    yield said
            self._hand_out()

    def _hear(self, actor: Any, shard: int | None, said: Report) -> None:
        if shard is None:
            self.ready.append(actor)
            self.todo = deque(said["left"]) if self.todo is None else self.todo
        elif said.get("held") and shard in self.lost and self.todo is not None:
            self.todo.append(shard)  # by a process that is about to die, or else will finish it
        else:
            self.lost.discard(shard)

    def _bury(self, actor: Any, shard: int | None) -> bool:
        """Take a dead actor's shard back; True for the first of its calls that fails."""
        if shard is not None and self.todo is not None:
            self.todo.appendleft(shard)
            self.lost.add(shard)
        first = actor in self.actors
        if first:
            self.actors.remove(actor)
            self.ready = [other for other in self.ready if other is not actor]
            self._kill(actor)
        return first

    def _restaff(self, n_workers: int) -> None:
        while len(self.actors) < n_workers:
            self.start()

    def _hand_out(self) -> None:
        """One shard to every actor that has none, then one that waits, as long as there are enough for all."""
        n_asked = [sum(other is actor for other, _ in self.asked.values()) for actor in self.ready]
        for depth in range(AHEAD):
            for number, actor in enumerate(self.ready):
                if self.todo and n_asked[number] <= depth and (depth == 0 or len(self.todo) > len(self.ready)):
                    shard = self.todo.popleft()
                    seconds = HELD_SECONDS if shard in self.lost else 0.0
                    self.asked[actor.do.remote(shard, seconds)] = (actor, shard)
                    n_asked[number] += 1

    def _kill(self, actor: Any) -> None:
        with suppress(Exception):  # it may be dead, and so may the cluster
            self.ray.kill(actor, no_restart=True)

    def stop(self) -> None:
        for actor in self.actors:
            self._kill(actor)


@contextmanager
def _connected(address: str | None, cpus: int, gpus: float) -> Iterator[Any]:
    """Ray, connected: as it is already, to the cluster at `address`, or to one started here."""
    address = address or os.environ.get("RAY_ADDRESS")
    address = None if address == "local" else address
    if address is None and "ray" not in sys.modules:  # read when Ray is imported; newer versions ask for a token anyway
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise InputError("Ray is not installed; pip install 'conceptlab[ray]', or use local processes") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_answers(address)
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        where = "on this machine" if address is None else f"at {address}"
        raise InputError(f"no Ray cluster {where} ({_line(error)}); start one, or use local processes") from error
    try:
        if address is None and ray.cluster_resources().get("GPU", 0) < gpus:
            raise InputError(f"{gpus} GPUs a worker were asked for, and this machine does not have them; use 0")
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Raise OSError or ValueError where nobody listens at `address`: Ray itself would try for many minutes."""
    if address in (None, "auto"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ValueError("an address is host:port, or auto")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _line(error: BaseException) -> str:
    """The first line of an error that is not blank, cut."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 160 else f"{text[:159]}…"
