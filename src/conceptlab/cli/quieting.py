"""Libraries that talk on standard error are asked to be silent there, before they are imported."""

import logging
import os
import warnings

_SILENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def quiet_libraries() -> None:
    """Silence logging, warnings and progress bars of the libraries; what the user has set in the environment stays."""
    for name, value in _SILENT.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())


def quiet_loading() -> None:
    """Turn off the bars that transformers shows while it reads weights; call it after the first import of torch."""
    if os.environ.get("TRANSFORMERS_VERBOSITY") == "error":
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
