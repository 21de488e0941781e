"""`conceptlab harvest`: the activations of a corpus into a store, by whoever is there to compute them."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.cli.failing import one_line
from conceptlab.cli.loading import open_model
from conceptlab.cli.options import HarvestOptions, LaunchOptions, ModelOptions, OutputOptions
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.runs import Progress
    from conceptlab.runs.launch import OnTick, Reports
    from conceptlab.store import Harvest, Wish

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"), ("SLURM_PROCID", "SLURM_NTASKS"))


def run_command(  # noqa: PLR0913 - one argument a group of options
    source: str,
    corpus: str,
    store: str,
    what: HarvestOptions,
    launch: LaunchOptions,
    loading: ModelOptions,
    output: OutputOptions,
) -> int:
    """Plan, estimate, compute what is missing, say what was done."""
    from conceptlab.data.open_corpus import open_corpus
    from conceptlab.runs import Progress
    from conceptlab.store import open_harvest
    from conceptlab.store.estimate import check_room, estimate

    wish, memory, rank = wish_of(what, launch.workers), bytes_of(launch.memory), rank_of(launch)
    documents = open_corpus(corpus, column=what.column, id_column=what.id_column)
    model = open_model(None if source == "embedded" else source, loading)
    with Progress(quiet=output.quiet or output.json) as progress:
        made = {"model": source, "corpus": corpus, "column": what.column, "id_column": what.id_column}
        harvest = open_harvest(
            model, documents, store, wish, on_nonfinite=what.on_nonfinite, source=made, progress=progress
        )
        plan = harvest.plan
        skipped = f", {plan.n_skipped:,} left out" if plan.n_skipped else ""
        progress.say(
            f"plan: {plan.n_tokens:,} tokens of {plan.n_docs:,} documents{skipped}, in {plan.n_shards:,} shards"
        )
        expected = estimate(harvest)
        progress.say("everything is there already" if expected is None else expected.said(launch.workers))
        if expected is not None:
            check_room(harvest, expected, memory=memory, workers=launch.workers)
        if launch.estimate or expected is None:
            return _say(harvest, None, expected, output)
        rate = _run(_launcher(harvest, source, loading, launch, rank), harvest, progress)
    return _say(harvest, rate, expected, output)


def wish_of(what: HarvestOptions, workers: int) -> "Wish":
    """The options as a Wish. Raises InputError for a number that cannot be read."""
    from conceptlab.store import Wish

    layers = None if what.layers is None else tuple(_whole(part, "--layers") for part in what.layers.split(","))
    positions: str | tuple[int, ...] = what.positions
    if positions not in ("all", "last"):
        positions = tuple(_whole(part, "--positions") for part in what.positions.split(","))
    sites = tuple(name.strip() for name in what.sites.split(",") if name.strip())
    return Wish(
        sites,
        layers,
        positions,
        what.rows,
        what.context,
        what.store_dtype,
        what.batch_tokens,
        what.shard_tokens,
        what.threads,
        values=not what.no_values,
        statistics=what.statistics,
        text=not what.no_text,
        skip_bad=what.skip_bad,
        tokens=what.tokens,
        workers=workers,
    )


def _whole(text: str, option: str) -> int:
    if not re.fullmatch(r"\s*-?\d{1,9}\s*", text):
        raise InputError(f"{option} {one_line(text)[:40]!r} is no list of whole numbers; write for example 0,5,11")
    return int(text)


def bytes_of(text: str | None) -> int | None:
    """`16GB` in bytes. Raises InputError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,3})?)\s*([kmgt]?)b?", text.strip().lower())
    if match is None:
        raise InputError(f"--memory {one_line(text)[:40]!r} is no size; write for example 16GB")
    return round(float(match[1]) * UNITS[match[2]])


