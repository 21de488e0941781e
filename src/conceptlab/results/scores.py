"""Scores: what every `measure` returns, one read-only labelled table with its control and its provenance."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from conceptlab.errors import ResultError, RunError
from conceptlab.results.provenance import Provenance
from conceptlab.results.saving import SCHEMA, write_bytes


@dataclass(frozen=True)
class Scores:
    """A read-only `xarray.Dataset` with named axes, in which `score` never stands without `control`.

    Raises ResultError at construction when `score` or `control` is missing.
    """

    data: xr.Dataset
    provenance: Provenance

    def __post_init__(self) -> None:
        missing = {"score", "control"} - set(self.data.data_vars)
        if missing:
            raise ResultError(
                f"{self.provenance.method}: a result needs both score and control; missing {sorted(missing)}"
            )
        for variable in self.data.variables.values():
            if isinstance(variable.values, object) and hasattr(variable.values, "flags"):
                variable.values.flags.writeable = False

    def __getitem__(self, name: str) -> xr.DataArray:
        return self.data[name]

    def save(self, folder: Path | str) -> None:
        """Write `data.zarr` (zarr 3, crc32c on every chunk) and `scores.json` into `folder`."""
        folder = Path(folder)
        write_dataset(self.data, folder / "data.zarr")
        text = json.dumps({"schema": SCHEMA, "kind": "scores", "provenance": self.provenance.to_record()}, indent=1)
        write_bytes(folder / "scores.json", text.encode())

    @classmethod
    def load(cls, folder: Path | str) -> "Scores":
        """Read what `save` wrote. Raises ResultError where it is missing or damaged."""
        folder = Path(folder)
        try:
            record = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
            return cls(read_dataset(folder / "data.zarr"), Provenance.from_record(record["provenance"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultError(f"{folder} holds no readable scores: {error}") from error

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        return {"text/plain": repr(self), "text/html": self.data._repr_html_()}


def write_dataset(data: xr.Dataset, folder: Path) -> None:
    """Write one dataset as zarr 3 with a crc32c per chunk, replacing an older one. Raises RunError when the disk refuses."""
    from zarr.codecs import Crc32cCodec

    data = _with_text(data, "U", object)  # zarr 3 has a specification for text of any length only
    encoding = {str(name): {"compressors": [Crc32cCodec()]} for name in data.variables}
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        data.to_zarr(partial, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(
            f"cannot write {folder}: {error.strerror or error}; free some space or choose another folder"
        ) from error


def read_dataset(folder: Path) -> xr.Dataset:
    """Read a dataset into memory, verifying its checksums. Raises ResultError where it is missing or damaged."""
    try:
        with xr.open_zarr(folder, consolidated=False) as opened:
            return _with_text(opened.load(), "T", str)
    except Exception as error:  # zarr raises many kinds for a damaged store; all mean the same to the user
        raise ResultError(f"{folder} cannot be read: {error}") from error


def _with_text(data: xr.Dataset, kind: str, dtype: type) -> xr.Dataset:
    """The dataset with its text (variables of that numpy kind) as `dtype`."""
    text = {
        name: xr.Variable(v.dims, np.array(v.values.tolist(), dtype=dtype).reshape(v.shape), v.attrs)
        for name, v in data.variables.items()
        if v.dtype.kind == kind
    }
    coords = {name: v for name, v in text.items() if name in data.coords}
    return data.assign({n: v for n, v in text.items() if n not in coords}).assign_coords(coords)
