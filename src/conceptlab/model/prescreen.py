"""Look before loading: nothing that came with a model may choose code to run, and weights come from safetensors."""

import json
from pathlib import Path
from typing import Any

from conceptlab.errors import ModelError

_REMOTE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")
_KERNEL_KEYS = (
    "_attn_implementation",
    "_attn_implementation_internal",
    "attn_implementation",
    "_experts_implementation",
)
# What modules are built in a loop for: a damaged number here would build until the memory is gone.
_COUNTS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_experts",
    "num_local_experts",
)
MAX_COUNT = 10_000


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a local folder. Raises ModelError where it is no model folder or the file is no JSON object."""
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is not a folder; give a folder with config.json and *.safetensors, or a Hugging Face id"
        )
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} is no model: it has no config.json; give the folder that save_pretrained wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}; download it again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object; download it again")
    return config


def screen_config(config: dict[str, Any], origin: str, *, ignore_remote_code: bool = False) -> None:
    """Refuse a config that names code outside the installed libraries (CVE-2026-4372 and its class).

    Raises ModelError; with `ignore_remote_code` an `auto_map` is passed over and the library's own class is used.
    """
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{origin}: config.json: architectures is no list of class names; download it again")
    for key, value in _walk(config):
        if key in _COUNTS and isinstance(value, int) and value > MAX_COUNT:
            raise ModelError(
                f"{origin}: config.json: {key} is {value}, beyond {MAX_COUNT:,}; the file is damaged, download it again"
            )
        if key in _REMOTE_KEYS and value and not ignore_remote_code:
            raise ModelError(
                f"{origin}: config.json names remote code ({key}), which is never run; "
                "ignore it with ignore_remote_code=True (--ignore-remote-code) to use the installed class"
            )
        if key in _KERNEL_KEYS and isinstance(value, str) and ("/" in value or ":" in value):
            raise ModelError(f"{origin}: config.json asks for the kernel {value!r} from a hub ({key}); remove the key")
        if key == "quantization_config" and isinstance(value, dict) and "/" in str(value.get("modules_to_load", "")):
            raise ModelError(f"{origin}: config.json asks for code from a hub in quantization_config; remove the key")


def _walk(config: Any, depth: int = 0) -> list[tuple[str, Any]]:
    if depth > 20:
        raise ModelError("config.json is nested more than 20 levels deep; this is no model config")
    if isinstance(config, list):
        return [pair for item in config for pair in _walk(item, depth + 1)]
    if not isinstance(config, dict):
        return []
    return [pair for k, v in config.items() for pair in [(str(k), v), *_walk(v, depth + 1)]]


def screen_weights(folder: Path, *, allow_pickle: bool) -> bool:
    """Whether to load safetensors (True) or pickled weights (False). Raises ModelError where there is neither, or one is cut.

    Every safetensors header is read: its declared length must be the file's length.
    """
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        _check_header(path)
    if files:
        return True
    pickled = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickled and allow_pickle:
        return False
    if pickled:
        raise ModelError(
            f"{folder} has only pickled weights ({pickled[0].name}), which can run code; convert them to safetensors, "
            "or load them through weights_only=True with allow_pickle=True (--allow-pickle-weights)"
        )
    raise ModelError(f"{folder} has no weights: no *.safetensors file is in it")


def _check_header(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}; download it again") from error
