"""`conceptlab explain`: which few edges explain a behaviour, and how sure we are, from a file of clean and corrupted texts."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.cli.failing import one_line
from conceptlab.cli.loading import open_model
from conceptlab.cli.options import ModelOptions, OutputOptions
from conceptlab.cli.reproducing import check_folder
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.find.circuits.explain import Explanation
    from conceptlab.model import Model

HOME = Path("conceptlab-explanations")
RECORD = "explanation.json"
MOST_EDGES = 100_000


def run_explain(  # noqa: PLR0913 - one argument a group of options
    source: str,
    pairs: Path,
    out: Path | None,
    n_exact: int,
    seed: int,
    loading: ModelOptions,
    output: OutputOptions,
) -> int:
    """Explain one file of pairs in one model; what is wrong with the input is said before the model is loaded."""
    from conceptlab.data.answer_pairs import read_answer_pairs

    if not 1 <= n_exact <= MOST_EDGES:
        raise InputError(f"--n-exact {str(n_exact)[:30]} is out of range; use 1 to {MOST_EDGES}")
    task = read_answer_pairs(pairs)
    folder = out or HOME / f"{Path(source).name}-{task.name}"
    check_folder(folder)
    model = open_model(source, loading, seed=seed)
    answer = _explained(model, task, n_exact, seed, output)
    record = save_explanation(answer, folder)
    if output.json:
        sys.stdout.write(json.dumps({**record, "out": str(folder)}, allow_nan=False) + "\n")
    else:
        for line in str(answer).splitlines():
            print("  " * line.startswith("  ") + one_line(line))
        drawn = " (drawn: circuit.html, circuit.png)" if len(answer.circuit) else ""
        print(f"saved: {one_line(folder / RECORD)}{drawn}")
    return 0


def _explained(model: "Model", task: Any, n_exact: int, seed: int, output: OutputOptions) -> "Explanation":
    from conceptlab.find.circuits.explain import explain_behaviour
    from conceptlab.model.answers import first_token_pairs
    from conceptlab.model.metric import logit_diff
    from conceptlab.runs import Progress, interruptible

    metric = logit_diff(*first_token_pairs(model, task.clean, task.answer, task.distractor))
    with (
        interruptible("nothing was written; a smaller --n-exact takes less time"),
        Progress(quiet=output.quiet or output.json) as progress,
    ):
        if not (output.quiet or output.json):  # the estimate costs a forward of its own
            progress.say(estimate(model, task.clean, n_exact))
        return explain_behaviour(
            model, task.clean, task.corrupted, metric, n_exact=n_exact, seed=seed, progress=progress
        )


def estimate(model: "Model", texts: Sequence[str], n_exact: int) -> str:
    """One line before the run: how much is patched exactly, and at most how long that takes on this machine."""
    from conceptlab.find.circuits.chosen_edges import RUNS_AN_EDGE
    from conceptlab.runs.estimate import duration

    start = time.perf_counter()
    model.logits(texts)
    seconds = (time.perf_counter() - start) * n_exact * RUNS_AN_EDGE / 2  # half of the blocks lie above an edge
    return (
        f"{len(texts)} pairs in {model.name}, up to {n_exact} edges patched exactly: at most about {duration(seconds)}"
    )


def save_explanation(answer: "Explanation", folder: Path) -> dict[str, Any]:
    """Write circuit/, circuit.html, circuit.png (where edges were found) and, last, explanation.json, which is also returned."""
    from conceptlab.catalog.saving import plain
    from conceptlab.pages.render import save_chart_page
    from conceptlab.plot import chart_of
    from conceptlab.results.saving import write_bytes

    record = plain(answer.to_record())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    answer.circuit.save(folder / "circuit")
    chart = chart_of(answer.circuit)
    if len(answer.circuit) and chart is not None:
        chart.save(folder / "circuit.png")
        save_chart_page(chart, folder / "circuit.html")
    write_bytes(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode())
    return record
