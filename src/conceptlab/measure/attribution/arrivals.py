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
        """Pairs of `senders` and `rows` [k]; `draw` numbers the random direction that was written in their place."""
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

    def q_values(self, p: np.ndarray) -> np.ndarray:
        """q [sender] over the senders that write anything; 1 for the others."""
        writes, q = np.abs(self.random).max((0, 2)) + np.abs(self.relevant).max(1) > 0, np.ones(len(p))
        q[writes] = q_values(p[writes])
        return q

    def dataset(self, seed: int) -> xr.Dataset:
        """The table: scores by sender, shares by sender and receiver, each beside its control."""
        senders, receivers = np.array(self.shape.senders.names), np.array(self.shape.receivers.names)
        low, high = bootstrap_mean(self.relevant.T, seed=seed)
        score, null = self.relevant.mean(1), self.random.mean(2)
        p, edge_p, edge_q = np.full((3, *self.share.shape), np.nan)
        p = p[:, 0]
        there = np.arange(len(senders))[:, None] < self.shape.n_before[None]
        if self.n_random:
            p = p_of_signed(score, null)
            edge_p[there] = p_of_size(self.size[there], self.random_size[:, there])
            edge_q[there] = q_values(edge_p[there])
        columns = {
            "score": score,
            "low": low,
            "high": high,
            "control": np.abs(null).mean(0) if self.n_random else np.full(len(score), np.nan),
            "p": p,
            "q": self.q_values(p) if self.n_random else p,
            "removal": self.removal.mean(1),
        }
        control = self.random_share.mean(0) if self.n_random else np.full(there.shape, np.nan)
        edges = {"share": self.share, "share_control": control}
        table: dict[str, object] = {name: ("sender", values) for name, values in columns.items()}
        table |= {name: (("sender", "receiver"), np.where(there, v / self.n_rows, np.nan)) for name, v in edges.items()}
        table |= {"edge_p": (("sender", "receiver"), edge_p), "edge_q": (("sender", "receiver"), edge_q)}
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
