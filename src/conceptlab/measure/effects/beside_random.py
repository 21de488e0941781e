"""Put one intervention beside its random controls: one row of the effects table."""

import numpy as np
import xarray as xr

COLUMNS = ("score", "low", "high", "control", "control_low", "control_high", "p")


def summarise(real: np.ndarray, random: np.ndarray, *, seed: int, n_resamples: int = 1000) -> dict[str, float]:
    """Mean of `real` [row] with a bootstrap 95 % interval over rows, beside `random` [draw, row] controls.

    `control` is the mean over draws, `control_low`/`control_high` the 2.5 and 95 % points of the draws' means, `p` one-sided:
    (1 + draws at least as large) / (1 + draws). NaN rows (an undefined reading) are left out.
    """
    keep = np.isfinite(real)
    if not keep.any():
        return dict.fromkeys(COLUMNS, float("nan"))
    real, means = real[keep], random[:, keep].mean(1)
    index = np.random.default_rng(seed).integers(0, len(real), (n_resamples, len(real)))
    low, high = np.quantile(real[index].mean(1), [0.025, 0.975])
    control_low, control_high = np.quantile(means, [0.025, 0.95])
    p = (1 + int((means >= real.mean()).sum())) / (1 + len(means))
    values = (real.mean(), low, high, means.mean(), control_low, control_high, p)
    return dict(zip(COLUMNS, map(float, values), strict=True))


def effects_table(rows: dict[tuple[str, str], dict[str, float]]) -> xr.Dataset:
    """A table with axes intervention and readout from {(intervention, readout): summary}."""
    interventions, readouts = list(dict.fromkeys(k[0] for k in rows)), list(dict.fromkeys(k[1] for k in rows))
    shape = (len(interventions), len(readouts))
    data = {name: np.full(shape, np.nan) for name in COLUMNS}
    for (intervention, readout), summary in rows.items():
        for name in COLUMNS:
            data[name][interventions.index(intervention), readouts.index(readout)] = summary[name]
    dims = ("intervention", "readout")
    return xr.Dataset(
        {n: (dims, v) for n, v in data.items()}, coords={"intervention": interventions, "readout": readouts}
    )
