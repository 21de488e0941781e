"""A store in other layouts: Parquet, npy, and the cached activations of SAELens; and its statistics as tables.

parquet   one file a shard and part: doc, position, token, and `values` as a fixed-size list (bfloat16 becomes float32)
npy       one array a part, [token, …], beside `tokens.npy` (bfloat16 becomes float32)
saelens   one Hugging Face Arrow folder a part: rows of the store's context, columns <hook name> [row, token, d] and token_ids
statistics   one Parquet file a part, a row a unit: counts, moments, quantiles, the largest values and their tokens
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.results.saving import write_bytes
from conceptlab.runs import SILENT, Progress
from conceptlab.store.manifest import SiteSpec
from conceptlab.store.statistics import check_statistics
from conceptlab.store.store import Store
from conceptlab.store.unit_statistics import unit_columns

Layout = Literal["parquet", "npy", "saelens", "statistics"]
STEP = 1 << 14  # tokens read at a time
HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
}
HOOKS |= {
    "mlp_out": "hook_mlp_out",
    "mlp_post": "mlp.hook_post",
    "z": "attn.hook_z",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
}
HOOKS |= {"v": "attn.hook_v"}


def export(store: Store, to: Path, layout: Layout, *, progress: Progress = SILENT) -> list[Path]:
    """Write every part of a complete store into the folder `to`, which must be new or empty; returns what was written.

    Raises InputError for a folder in use, a store that is not complete or keeps no values, or a layout that cannot hold it.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} is not empty; choose a new folder")
    if not store.complete:
        missing = store.plan.n_shards - len(store.shards)
        raise InputError(
            f"{missing} of {store.plan.n_shards} shards are not computed yet; run the same harvest again, then export"
        )
    write: Callable[[Store, SiteSpec, int | None, Path], Path] = {
        "parquet": _parquet,
        "npy": _npy,
        "saelens": _saelens,
        "statistics": _statistics,
    }[layout]
    _check(store, layout)
    draft = to.with_name(f".{to.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    found = []
    with progress.task(f"export to {layout}", sum(len(site.parts) for site in store.sites)) as task:
        for site in store.sites:
            for layer in site.layers or (None,):
                found.append(write(store, site, layer, draft))
                task.advance()
    if layout == "npy":
        found.append(_write_tokens(store, draft))
    draft.replace(to)  # an empty folder may be replaced
    return [to / path.relative_to(draft) for path in found]


def _check(store: Store, layout: Layout) -> None:
    if layout == "statistics":
        check_statistics(store)
    else:
        store.check_values()
    if layout == "saelens" and (store.manifest.rows != "packed" or store.manifest.positions != "all"):
        raise InputError(
            "SAELens' layout holds packed rows with all positions; harvest with --rows packed --positions all"
        )
    if layout == "saelens":
        try:
            import datasets  # noqa: F401
        except ImportError as error:
            raise InputError(
                "SAELens' layout needs the extra conceptlab[datasets]; install it, or export to parquet"
            ) from error


def _plain(values: Tensor) -> np.ndarray:
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _name(site: SiteSpec, layer: int | None) -> str:
    return site.name if layer is None else f"{site.name}-{layer}"


def _npy(store: Store, site: SiteSpec, layer: int | None, to: Path) -> Path:
    part = store.part(site.name, layer)
    path = to / f"{_name(site, layer)}.npy"
    dtype = np.float16 if part.dtype == torch.float16 else np.float32
    written = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=part.shape)
    for start in range(0, len(part), STEP):
        end = min(start + STEP, len(part))
        written[start:end] = _plain(part.read(start, end))
    written.flush()
    return path


def _write_tokens(store: Store, to: Path) -> Path:
    """doc, position and token of every kept token [token, 3]."""
    columns = [np.stack([t.doc[t.kept], t.position[t.kept], t.token[t.kept]], 1) for t in store.token_table()]
    path = to / "tokens.npy"
    np.save(path, np.concatenate(columns).astype(np.int64), allow_pickle=False)
    return path


def _parquet(store: Store, site: SiteSpec, layer: int | None, to: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    part, folder = store.part(site.name, layer), to / _name(site, layer)
    folder.mkdir()
    width = int(np.prod(site.shape))
    for number, shard in enumerate(store.shards):
        tokens, (start, end) = store.tokens(shard), store.starts[number : number + 2]
        flat = pa.array(_plain(part.read(int(start), int(end))).reshape(-1))
        columns: dict[str, Any] = {name: getattr(tokens, name)[tokens.kept] for name in ("doc", "position", "token")}
        table = pa.table({**columns, "values": pa.FixedSizeListArray.from_arrays(flat, width)})
        pq.write_table(table, folder / f"{shard:06d}.parquet", write_page_checksum=True)
    return folder


def _statistics(store: Store, site: SiteSpec, layer: int | None, to: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = unit_columns(store.statistics(site.name, layer))
    table = {name: pa.array(list(values) if values.ndim > 1 else values) for name, values in columns.items()}
    path = to / f"{_name(site, layer)}.parquet"
    pq.write_table(pa.table(table), path, write_page_checksum=True)
    return path


def _saelens(store: Store, site: SiteSpec, layer: int | None, to: Path) -> Path:
    from datasets import Array2D, Dataset, Features, Sequence, Value, disable_progress_bars
    from datasets.arrow_writer import ArrowWriter

    context, width = store.manifest.context, int(np.prod(site.shape))
    hook = "hook_embed" if layer is None else f"blocks.{layer}.{HOOKS.get(site.name, site.name)}"
    kind = "float16" if store.manifest.dtype == "float16" else "float32"
    features = Features({hook: Array2D((context, width), kind), "token_ids": Sequence(Value("int32"), length=context)})
    part, folder = store.part(site.name, layer), to / hook

    def rows() -> Any:
        for number, shard in enumerate(store.shards):
            tokens, start = store.tokens(shard), int(store.starts[number])
            for row, ids in enumerate(tokens.ids):
                at = start + int(tokens.lengths[:row].sum())
                if len(ids) == context:  # SAELens knows full rows only; a short last row stays in the store
                    yield {hook: _plain(part.read(at, at + context)).reshape(context, width), "token_ids": ids}

    disable_progress_bars()
    held = to / ".rows.arrow"
    with ArrowWriter(path=str(held), features=features) as writer:
        for row in rows():
            writer.write(row)
        writer.finalize()
    Dataset.from_file(str(held)).save_to_disk(folder)
    held.unlink()
    record = {"model_name": store.manifest.model, "hook_name": hook, "context_size": context, "dtype": kind}
    write_bytes(folder / "cache_activations_runner_cfg.json", json.dumps(record, indent=1).encode())
    return folder
