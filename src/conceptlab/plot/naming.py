"""How names and numbers that others wrote are shown: nothing invisible, nothing that turns a line around, nothing endless."""

METRICS = {"accuracy": "accuracy", "auc": "AUC", "r": "correlation r"}


def visible(name: str, limit: int = 60) -> str:
    """The name with control, bidirectional and zero-width characters written out (as `\\x1b`), cut to `limit`.

    For the eye only: what is saved and what `--json` prints is the name itself.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name[: 4 * limit])
    return (shown if len(shown) <= limit else f"{shown[: limit - 1]}…") or "(no name)"


def metric_name(metric: str) -> str:
    """The words for a metric of the atlas."""
    return METRICS.get(metric, visible(metric))