def rank_of(launch: LaunchOptions) -> tuple[int, int]:
    """This process's rank and how many there are; "auto" asks torchrun's and Slurm's environment."""
    if launch.rank is None and launch.world_size is None:
        return 0, 1
    if launch.workers > 1 or launch.ray is not None:
        raise InputError(
            "--rank is for processes that were started elsewhere; leave out --workers and --ray, or --rank"
        )
    if launch.rank == "auto":
        for rank, size in RANKS:
            if rank in os.environ and size in os.environ:
                return _whole(os.environ[rank], rank), _whole(os.environ[size], size)
        raise InputError("--rank auto found neither torchrun's nor Slurm's variables; give --rank and --world-size")
    if launch.rank is None or launch.world_size is None:
        raise InputError("--rank and --world-size belong together; give both, or --rank auto")
    return _whole(launch.rank, "--rank"), launch.world_size


def _launcher(  # noqa: PLR0913 - who computes what
    harvest: "Harvest", source: str, loading: ModelOptions, launch: LaunchOptions, rank: tuple[int, int]
) -> "Callable[[OnTick], Reports]":
    """The launcher that was asked for, to be started with what is called while shards go on."""
    from conceptlab.runs.launch import in_process, processes
    from conceptlab.store.harvesting import job_of

    if launch.ray is None and launch.workers == 1:
        worker, threads = harvest.worker, harvest.manifest.threads
        return lambda on_tick: in_process(worker, *rank, threads=threads, on_tick=on_tick)
    if loading.random_weights:
        raise InputError("--random-weights works in one process; leave --workers and --ray out")
    job = job_of(harvest, _findable(source), _options(loading))
    if launch.ray is None:
        return lambda on_tick: processes(job, launch.workers, on_tick=on_tick)
    from conceptlab.runs.ray_launch import ray_cluster

    address = None if launch.ray == "local" else launch.ray
    gpus = float((loading.device or "").startswith("cuda"))  # Ray hides the GPUs that an actor did not ask for
    return lambda on_tick: ray_cluster(job, launch.workers, address=address, gpus_per_worker=gpus)  # noqa: ARG005 - no ticks


def _findable(source: str) -> str:
    """The model's name for another process: the embedded one and folders by their path."""
    if source == "embedded":
        from conceptlab.worlds.default import default_model_path

        return str(default_model_path())
    return str(Path(source).absolute()) if Path(source).exists() else source


def _options(loading: ModelOptions) -> dict[str, Any]:
    """What `load_model` is told, as plain values."""
    return {
        "revision": loading.revision,
        "dtype": loading.dtype,
        "device": loading.device,
        **({} if loading.device_map is None else {"device_map": loading.device_map}),
        "stack": loading.stack,
        "allow_pickle": loading.allow_pickle_weights,
        "ignore_remote_code": loading.ignore_remote_code,
    }


def _run(launcher: "Callable[[OnTick], Reports]", harvest: "Harvest", progress: "Progress") -> Any:
    from conceptlab.runs import interruptible
    from conceptlab.store.harvesting import run_harvest

    with interruptible("finished shards are kept"):
        return run_harvest(launcher, harvest, progress=progress)


def _say(harvest: "Harvest", rate: Any, expected: Any, output: OutputOptions) -> int:
    """The end: one JSON object, or a few lines."""
    from conceptlab.runs.estimate import size
    from conceptlab.store import Store

    store = Store.open(harvest.place.url)
    finished, planned = len(store.shards), harvest.plan.n_shards
    nonfinite = store.nonfinite()
    if output.json:
        record = {
            "store": harvest.place.url,
            "shards": [finished, planned],
            "tokens": len(store),
            "bytes": harvest.n_bytes,
            "estimate": None if expected is None else vars(expected),
            "tokens_per_second": None if rate is None else round(rate.per_second, 1),
            "limited_by": None if rate is None else rate.limit,
            "nonfinite": nonfinite,
        }
        sys.stdout.write(json.dumps(record) + "\n")
        return 0
    done = "complete" if finished == planned else f"{finished:,} of {planned:,} shards finished"
    speed = "" if rate is None or not rate.shards else f", {rate}"
    kept = f"{size(harvest.n_bytes)} of values" if store.manifest.values else "statistics only"
    print(f"{one_line(harvest.place.url)}: {done}, {len(store):,} tokens, {kept}{speed}")
    for part, counts in nonfinite.items():
        print(f"not finite: {part}: {counts['nan']:,} NaN, {counts['inf']:,} infinite")
    if finished < planned and rate is not None:
        print("the other shards are in the hands of other workers, or the same command goes on with them")
    return 0
