"""`make bench` and its short form `python -m benchmarks.speed --quick`: one table, printed and written to docs/benchmarks.md."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits must not count as working

import argparse  # noqa: E402
import datetime  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Callable, Iterable, Iterator  # noqa: E402
from functools import partial  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402

from ..viewer.rows import viewer_rows  # noqa: E402
from .atlas_cost import atlas_rows  # noqa: E402
from .edges import edge_rows  # noqa: E402
from .engine import fixed_cost_rows, forward_rows, steering_row  # noqa: E402
from .harvests import harvest_rows  # noqa: E402
from .models import SIZES, make_subject  # noqa: E402
from .neurons import gradient_rows, neuron_rows  # noqa: E402
from .peers import patching_peer_rows, peer_rows  # noqa: E402
from .probes import probe_rows  # noqa: E402
from .quick_forms import quick_form_rows  # noqa: E402
from .retrieval import retrieval_rows  # noqa: E402
from .starting import loading_rows, starting_rows  # noqa: E402
from .sweep_growth import growth_rows  # noqa: E402
from .sweeps import skipping_rows, sweep_rows  # noqa: E402
from .table import Row, markdown, merged, plain  # noqa: E402

DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
CALM = 1.5  # load average up to which timings of a 2-core machine are its own
HEAD = """# Benchmarks

{date}, a {cores}-core CPU, torch {torch}, transformers {transformers}, float32, random weights from configs. {load}

Each ratio is the median over interleaved pairs: the bare Hugging Face forward of the same batch runs right before and right after
ours. `CPU` is the main thread's CPU time with `OMP_WAIT_POLICY=PASSIVE`, with a 95 % bootstrap interval of the median; `wall` is
the same ratio by the clock on the wall, which other processes disturb more. 'at the median' and 'not resolved': the interval
holds the target, and the median is within it or not.
Made by `make bench` in {minutes:.0f} minutes.
"""
OURS = {
    "forward": "wrapped forward, all logits",
    "stream": "stream of all layers, last token, no logits",
    "everything": "everything, all tokens",
    "steer": "64 tokens, one steering vector",
}


def quick_rows() -> list[Row]:
    """Every part once on tiny models: that it runs, not how fast it is."""
    subject = make_subject("gpt2", 2, 8, tiny=True, n_layers=2)
    rows = forward_rows(subject, n=2, limit=1.0)
    rows.append(steering_row(subject, new_tokens=4, n=2, limit=1.0))
    rows += fixed_cost_rows(n=5)
    rows += atlas_rows(n_texts=60, n_tokens=8, tiny=True)
    rows += sweep_rows("llama", tiny=True, n_pos=8, limit=1.0)
    rows += edge_rows(tiny=True, n_pos=8, limit=1.0)
    rows += retrieval_rows(subject, n_prompt=16, new_tokens=4, n=2, limit=1.0)
    rows += [*neuron_rows(tiny=True, limit=1.0), *gradient_rows(tiny=True, n_pos=8, limit=1.0)]
    rows += harvest_rows(tiny=True)
    rows += quick_form_rows(["code-language-neurons"])
    return rows + starting_rows(runs=1)


def engine_rows(kind: str) -> list[Row]:
    """One size: forwards, captures, generation."""
    subject = make_subject(kind, 8, 128)
    return [*forward_rows(subject, n=7, limit=20.0), steering_row(subject, new_tokens=64, n=5, limit=20.0)]


def parts(*, peers: bool) -> dict[str, Callable[[], Iterable[Row]]]:
    """Every part by name, in the order in which they run."""
    found: dict[str, Callable[[], Iterable[Row]]] = {kind: lambda k=kind: engine_rows(k) for kind in SIZES}
    found |= {
        "fixed cost": lambda: fixed_cost_rows(n=100),
        "starting": starting_rows,
        "loading": lambda: [row for kind in SIZES for row in loading_rows(kind)],
        "probes": probe_rows,
        "atlas": lambda: atlas_rows(n_texts=4000),
        "sweeps": lambda: [row for kind in SIZES for row in (*sweep_rows(kind), *skipping_rows(kind))],
        "long": lambda: [row for kind in SIZES for row in sweep_rows(kind, n_pos=256, limit=120.0)[:1]],
        "edges": edge_rows,
        "growth": growth_rows,
        "retrieval": lambda: [row for kind in SIZES for row in retrieval_rows(make_subject(kind, 1, 8))],
        "neurons": neuron_rows,
        "neuron gradients": gradient_rows,
        "harvest": harvest_rows,
        "quick forms": quick_form_rows,
        "viewer": viewer_rows,
    }
    return found | ({"peers": lambda: peer_rows({}), "patching peers": patching_peer_rows} if peers else {})


def measured(say: Callable[[str], None], failed: list[str], *, only: list[str], peers: bool) -> Iterator[list[Row]]:
    """All rows so far after each part (or those of these names); one that fails is said and put into `failed`."""
    rows: list[Row] = []
    for name, part in parts(peers=peers).items():
        if only and name not in only:
            continue
        start = time.perf_counter()
        try:
            rows += peer_rows(our_cells(rows)) if name == "peers" else part()
            say(f"{name}: {time.perf_counter() - start:.0f} s")
        except Exception:  # noqa: BLE001 - an hour of measurements must not be lost with one of them
            failed.append(name)
            say(f"{name} failed:\n{traceback.format_exc()}")
        yield rows


def our_cells(rows: list[Row]) -> dict[str, str]:
    """Our own figures on the work that the peers do."""
    mine = [r for r in rows if r.group.startswith("gpt2")]
    return {work: next((r.value for r in mine if r.what == what), "") for work, what in OURS.items()}


def head(start: float, load: float) -> str:
    """What was measured on, when, and whether anything else ran."""
    calm = (
        "Nothing else ran."
        if load <= CALM
        else f"Other processes ran (load {load:.1f} at the start): wall is unreliable."
    )
    return HEAD.format(
        date=datetime.date.today().isoformat(), cores=os.cpu_count(), torch=version("torch"),
        transformers=version("transformers"), load=calm, minutes=(time.perf_counter() - start) / 60,
    )  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    options = argparse.ArgumentParser(prog="benchmarks.speed", description=__doc__)
    options.add_argument("--quick", action="store_true", help="tiny models, seconds; nothing is written")
    options.add_argument("--no-peers", action="store_true", help="leave the other tools out")
    options.add_argument(
        "--only", nargs="*", default=[], help="measure these parts and leave the others' sections as they are"
    )
    options.add_argument("--out", type=Path, default=DOCS, help="where the table is written")
    chosen = options.parse_args()
    start, load = time.perf_counter(), os.getloadavg()[0]
    if chosen.quick:
        print(plain(quick_rows()))
        return
    unknown = set(chosen.only) - set(parts(peers=True))
    if unknown:
        options.error(f"no part is called {', '.join(unknown)}; the parts are {', '.join(parts(peers=True))}")
    when = f"{datetime.date.today().isoformat()}, load {load:.1f} at the start"
    old = chosen.out.read_text(encoding="utf-8") if chosen.out.exists() else ""
    rows: list[Row] = []
    failed: list[str] = []
    say = partial(print, file=sys.stderr, flush=True)
    for rows in measured(say, failed, only=chosen.only, peers=not chosen.no_peers):
        if old:
            chosen.out.write_text(merged(old, rows, when), encoding="utf-8")
    print(plain(rows))
    if not (old and (chosen.only or failed)):
        chosen.out.write_text(head(start, load) + markdown(rows), encoding="utf-8")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}; the other sections are written, those are as they were")


if __name__ == "__main__":
    main()
