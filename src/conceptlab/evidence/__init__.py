"""What every method calls to be believed: folds, shuffled labels, p and q values, intervals."""

from conceptlab.evidence.false_discovery import q_values
from conceptlab.evidence.folds import make_folds
from conceptlab.evidence.intervals import bootstrap_mean, resample_counts
from conceptlab.evidence.permutation import permutation_p, permuted_labels, pooled_p

__all__ = [
    "bootstrap_mean",
    "make_folds",
    "permutation_p",
    "permuted_labels",
    "pooled_p",
    "q_values",
    "resample_counts",
]
