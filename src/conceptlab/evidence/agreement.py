"""How far an estimate may be believed: its agreement with the exact effect where that was measured."""

from dataclasses import dataclass

import numpy as np

BELIEVED, MOST_FAR = 0.5, 0.25  # median ratio of estimate to exact effect, share of effects that are far off


@dataclass(frozen=True)
class Agreement:
    """`pearson` over everything measured; of the `k` largest exact effects, the share that is among the estimate's k largest
    (`recall`), the median of estimate / exact (`median_ratio`), the share with the same sign (`sign_agreement`) and the share
    whose ratio is not even between a half and two (`far`)."""

    n: int
    k: int
    pearson: float
    recall: float
    median_ratio: float
    sign_agreement: float
    far: float

    @property
    def flagged(self) -> bool:
        """Whether sizes are not to be believed (saturated softmax, redundant paths): the median ratio is below a half or not a
        number, or a quarter of the largest are far off."""
        return not self.median_ratio >= BELIEVED or self.far >= MOST_FAR

    def to_record(self) -> dict[str, float | int | bool]:
        """Plain values, with the flag."""
        fields = ("n", "k", "pearson", "recall", "median_ratio", "sign_agreement", "far")
        return {**{name: getattr(self, name) for name in fields}, "flagged": self.flagged}


def agreement(estimate: np.ndarray, exact: np.ndarray, *, k: int = 10, floor: float = 0.01) -> Agreement:
    """Compare `estimate` with `exact` [unit]. Exact effects below `floor` of the largest are nothing, and not among the k.

    Ranks over everything would be noise (most effects are 0), so sizes are compared. Without any effect the numbers are NaN.
    """
    estimate, exact = np.asarray(estimate, dtype=float), np.asarray(exact, dtype=float)
    size = np.abs(exact)
    real = size > floor * size.max(initial=0.0)
    k = int(min(k, real.sum()))
    if k == 0:
        return Agreement(len(exact), 0, *[float("nan")] * 5)
    top = np.argsort(-size, kind="stable")[:k]
    mine = np.argsort(-np.abs(estimate), kind="stable")[:k]
    spread = estimate.std() * exact.std()
    pearson = float(np.corrcoef(estimate, exact)[0, 1]) if spread > 0 else float("nan")
    ratio = estimate[top] / exact[top]
    far = float(((ratio < BELIEVED) | (ratio > 1 / BELIEVED)).mean())
    recall, signs = float(np.isin(top, mine).mean()), float((ratio > 0).mean())
    return Agreement(len(exact), k, pearson, recall, float(np.median(ratio)), signs, far)
