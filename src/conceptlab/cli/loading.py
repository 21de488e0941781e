"""A model for a command: the embedded one or the user's, as it is or with random weights."""

from typing import TYPE_CHECKING

from conceptlab.cli.options import ModelOptions
from conceptlab.cli.quieting import quiet_loading
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.model import Model

EMBEDDED = "embedded"  # the embedded model's name in tables and folders; its own folder is called by its content


def open_model(source: str | None, options: ModelOptions, *, seed: int = 0) -> "Model":
    """Load `source` (None: the embedded model). Raises ModelError in one line that says what, where and what to do."""
    if source is not None and (not source.strip() or "\0" in source):
        raise InputError("the model's name is empty or holds NUL; give a Hugging Face id or a folder")
    from conceptlab.model import load_model

    if options.device is not None and options.device_map is not None:
        raise InputError("--device and --device-map exclude each other; give one of them")
    quiet_loading()
    spread = {} if options.device_map is None else {"device_map": options.device_map}
    model = load_model(
        _embedded() if source is None else source,
        revision=options.revision,
        dtype=options.dtype,
        device=options.device,
        stack=options.stack,
        allow_pickle=options.allow_pickle_weights,
        ignore_remote_code=options.ignore_remote_code,
        **spread,
    )
    if source is None:
        model.name = EMBEDDED
    return _redrawn(model, options.stack, seed) if options.random_weights else model


def _embedded() -> str:
    from conceptlab.worlds.default import default_model_path

    return str(default_model_path())


def _redrawn(model: "Model", stack: str | None, seed: int) -> "Model":
    """The same architecture with weights drawn anew: what a finding must not show."""
    import torch

    from conceptlab.model.load import wrap

    old = model.module
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(old)(old.config)  # type: ignore[call-arg]
    fresh = fresh.to(device=model.device, dtype=next(old.parameters()).dtype).eval()
    revision = f"random weights, seed {seed}"
    return wrap(fresh, name=model.name, revision=revision, tokenizer=model.tokenizer, stack=stack)
