"""What it means that two results are equal: the same values, NaN equal to NaN, arrays with their axes and labels."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import singledispatch

import torch
import xarray as xr

from conceptlab.results import Provenance


@singledispatch
def same(one: object, other: object) -> bool:
    """Whether two results, or any two of the values they are made of, are equal."""
    if is_dataclass(one):
        names = [f.name for f in fields(one)]
        return type(one) is type(other) and all(same(getattr(one, n), getattr(other, n)) for n in names)
    return type(one) is type(other) and bool(one == other)


@same.register
def _(one: float, other: object) -> bool:
    both_nan = isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or (type(one) is type(other) and one == other)


@same.register
def _(one: tuple, other: object) -> bool:
    return isinstance(other, tuple) and len(one) == len(other) and all(map(same, one, other))


@same.register
def _(one: Mapping, other: object) -> bool:
    return isinstance(other, Mapping) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)


@same.register
def _(one: torch.Tensor, other: object) -> bool:
    if not isinstance(other, torch.Tensor) or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.allclose(one.cpu(), other.cpu(), rtol=0, atol=0, equal_nan=True)


@same.register
def _(one: xr.Dataset, other: object) -> bool:
    return isinstance(other, xr.Dataset) and one.identical(other)


@same.register
def _(one: Provenance, other: object) -> bool:
    # Settings pass through JSON, in which a tuple becomes a list; the values are what counts.
    return isinstance(other, Provenance) and _canonical(one) == _canonical(other)


def _canonical(provenance: Provenance) -> str:
    return json.dumps(provenance.to_record(), sort_keys=True)
