"""The plain way, one full forward for every item: what a sweep must equal, and what is left where no shortcut is exact."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.model.batch import Batch
from conceptlab.model.metric import Metric
from conceptlab.results import Edit

if TYPE_CHECKING:
    from conceptlab.model.model import Model


def plain_values(model: "Model", batch: Batch, item: tuple[Edit, ...], metric: Metric) -> np.ndarray:
    """The metric [row] under the edits of one item (none: unedited), by full forwards."""
    where = "last" if metric.position == "last" else [metric.position]
    rows = torch.arange(len(batch))
    with model.edited(*item):
        if metric.site is not None:
            name, layer = metric.site.name, metric.site.layer
            values = model.capture(batch, name, layers=[layer or 0], positions=where)[name][:, 0]
            return metric.of(values.float(), rows).double().cpu().numpy()
        logits = model.logits(batch, positions=where).float()
    if metric.tokens is not None:
        logits = logits.gather(1, metric.tokens.to(logits.device))
    return metric.of(logits, rows).double().cpu().numpy()
