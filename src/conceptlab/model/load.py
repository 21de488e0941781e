"""Load a model from a Hugging Face id, a local folder or a module in memory, find its anatomy, and say clearly what is wrong."""

import hashlib
import inspect
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conceptlab.errors import ModelError
from conceptlab.model.anatomy import Stack, find_stacks
from conceptlab.model.model import Model
from conceptlab.model.prescreen import read_config, screen_config, screen_weights
from conceptlab.model.probe import probe_inputs

_ODD_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    ImportError,
    AssertionError,
    IndexError,
)


def load_model(  # noqa: PLR0913 - the loading conventions of the field
    source: str | Path | nn.Module,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    stack: str | None = None,
    tokenizer: Any = None,
    allow_pickle: bool = False,
    ignore_remote_code: bool = False,
    **options: Any,
) -> Model:
    """Wrap a model without changing it.

    `source`: a Hugging Face id, a local folder, or a loaded module (quantised, `device_map`-sharded and PEFT models pass
    through). `stack` chooses among several (an encoder-decoder's "encoder" or "decoder", CLIP's "text_model"); the default is
    the one that ends in logits, else the first. `dtype` defaults to the one of the weights on a GPU and to float32 on a CPU.
    `options` go to `from_pretrained` (`device_map`, `quantization_config`, …). Remote code is never run; pickled weights are read
    only with `allow_pickle`, through `weights_only=True`. Raises ModelError in one line that says what, where and what to do.
    """
    if isinstance(source, nn.Module):
        module, name, found_revision = source, _name_of(source), "in memory"
    else:
        module, name, found_revision, tokenizer = _from_pretrained(
            str(source), revision, dtype, tokenizer, allow_pickle, ignore_remote_code, options
        )
    if device is not None:
        module = _moved(module, device)
    module.eval()
    return wrap(module, name=name, revision=found_revision, tokenizer=tokenizer, stack=stack)


def _name_of(module: nn.Module) -> str:
    path = getattr(getattr(module, "config", None), "_name_or_path", "") or type(module).__name__
    return Path(path).name if Path(path).is_absolute() else path


def _moved(module: nn.Module, device: str | torch.device) -> nn.Module:
    try:
        return module.to(own_device(device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            f"the device {str(device)!r} cannot hold the model: {_line(error)}; use cpu or another device"
        ) from error


def own_device(device: str | torch.device) -> str | torch.device:
    """`device`, and for "cuda" without a number the one of this process where several were started (`LOCAL_RANK`)."""
    rank, count = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    return f"cuda:{int(rank) % count}" if str(device) == "cuda" and rank.isdecimal() and count else device


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:237]}..."


def _clause(error: BaseException) -> str:
    """The first clause of a long message."""
    return _line(error).split(", and ")[0].split(". ")[0][:120]


def _from_pretrained(  # noqa: PLR0913 - private half of load_model
    source: str,
    revision: str | None,
    dtype: Any,
    tokenizer: Any,
    allow_pickle: bool,
    ignore_remote_code: bool,
    options: dict[str, Any],
) -> tuple[nn.Module, str, str, Any]:
    from transformers import PretrainedConfig

    folder = Path(source)
    local = folder.exists() or folder.is_absolute() or source.startswith((".", "~"))
    if local:
        config = read_config(folder.expanduser())
        safe = screen_weights(folder, allow_pickle=allow_pickle)
    else:
        try:
            config, _ = PretrainedConfig.get_config_dict(source, revision=revision)
        except _ODD_ERRORS as error:
            raise ModelError(
                f"{source!r} is neither a folder here nor a model that can be fetched ({_clause(error)}); "
                "check the name or the connection"
            ) from error
        safe = not allow_pickle
    screen_config(config, source, ignore_remote_code=ignore_remote_code)
    module = _load_weights(source, config, revision, dtype, safe, options)
    tokenizer = tokenizer if tokenizer is not None else _tokenizer(source, revision)
    commit = getattr(module.config, "_commit_hash", None) or (
        folder_revision(folder) if local else revision or "unknown"
    )
    name = (manifest_of(folder).get("name") or folder.resolve().name) if local else source
    return module, name, commit, tokenizer


def _model_class(config: dict[str, Any], source: str) -> Any:
    """The class named in the config, if this installation has it; else the causal LM or the bare model of its type."""
    import transformers

    for name in config.get("architectures") or []:
        cls = getattr(transformers, str(name), None)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            return cls
    kind = config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"{source}: the model type {kind!r} is not in transformers {transformers.__version__}; update transformers"
        )
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return transformers.AutoModelForCausalLM if kind in known else transformers.AutoModel


