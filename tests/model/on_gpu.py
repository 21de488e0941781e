"""Everything that reads, changes, scores and stores finds its tensors on the model's device: tried on one that only pretends.

Run by `test_on_gpu.py`.
"""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks.speed.models import word_tokenizer
from conceptlab.find.circuits.edge_attribution import edge_attribution
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.model import Model, load_model
from conceptlab.model.metric import log_prob, logit_diff
from conceptlab.model.sweep import sweep
from conceptlab.model.sweep.plain import plain_values
from conceptlab.runs import SILENT
from conceptlab.store.harvesting import harvest
from conceptlab.store.verifying import verify
from tests.conformance.examine import case_of

from .pretended_gpu import GPU, KIND, Pretended, on_gpu, pretended_gpu
from .test_sweep import rows_of, some_edits


@pytest.fixture(params=["gpt2", "gemma2"])
def pair(request) -> Iterator[tuple[Model, Model]]:
    """A model on the CPU, and the same on the other device."""
    cpu = case_of(request.param).model
    with pretended_gpu():
        yield cpu, load_model(on_gpu(copy.deepcopy(cpu.module)))


def test_the_other_device_refuses_what_a_gpu_refuses() -> None:
    with pretended_gpu():
        there = torch.ones(3, device=GPU)
        assert there.device.type == KIND and isinstance(there + 1, Pretended) and not isinstance(there.cpu(), Pretended)
        assert isinstance(torch.ones(2).to(GPU), Pretended) and float(there[torch.tensor([0, 1])].sum()) == 2
        with pytest.raises(RuntimeError, match="mixed"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="on the GPU"):
            torch.ones(3)[torch.zeros(1, dtype=torch.long).to(GPU)]
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()


def test_captures_and_sweeps_are_those_of_the_cpu(pair) -> None:
    cpu, gpu = pair
    assert gpu.device.type == KIND and gpu.sweep_strategy == cpu.sweep_strategy
    batch = rows_of(cpu)
    ours, theirs = (model.capture(batch, ["resid_post", "z"], positions="all") for model in (gpu, cpu))
    assert all(torch.allclose(ours[site].cpu(), theirs[site], atol=1e-5) for site in ("resid_post", "z"))
    edits = some_edits(cpu, batch)[::3]
    for metric, some in ((logit_diff([11, 12, 13], [21, 22, 23]), edits), (log_prob([11, 12, 13]), edits[::5])):
        there, here = (sweep(model, batch, some, metric, skip_unchanged=False) for model in (gpu, cpu))
        assert np.abs(there.values - here.values).max() <= 2e-5 * np.abs(here.values).max()
    item = edits[0] if isinstance(edits[0], tuple) else (edits[0],)
    assert np.isfinite(plain_values(gpu, batch, item, metric)).all()


def test_edges_score_as_on_the_cpu(pair) -> None:
    cpu, gpu = pair
    clean, corrupted = rows_of(cpu, (7, 7)), rows_of(cpu, (7, 7), seed=5)
    metric = logit_diff([11, 12], [21, 22])
    for method in (edge_attribution, edge_attribution_ig):
        there, here = (method(model, clean, corrupted, metric) for model in (gpu, cpu))
        assert np.allclose(there.weights, here.weights, rtol=1e-3, atol=1e-4 * np.abs(here.weights).max())


def test_a_harvest_stores_what_the_cpu_stores(pair, tmp_path) -> None:
    stores = []
    for name, model in zip(("cpu", "gpu"), pair, strict=True):
        size = int(model.module.config.vocab_size)
        model.tokenizer, model.revision = word_tokenizer(size), "0"
        texts = [" ".join(f"w{i % (size - 20) + 10}" for i in range(n, 3 * n + 5)) for n in range(20)]
        wish = {"context": 9, "batch_tokens": 32, "shard_tokens": 128, "threads": 1}
        stores.append(harvest(model, texts, tmp_path / name, ("resid_post", "embed"), progress=SILENT, **wish))
        assert not verify(tmp_path / name).faults
    assert len(stores[0]) == len(stores[1]) > 300
    for layer in range(pair[0].n_layers):
        here, there = (store["resid_post", layer][:] for store in stores)
        assert torch.allclose(torch.as_tensor(here), torch.as_tensor(there), atol=1e-4)
