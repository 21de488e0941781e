"""The map of every neuron of an 8B shape through its unembedding: seconds, share of the matrix peak, memory.

Minimal arithmetic: neurons x vocabulary x d_model multiply-adds (458,752 x 128,256 x 4,096 = 2.4e14), and one reading of every
entry for either end. The published map of a model of this size took under 15 minutes; the target is 10 seconds.
"""

import torch

from conceptlab.find.neurons.vocabulary_neurons import vocabulary_neurons
from conceptlab.model import load_model

from .machine import memory, seconds_of, start_memory
from .record import Record
from .shapes import SHAPES, Shape

TARGET_S = 10.0
BUDGETS = (1 << 28, 1 << 32)  # bytes of working memory: the default, and one of a device's size


def run_neurons(record: Record, device: torch.device, *, tiny: bool, peak: float) -> None:
    """The ten nearest tokens at either end of every neuron's output, in either budget."""
    record.guarded("Neurons", SHAPES[1], lambda: _map(record, device, Shape(SHAPES[1], tiny), peak))


def _map(record: Record, device: torch.device, shape: Shape, peak: float) -> None:
    model = load_model(shape.module(device))
    config = model.module.config
    n_neurons = model.n_layers * int(config.intermediate_size)  # type: ignore[union-attr, arg-type]
    flops = 2.0 * n_neurons * len(model.unembedding) * model.d_model
    for budget in BUDGETS:
        start_memory(device)
        seconds, n = seconds_of(lambda b=budget: vocabulary_neurons(model, n_random=0, budget_bytes=b), device)
        record.add(
            f"Neurons through the unembedding, {shape.name}, bfloat16", f"{n_neurons:,} neurons, {budget >> 20:,} MiB",
            s=seconds, n=n, target_s=TARGET_S, met=seconds <= TARGET_S, tflop=flops / 1e12, share_of_peak=flops / seconds / peak,
            peak_GB=memory(device),
        )  # fmt: skip