def _load_weights(
    source: str, config: dict[str, Any], revision: str | None, dtype: Any, safe: bool, options: dict[str, Any]
) -> nn.Module:
    cls = _model_class(config, source)
    if dtype is None and not options:
        dtype = torch.float32 if not torch.cuda.is_available() else "auto"
    settings = {"trust_remote_code": False, "use_safetensors": safe, "weights_only": True, "output_loading_info": True}
    try:
        module, report = cls.from_pretrained(source, revision=revision, dtype=dtype, **settings, **options)
    except ModelError:
        raise
    except Exception as error:  # a damaged folder can raise anything inside the loader; the user needs one line
        raise ModelError(f"{source} cannot be loaded: {_line(error)}") from error
    missing = [k for k in report["missing_keys"]]
    if missing:
        raise ModelError(
            f"{source}: the weights lack {len(missing)} tensors, for example {sorted(missing)[0]}; they would be random"
        )
    if report.get("mismatched_keys"):
        raise ModelError(
            f"{source}: the weights do not fit config.json: {_line(Exception(sorted(map(str, report['mismatched_keys']))[0]))}"
        )
    bad = next(
        (
            n
            for n, p in module.named_parameters()
            if p.is_floating_point() and p.device.type != "meta" and not bool(torch.isfinite(p).all())
        ),
        None,
    )
    if bad is not None:
        raise ModelError(f"{source}: the tensor {bad} holds NaN or infinity; the file is damaged, download it again")
    return module


def _tokenizer(source: str, revision: str | None) -> Any:
    """The tokenizer beside the weights, or None where there is none (asking it for text then says so)."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception:  # which error a missing tokenizer raises differs by type; `encode` reports it when text is needed
        return None


def folder_revision(folder: Path) -> str:
    """A name for the content of a local folder: sha256 over config and weight files, the first 16 digits."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        with path.open("rb") as file:
            digest.update(path.name.encode())
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


def wrap(module: nn.Module, *, name: str, revision: str, tokenizer: Any = None, stack: str | None = None) -> Model:
    """A Model around a loaded module. Raises ModelError where its anatomy cannot be found or `stack` does not exist."""
    stacks = _find_stacks(module, name)
    chosen = _choose(stacks, stack, module, name)
    runner = _runner(module, chosen, stacks)
    if runner is not module:
        missing = {**chosen.missing, "logits": "this part of the model has no unembedding of its own"}
        chosen = replace(chosen, unembed=None, missing=missing)
    return Model(
        module,
        chosen,
        name=name,
        revision=revision,
        tokenizer=tokenizer,
        runner=runner,
        max_length=context_length(module, tokenizer),
    )


def _find_stacks(module: nn.Module, name: str) -> dict[str, Stack]:
    """Try tokens alone, then tokens with images for the models that need both."""
    failed: Exception | None = None
    for pixels in (False, True):
        try:
            return find_stacks(module, probe_inputs(module, pixels=pixels))
        except ModelError:
            raise
        except _ODD_ERRORS as error:
            failed = failed or error
    raise ModelError(f"{name}: a short trial forward failed: {_line(failed or RuntimeError())}") from failed


def _choose(stacks: dict[str, Stack], wanted: str | None, module: nn.Module, name: str) -> Stack:
    """The stack that was asked for; else an encoder-decoder's encoder, else the stack that ends in logits, else the first."""
    if wanted is not None:
        fitting = [s for path, s in stacks.items() if path == wanted or wanted in path.split(".")]
        if len(fitting) == 1:
            return fitting[0]
        raise ModelError(f"{name} has no single stack {wanted!r}; its stacks are {', '.join(stacks)}")
    if _encoder_decoder(module):
        return list(stacks.values())[0]
    before_logits = [s for s in stacks.values() if s.unembed is not None]
    directly = [s for s in before_logits if "lens" not in s.missing]
    return (directly or before_logits or list(stacks.values())[:1])[-1]


def _encoder_decoder(module: nn.Module) -> bool:
    return bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))


def _runner(module: nn.Module, stack: Stack, stacks: dict[str, Stack]) -> nn.Module:
    """What to call: the whole model, or the part that holds the chosen stack alone and takes ids or pixels itself."""
    last = list(stacks.values())[-1]
    if len(stacks) == 1 or stack is last or (stack.unembed is not None and not _encoder_decoder(module)):
        return module
    owner: nn.Module = module
    for part in stack.name.split("."):
        owner = getattr(owner, part)
        mine = set(owner.modules())
        inside = [s for s in stacks.values() if s.blocks[0].module in mine]
        if len(inside) == 1 and not isinstance(owner, nn.ModuleList) and _takes_input(owner):
            return owner
    return module


def _takes_input(owner: nn.Module) -> bool:
    accepted = inspect.signature(owner.forward).parameters
    return "input_ids" in accepted or "pixel_values" in accepted


def context_length(module: nn.Module, tokenizer: Any) -> int:
    """Real tokens that fit: the config's position limit, else the tokenizer's, else a million."""
    config = getattr(module, "config", None)
    for part in (config, getattr(config, "text_config", None)):
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"):
            value = getattr(part, name, None)
            if isinstance(value, int) and value > 0:
                return value - (
                    2 if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert") else 0
                )
    limit = getattr(tokenizer, "model_max_length", None)
    return limit if isinstance(limit, int) and limit < 10**7 else 1_000_000


def manifest_of(folder: Path) -> dict[str, Any]:
    """`card.json` beside a packaged model, {} where there is none."""
    path = folder / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
