"""`conceptlab store`: what a store holds, whether every byte is as it was written, its repair, and other layouts."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.cli.failing import one_line
from conceptlab.cli.options import ModelOptions, OutputOptions
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.data.corpus import Corpus
    from conceptlab.model import Model
    from conceptlab.store.exporting import Layout
    from conceptlab.store.manifest import Manifest
    from conceptlab.store.verifying import Verdict

SHOWN = 20


def run_info(url: str, *, as_json: bool) -> int:
    """Print what the manifest, the plan and the commits say."""
    from conceptlab.runs.estimate import size
    from conceptlab.store import Store
    from conceptlab.store.harvesting import bytes_of_values

    store = Store.open(url)
    manifest, plan = store.manifest, store.plan
    if as_json:
        sys.stdout.write(json.dumps(_record(store)) + "\n")
        return 0
    print(
        f"model      {one_line(manifest.model)}, revision {manifest.revision[:12]}, computed in {manifest.compute_dtype}"
    )
    print(
        f"corpus     {one_line(manifest.source.get('corpus', '?'))}: {plan.n_docs:,} documents, {plan.n_tokens:,} tokens"
    )
    rows = f"{manifest.rows} rows of at most {manifest.context:,} tokens, {manifest.batch_tokens:,} tokens a forward"
    print(f"rows       {rows}, positions {manifest.positions}")
    for site in store.sites:
        layers = f"layers {_ranges(site.layers)}" if site.layers else "an end of the stream"
        print(f"site       {site.name}: {layers}, {' x '.join(map(str, site.shape))} {manifest.dtype} a token")
    state = "complete" if store.complete else f"{len(store.shards):,} of {plan.n_shards:,} shards finished"
    values = size(bytes_of_values(manifest, plan)) if manifest.values else "none, statistics only"
    print(f"values     {values}, {plan.n_shards:,} shards, {state}")
    if manifest.statistics:
        print(f"units      conceptlab store statistics {one_line(url)}")
    for part, counts in store.nonfinite().items():
        print(f"not finite {part}: {counts['nan']:,} NaN, {counts['inf']:,} infinite")
    return 0


def _record(store: Any) -> dict[str, Any]:
    from conceptlab.store.harvesting import bytes_of_values

    manifest, plan = store.manifest, store.plan
    counts = {"documents": plan.n_docs, "skipped": plan.n_skipped, "tokens": plan.n_tokens, "kept": plan.n_kept}
    state = {"shards": [len(store.shards), plan.n_shards], "complete": store.complete, "nonfinite": store.nonfinite()}
    beside = {
        "versions": dict(manifest.versions),
        "source": dict(manifest.source),
        "bytes": bytes_of_values(manifest, plan),
    }
    return {**manifest.key, **counts, **state, **beside}


def _ranges(layers: tuple[int, ...]) -> str:
    """`0-3, 7`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def run_verify(url: str, output: OutputOptions) -> int:
    """Print every fault; exit code 1 where there is one."""
    from conceptlab.runs import Progress
    from conceptlab.store.verifying import verify

    with Progress(quiet=output.quiet or output.json) as progress:
        verdict = verify(url, progress=progress)
    _print_verdict(url, verdict, output)
    return 0 if verdict.whole else 1


def _print_verdict(url: str, verdict: "Verdict", output: OutputOptions) -> None:
    from conceptlab.runs.estimate import size
    from conceptlab.store.verifying import summary

    if output.json:
        sys.stdout.write(json.dumps(summary(verdict)) + "\n")
        return
    for fault in verdict.faults[:SHOWN]:
        print(f"damaged: {one_line(fault)}")
    if len(verdict.faults) > SHOWN:
        print(f"and {len(verdict.faults) - SHOWN:,} more (--json lists all)")
    state = (
        "every byte is as it was written"
        if verdict.whole
        else f"{len(verdict.faults):,} faults; conceptlab store repair {url}"
    )
    print(f"{one_line(url)}: {verdict.n_files:,} files, {size(verdict.n_bytes)} read, {one_line(state)}")
    if verdict.unfinished:
        print(f"{len(verdict.unfinished):,} shards are not computed yet; the same harvest command goes on")


def run_repair(url: str, source: str | None, corpus: str | None, loading: ModelOptions, output: OutputOptions) -> int:
    """Verify, take away what is damaged, compute it again, verify again."""
    from conceptlab.runs import Progress
    from conceptlab.store.repairing import repair
    from conceptlab.store.verifying import verify

    with Progress(quiet=output.quiet or output.json) as progress:
        verdict = verify(url, progress=progress)
        if not verdict.whole:
            verdict = repair(
                url, verdict, lambda m: _model(m, source, loading), lambda m: _corpus(m, corpus), progress=progress
            )
    _print_verdict(url, verdict, output)
    return 0 if verdict.whole else 1


def _model(manifest: "Manifest", source: str | None, loading: ModelOptions) -> "Model":
    """The store's model, from where it was or `source`. Raises InputError for another one."""
    from conceptlab.cli.loading import open_model
    from conceptlab.store.harvesting import check_model

    found = source or manifest.source.get("model")
    if found is None:
        raise InputError("the store does not say where its model is; give --model")
    kinds: dict[str, Any] = {"dtype": loading.dtype or manifest.compute_dtype, "stack": loading.stack or manifest.stack}
    model = open_model(None if found == "embedded" else found, replace(loading, **kinds))
    model.name = manifest.model
    check_model(model, manifest)
    return model


def _corpus(manifest: "Manifest", corpus: str | None) -> "Corpus":
    """The store's corpus, from where it was or `corpus`."""
    from conceptlab.data.open_corpus import open_corpus

    made = manifest.source
    found = corpus or made.get("corpus")
    if found is None:
        raise InputError("the store does not say where its corpus is; give --corpus")
    return open_corpus(found, column=made.get("column", "text"), id_column=made.get("id_column"))


def run_export_store(url: str, to: Path, layout: "Layout", output: OutputOptions) -> int:
    """Write the store in another layout and say where."""
    from conceptlab.runs import Progress
    from conceptlab.store import Store
    from conceptlab.store.exporting import export

    with Progress(quiet=output.quiet or output.json) as progress:
        written = export(Store.open(url), to, layout, progress=progress)
    if output.json:
        sys.stdout.write(json.dumps({"written": [str(path) for path in written]}) + "\n")
    else:
        print(f"saved: {one_line(to)} ({len(written)} parts as {layout})")
    return 0
