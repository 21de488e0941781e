"""What arrived of every source, added up over rows, and the table of it beside its random control."""

from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from scipy.stats import t as student
from torch import Tensor

from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.model.metric import Metric
from conceptlab.model.split_rules import halves
from conceptlab.model.split_sources import Arrived
from conceptlab.results.graph import GraphShape


@dataclass(eq=False)
class Tally:
    """`relevant`, `removal` [sender, row], `whole` [row] the metric, `share`, `size` [sender, receiver] sums over rows, the same of
    random sources with a first axis of draws; what was paid in forwards of one row."""

    shape: GraphShape
    n_rows: int
    n_random: int
    forwards: float = 0.0
    control_forwards: float = 0.0
    removal_forwards: float = 0.0
    sum_error: float = 0.0
    apart_error: float = 0.0
    relevant: np.ndarray = field(init=False)
    removal: np.ndarray = field(init=False)
    whole: np.ndarray = field(init=False)
    share: np.ndarray = field(init=False)
    size: np.ndarray = field(init=False)
    random: np.ndarray = field(init=False)
    random_share: np.ndarray = field(init=False)
    random_size: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        senders, receivers = len(self.shape.senders), len(self.shape.receivers)
        self.relevant, self.removal = np.zeros((2, senders, self.n_rows))
        self.whole = np.zeros(self.n_rows)
        self.share, self.size = np.zeros((2, senders, receivers))
        self.random = np.zeros((self.n_random, senders, self.n_rows))
        self.random_share, self.random_size = np.zeros((2, self.n_random, senders, receivers))

    @property
    def costs(self) -> dict[str, float]:
        """What was paid, in forwards of one row."""
        names = ("forwards", "control_forwards", "removal_forwards")
        return {name: round(getattr(self, name), 2) for name in names}

    def add(self, senders: Tensor, rows: Tensor, arrived: Arrived, metric: Metric, draw: int | None = None) -> None:
        """Pairs of `senders` and `rows` [k]; `draw` numbers the random rotation of what they wrote."""
        relevant, irrelevant = (metric.of(part, rows).double().cpu().numpy() for part in halves(arrived.logits))
        s, r = senders.cpu().numpy(), rows.cpu().numpy()
        share, size = arrived.share.cpu().numpy(), arrived.size.cpu().numpy()
        share[:, -1] = np.abs(relevant) / np.maximum(np.abs(relevant) + np.abs(irrelevant), 1e-300)
        size[:, -1] = np.abs(relevant)
        into = (self.relevant, self.share, self.size)
        if draw is not None:
            into = (self.random[draw], self.random_share[draw], self.random_size[draw])
        into[0][s, r] = relevant
        np.add.at(into[1], s, share)
        np.add.at(into[2], s, size)
        self.whole[r] = relevant + irrelevant

    def _tested(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """p and q [sender]: q over the heads and MLPs that write anything; the embedding, on which all rests, has none."""
        writes, q = np.abs(self.random).max((0, 2)) + np.abs(self.relevant).max(1) > 0, np.ones(len(p))
        p[0] = q[0] = np.nan
        writes[0] = False
        q[writes] = q_values(p[writes])
        return p, q

    def dataset(self, seed: int) -> xr.Dataset:
        """The table: scores by sender, shares by sender and receiver, each beside its control."""
        senders, receivers = np.array(self.shape.senders.names), np.array(self.shape.receivers.names)
        low, high = bootstrap_mean(self.relevant.T, seed=seed)
        score, null = self.relevant.mean(1), self.random.mean(2)
        columns = {"score": score, "low": low, "high": high, "removal": self.removal.mean(1)}
        columns |= dict.fromkeys(("control", "p", "q"), np.full(len(senders), np.nan))
        there = np.arange(len(senders))[:, None] < self.shape.n_before[None]
        share = np.where(there, self.share / self.n_rows, np.nan)
        edges = {"share": share, **dict.fromkeys(("share_control", "edge_p", "edge_q"), np.full(there.shape, np.nan))}
        if self.n_random:
            columns["control"] = np.abs(null).mean(0)
            columns["p"], columns["q"] = self._tested(p_of_signed(score, null))
            p, q = np.full((2, *there.shape), np.nan)
            p[there] = p_of_size(self.size[there], self.random_size[:, there])
            q[there] = q_values(p[there])
            control = np.where(there, self.random_share.mean(0) / self.n_rows, np.nan)
            edges |= {"share_control": control, "edge_p": p, "edge_q": q}
        table: dict[str, object] = {name: ("sender", values) for name, values in columns.items()}
        table |= {name: (("sender", "receiver"), values) for name, values in edges.items()}
        return xr.Dataset(
            table, coords={"sender": senders, "receiver": receivers}, attrs={"metric": float(self.whole.mean())}
        )


def p_of_signed(score: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Two-sided p [...] of a score among random directions `null` [draw, ...], whose spread is normal (Student's t)."""
    spread = np.sqrt((null**2).mean(0))
    t = np.where(spread > 0, np.abs(score) / np.where(spread > 0, spread, 1.0), np.where(score != 0, np.inf, 0.0))
    return 2 * student.sf(t, len(null))


def p_of_size(size: np.ndarray, null: np.ndarray) -> np.ndarray:
    """One-sided p [...] that `size` is larger than that of random directions `null` [draw, ...], on a log scale (Student's t)."""
    tiny = 1e-30
    logs, n = np.log(np.maximum(null, tiny)), len(null)
    spread = np.maximum(logs.std(0, ddof=1), 1e-9) * np.sqrt(1 + 1 / n)
    return np.where(size > tiny, student.sf((np.log(np.maximum(size, tiny)) - logs.mean(0)) / spread, n - 1), 1.0)
