"""Labelled arrays as the rows of a chart: plain values, NaN as null, six significant digits."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

Row = dict[str, Any]


def number(value: object, digits: int = 6) -> float | int | str | None:
    """A plain value for JSON: None for NaN and infinities, floats to `digits` significant digits."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value if isinstance(value, (int, str)) else str(value)


def rows_of(data: xr.Dataset, names: Iterable[str]) -> list[Row]:
    """One row a cell of `data`, with its labels and the variables of `names` that exist and are not all NaN."""
    dims = [str(d) for d in data.sizes]
    columns = dict(zip(dims, np.meshgrid(*(_labels(data, d) for d in dims), indexing="ij"), strict=True))
    columns |= {n: data[n].transpose(*dims).values for n in names if n in data and measured(data, n)}
    flat = {name: values.ravel() for name, values in columns.items()}
    return [{name: number(values[i]) for name, values in flat.items()} for i in range(flat[dims[0]].size)]


def measured(data: xr.Dataset, name: str) -> bool:
    """Whether the variable is there with at least one finite value."""
    return name in data and bool(np.isfinite(data[name].values.astype(float)).any())


def _labels(data: xr.Dataset, dim: str) -> np.ndarray:
    return data[dim].values if dim in data.coords else np.arange(data.sizes[dim])
