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


MODEL_DEFAULTS, RUN_DEFAULTS, OUTPUT_DEFAULTS = ModelOptions(), RunOptions(), OutputOptions()
TRIAL_DEFAULTS = TrialOptions()
