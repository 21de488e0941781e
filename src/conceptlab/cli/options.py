"""Options that several commands share, as frozen dataclasses that cyclopts flattens into flags."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from conceptlab.errors import InputError

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
MIN_PERMUTATIONS = 19  # the fewest with which p can reach 0.05


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions:
    """How the model is loaded.

    Parameters
    ----------
    revision
        Branch, tag or commit of a Hugging Face id.
    stack
        Which stack of several ("encoder", "decoder", "text_model"). Default: the one with logits, else the first.
    device
        "cpu", "cuda", "cuda:1", "mps". Default: cpu.
    device_map
        Spread a model that one device cannot hold: "auto", "balanced", "sequential" (needs accelerate); then without --device.
    dtype
        Number format. Default: that of the weights on a GPU, float32 on a CPU.
    random_weights
        Control run: the same architecture with freshly drawn weights (from --seed).
    allow_pickle_weights
        Read .bin/.pt weights, through weights_only=True. Default: safetensors only.
    ignore_remote_code
        Use the installed class where config.json names remote code (which is never run).
    """

    revision: str | None = None
    stack: str | None = None
    device: str | None = None
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    random_weights: Flag = False
    allow_pickle_weights: Flag = False
    ignore_remote_code: Flag = False


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """How the run is done. Raises InputError where a number is out of range.

    Parameters
    ----------
    seed
        Seed of folds, permutations and random directions; purposes derive their own streams from it.
    permutations
        Shuffles of the labels behind every p value; at least 19. Default: the atlas's own choice.
    quick
        Skip the runs with noised inputs and with quantised weights.
    """

    seed: int = 0
    permutations: int | None = None
    quick: Flag = False

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.permutations is not None and not MIN_PERMUTATIONS <= self.permutations <= 100_000:
            raise InputError(
                f"--permutations {str(self.permutations)[:30]} is out of range; use {MIN_PERMUTATIONS} to 100000"
            )


@Parameter(name="*")
@dataclass(frozen=True)
class TrialOptions:
    """How a published system is run again. Raises InputError where the seed is out of range.

    Parameters
    ----------
    seed
        Seed of worlds, training, samples and random controls.
    quick
        The small form of at most about ten seconds.
    """

    seed: int = 0
    quick: Flag = False

    def __post_init__(self) -> None:
        check_seed(self.seed)


def check_seed(seed: int) -> None:
    """Raise InputError where `seed` is out of range."""
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed {str(seed)[:30]} is out of range; use 0 to 2**63-1")


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions:
    """What is printed.

    Parameters
    ----------
    json
        Print exactly one JSON object on standard output, and no progress.
    quiet
        No progress and no estimate.
    verbose
        Let the libraries log and warn on standard error.
    """

    json: Flag = False
    quiet: Flag = False
    verbose: Flag = False


@Parameter(name="*")
@dataclass(frozen=True)
class HarvestOptions:
    """What a harvest keeps. All but --on-nonfinite is part of the store's plan: another choice needs another folder.

    Parameters
    ----------
    sites
        Comma separated: names (resid_post, mlp_post, z, embed, ...) for all of --layers, or single layers (L5.resid_post).
    layers
        Comma separated layers. Default: all that have the site.
    positions
        "all", "last", or indices in a row, comma separated, negative from its end (a row without that token is left out).
    rows
        packed: every row is filled with documents up to --context; documents: each begins a row of its own. What does not fit
        goes on in the next row.
    tokens
        Stop the plan at the first row that reaches so many tokens. Default: the whole corpus.
    context
        Tokens of a row. Default: what the model takes, at most 1024.
    store_dtype
        Number format of the values. Default: the one the model computes in.
    batch_tokens
        Tokens of one forward, padding included.
    shard_tokens
        Tokens of a shard, the unit of work. Default: about 128 MB in each file.
    threads
        Threads of torch in every worker. Default: those of this machine.
    column
        Column (or key) of the texts.
    id_column
        Column of the documents' own ids. Default: none.
    statistics
        Keep streaming statistics of every unit: moments, extremes, histogram, largest exemplars.
    no_values
        Keep no values (statistics alone).
    no_text
        Keep no texts beside the tokens.
    skip_bad
        Leave out documents that are empty, damaged or huge, and count them. Default: stop at the first.
    on_nonfinite
        error: stop at NaN or infinite values; record: count them and go on.
    """

    sites: str = "resid_post"
    layers: str | None = None
    positions: str = "all"
    rows: Literal["packed", "documents"] = "packed"
    tokens: int | None = None
    context: int | None = None
    store_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    batch_tokens: int = 4096
    shard_tokens: int | None = None
    threads: int | None = None
    column: str = "text"
    id_column: str | None = None
    statistics: Flag = False
    no_values: Flag = False
    no_text: Flag = False
    skip_bad: Flag = False
    on_nonfinite: Literal["error", "record"] = "error"


@Parameter(name="*")
@dataclass(frozen=True)
class LaunchOptions:
    """Who computes the shards; the bytes are the same. Raises InputError where a number is out of range.

    Parameters
    ----------
    workers
        Processes, each with a model of its own. Default: this one.
    rank
        This process's number among --world-size that were started elsewhere, or "auto" (torchrun, Slurm).
    world_size
        How many processes were started.
    ray
        Address of a Ray cluster, or "local" to start one here; --workers are then actors.
    memory
        What all workers may use together, for example 16GB; a plan that needs more is refused.
    estimate
        Plan, say what it will cost, and stop.
    """

    workers: int = 1
    rank: str | None = None
    world_size: int | None = None
    ray: str | None = None
    memory: str | None = None
    estimate: Flag = False

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 4096:
            raise InputError(f"--workers {str(self.workers)[:30]} is out of range; use 1 to 4096")


@Parameter(name="*")
@dataclass(frozen=True)
class ViewOptions:
    """Where the viewer is served, and to whom.

    Parameters
    ----------
    host
        Address to listen on. One that other machines can reach needs --allow-host and --token.
    port
        Port to listen on. Default: 8765, or the next free one.
    allow_host
        Host name beside localhost under which the viewer is opened; may be given several times.
    token
        What the address must hold, at least 16 characters. Default: a random one for each run.
    no_browser
        Print the address and open nothing.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    allow_host: list[str] | None = None
    token: str | None = None
    no_browser: Flag = False


MODEL_DEFAULTS, RUN_DEFAULTS, OUTPUT_DEFAULTS = ModelOptions(), RunOptions(), OutputOptions()
TRIAL_DEFAULTS = TrialOptions()
HARVEST_DEFAULTS, LAUNCH_DEFAULTS = HarvestOptions(), LaunchOptions()
VIEW_DEFAULTS = ViewOptions()
