"""Print which model types build and run here: `python -m tests.conformance.build_report [TYPE ...]`."""

from __future__ import annotations

import sys
import time

import torch
from transformers.utils import logging

from .tiny_models import CannotBuild, causal_lm_types, tiny_inputs, tiny_model


def report_row(model_type: str) -> tuple[str, bool, float, str]:
    """Type, whether it ran 2x7 tokens, seconds of that forward, and the class or the reason."""
    try:
        model = tiny_model(model_type)
    except CannotBuild as error:
        return model_type, False, 0.0, f"build: {error}"
    start = time.perf_counter()
    try:
        with torch.no_grad():
            logits = model(**tiny_inputs(model)).logits
    except Exception as error:  # noqa: BLE001  (any reason at all is reported, by name)
        return model_type, False, 0.0, f"forward: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    seconds = time.perf_counter() - start
    if not torch.isfinite(logits).all():
        return model_type, False, seconds, "forward: logits are not finite"
    return model_type, True, seconds, f"{type(model).__name__} {list(logits.shape)} std {logits.std():.3g}"


def main(types: list[str]) -> None:
    logging.set_verbosity_error()
    rows = []
    for model_type in types or causal_lm_types():
        rows.append(report_row(model_type))
        print(f"{rows[-1][0]:28} {'yes' if rows[-1][1] else 'NO':4} {rows[-1][2]:6.2f}  {rows[-1][3]}", flush=True)
    print(f"{sum(row[1] for row in rows)} of {len(rows)} types build and run")


if __name__ == "__main__":
    main(sys.argv[1:])
