"""Fourth part of the gallery: the head atlas of small real models, and how far the detectors agree with ablation.

    python -m benchmarks.gallery_heads

Models are found in ../shared; what is absent is skipped. Pictures and docs/gallery/heads/README.md are written.
"""

import os
import platform
from pathlib import Path
from time import process_time

import numpy as np
import torch

from benchmarks.gallery_data import SHARED
from conceptlab.errors import InputError
from conceptlab.find.heads.head_atlas import CANDIDATE, CONFIRMED, head_atlas, roles_of
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.measure.effects.detector_agreement import detector_agreement
from conceptlab.model import Model, load_model
from conceptlab.plot import chart_of
from conceptlab.plot.export import save_chart
from conceptlab.results import Scores

DOCS = Path(__file__).resolve().parents[1] / "docs" / "gallery" / "heads"
MODELS = ("stories260k", "tinystories-656k", "babyllama-char105", "shakespeare-char-gpt2", "nano-sort-gpt2")
SHOWN = 6
HEAD = """# The head atlas of small real models

Made by `python -m benchmarks.gallery_heads` ({seconds:.0f} s of CPU on one core of {cores}, {machine}). Every detector asks every
head; a head is listed for a role at q ≤ 0.05 over all heads beside the detector's own null, and confirmed where the role's own task
loses by its absence. The models are tiny and tell stories for children (one speaks like Shakespeare, one sorts): few of them do the
tasks that roles are for, and then nothing can be confirmed, which the table says.

| model | role | heads listed | confirmed | agreement with ablation: area under the curve, beside shuffled heads |
|---|---|---|---|---|
{table}

What could not be asked:

{skipped}
"""


def row(role: str, atlas: Scores, agreed: Scores | None) -> str:
    """One line of the table, without the model's name."""
    listed, sure = (roles_of(atlas, least=least) for least in (CANDIDATE, CONFIRMED))
    heads, confirmed = listed.get(role, []), sure.get(role, [])
    more = f" and {len(heads) - SHOWN} more" if len(heads) > SHOWN else ""
    area = "its task is not done here, so there is nothing to agree with"
    if agreed is not None and role in agreed["role"].values.tolist():
        at = agreed.data.sel(role=role)
        area = f"{float(at['score']):.2f}, beside {float(at['control']):.2f} (p = {float(at['p']):.2f})"
        if not np.isfinite(float(at["score"])):
            area = f"ablation finds {int(at['needed'])} heads of {int(at['searched'])}: no curve"
    return f"{role} | {', '.join(heads[:SHOWN]) + more or 'none'} | {', '.join(confirmed) or 'none'} | {area}"


def drawn(model: Model) -> tuple[list[str], str]:
    """Lines of one model, and what was not asked."""
    atlas = head_atlas(model, survey=HeadSurvey(model))
    try:
        agreed = detector_agreement(atlas)
    except InputError:
        agreed = None
    chart = chart_of(atlas)
    if chart is not None:
        save_chart(chart, DOCS / f"{model.name}.png")
    roles = [str(name) for name in atlas.data["role"].values]
    skipped = "; ".join(map(str, atlas.data.attrs.get("skipped", ())))
    return [
        f"| {model.name} | {row(role, atlas, agreed)} |" for role in roles
    ], f"* **{model.name}**: {skipped or 'nothing'}"


def main() -> None:
    """Draw all models and write the page."""
    torch.set_num_threads(1)
    DOCS.mkdir(parents=True, exist_ok=True)
    lines, told, pictures, start = [], [], [], process_time()
    for name in MODELS:
        folder = SHARED / "models" / name
        if not folder.exists():
            print(f"{name} is not in {folder.parent}: skipped")
            continue
        try:
            rows, said = drawn(load_model(str(folder)))
        except InputError as error:
            told.append(f"* **{name}**: {error}")
            continue
        lines, told = [*lines, *rows], [*told, said]
        pictures.append(f"![the head atlas of {name}]({name}.png)")
        print(f"{name}: {len(rows)} roles asked")
    page = HEAD.format(
        seconds=process_time() - start, cores=os.cpu_count(), machine=platform.machine(), table="\n".join(lines),
        skipped="\n".join(told),
    )  # fmt: skip
    (DOCS / "README.md").write_text(page + "\n" + "\n\n".join(pictures) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
