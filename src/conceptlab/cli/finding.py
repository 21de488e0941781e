"""`conceptlab find heads` and `find neurons`: which parts do it, by any of the detectors, in passes that they share."""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.cli.failing import one_line
from conceptlab.cli.loading import open_model
from conceptlab.cli.options import ModelOptions, OutputOptions
from conceptlab.cli.reproducing import check_folder
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.find.detector import Found
    from conceptlab.find.neurons.expert_neurons import Labelled
    from conceptlab.model import Model
    from conceptlab.results import Scores, Units
    from conceptlab.runs import Estimate, Progress

HOME = Path("conceptlab-findings")
RECORD = "found.json"
SHOWN = 5


def run_find(  # noqa: PLR0913 - one argument a group of options
    kind: str,
    source: str,
    detectors: str | None,
    out: Path | None,
    top: int,
    seed: int,
    loading: ModelOptions,
    output: OutputOptions,
    *,
    atlas: bool = False,
    data: Path | None = None,
) -> int:
    """Run detectors of heads or neurons on one model; names and data are checked before it is loaded.

    `atlas`: draw up the head atlas, too. `data`: labelled texts, whose concepts' expert neurons are ranked.
    """
    names = None if detectors is None else [name.strip() for name in detectors.split(",") if name.strip()]
    if not 1 <= top <= 1000:
        raise InputError(f"--top {str(top)[:30]} is out of range; use 1 to 1000")
    check_names(kind, names)
    labelled = _labelled(names, data)
    folder = out or HOME / f"{Path(source).name}-{kind}s"
    check_folder(folder)
    model = open_model(source, loading, seed=seed)
    found, made = _found(kind, model, names, seed, output, atlas=atlas, labelled=labelled)
    record = save_found(found, folder, kind, top, made)
    if output.json:
        sys.stdout.write(json.dumps({**record, "out": str(folder)}, allow_nan=False) + "\n")
        return 0
    _print(record, kind)
    if made is not None:
        _print_atlas(record["atlas"], record["skipped"])
        print(f"saved: {one_line(folder / 'atlas.png')} (the head atlas; its numbers in the folder atlas)")
    print(f"saved: {one_line(folder / RECORD)} (every ranking in a folder of its own, drawn as PNG)")
    return 0


def check_names(kind: str, names: list[str] | None) -> None:
    """Raises InputError for a detector that does not exist."""
    from conceptlab.find.detector import chosen

    chosen(_home(kind).DETECTORS, names)


def _home(kind: str) -> Any:
    """The module that knows the detectors of a kind."""
    return import_module(f"conceptlab.find.{kind}s.find_{kind}s")


def _found(  # noqa: PLR0913 - what is asked of whom
    kind: str, model: "Model", names: list[str] | None, seed: int, output: OutputOptions, *, atlas: bool,
    labelled: "Labelled | None",
) -> tuple["Found", "Scores | None"]:  # fmt: skip
    from conceptlab.runs import Progress, interruptible

    quiet = output.quiet or output.json

    with (
        interruptible("nothing was written; name fewer detectors with --detector"),
        Progress(quiet=quiet) as progress,
    ):
        if kind == "neuron":
            return _neurons(model, names, seed, labelled, progress, quiet=quiet), None
        from conceptlab.find.cost import estimate_heads
        from conceptlab.find.heads.find_heads import DETECTORS, find_heads
        from conceptlab.find.heads.head_atlas import head_atlas
        from conceptlab.find.heads.survey import HeadSurvey

        survey = HeadSurvey(model, seed=seed)
        if not quiet:  # the estimate costs a few forwards of its own
            _say(lambda: estimate_heads(survey, names or list(DETECTORS), atlas=atlas), progress)
        found = find_heads(model, names, survey=survey, progress=progress)
        return found, head_atlas(model, survey=survey, found=found, progress=progress) if atlas else None


def _neurons(  # noqa: PLR0913 - what is asked of whom
    model: "Model",
    names: list[str] | None,
    seed: int,
    labelled: "Labelled | None",
    progress: "Progress",
    *,
    quiet: bool,
) -> "Found":
    """Neurons by each detector and, where there are labels, by each concept."""
    from conceptlab.find.cost import estimate_neurons
    from conceptlab.find.neurons.find_neurons import DETECTORS, by_concept, find_neurons
    from conceptlab.find.neurons.survey import NeuronSurvey

    survey = NeuronSurvey(model, seed=seed, labelled=labelled)
    asked = names if labelled is None else by_concept(names, labelled)
    if not quiet:
        _say(lambda: estimate_neurons(survey, asked or list(DETECTORS)), progress)
    return find_neurons(model, asked, survey=survey, progress=progress)


def _say(estimate: "Callable[[], Estimate]", progress: "Progress") -> None:
    """The estimate as a line; where the model cannot be tried, the detectors say why."""
    from conceptlab.errors import ConceptlabError

    with suppress(ConceptlabError):
        progress.say(str(estimate()))


def _labelled(names: list[str] | None, data: Path | None) -> "Labelled | None":
    """The labelled texts of a file. Raises InputError where they are missing or nobody asks for them, DataError for a bad file."""
    if data is None:
        if names is not None and "expert" in names:
            raise InputError("the detector expert needs labelled texts; name their file with --data")
        return None
    if names is not None and "expert" not in names:
        raise InputError(f"--data is read by the detector expert alone; add it to --detector {','.join(names)}")
    from conceptlab.data import read_concepts
    from conceptlab.find.neurons.concept_experts import labelled_concepts

    found = labelled_concepts(read_concepts(data))
    if not found.names:
        raise InputError(f"{data}: every concept is graded; expert neurons are asked for classes, so label some")
    return found


def save_found(found: "Found", folder: Path, kind: str, top: int, atlas: "Scores | None" = None) -> dict[str, Any]:
    """Write every ranking and the atlas, if any, with their pictures and, last, found.json, which is also returned."""
    from conceptlab.catalog.saving import plain
    from conceptlab.plot import chart_of
    from conceptlab.results.saving import file_names, write_bytes

    places = file_names(found.units)
    record = plain(
        {
            "kind": kind,
            "detectors": {name: {**_best(units, top), "folder": places[name]} for name, units in found.units.items()},
            "skipped": dict(found.skipped),
            **({} if atlas is None else {"atlas": _atlas_record(atlas)}),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    found.save(folder)
    for name, units in found.units.items():
        chart = chart_of(units)
        if chart is not None:
            chart.save(folder / f"{places[name]}.png")
    if atlas is not None:
        atlas.save(folder / "atlas")
        chart = chart_of(atlas)
        if chart is not None:
            chart.save(folder / "atlas.png")
    write_bytes(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode())
    return record


def _best(units: "Units", top: int) -> dict[str, Any]:
    """How many were searched and found, and the best `top`."""
    import numpy as np

    table = units.table
    order = np.argsort(-table["score"].values, kind="stable")[:top]
    columns = ("score", "control", "p", "q")
    best = [
        {"unit": _name(units.kind, table, i), **{c: float(table[c].values[i]) for c in columns}} for i in order.tolist()
    ]
    return {"searched": int(table.sizes["unit"]), "found": int((table["q"].values <= 0.05).sum()), "best": best}


def _atlas_record(atlas: "Scores") -> dict[str, Any]:
    """By role its stage, the heads that have it, and those that ablation confirms; and what was not asked."""
    from conceptlab.find.heads.head_atlas import CONFIRMED, roles_of

    listed, confirmed = roles_of(atlas), roles_of(atlas, least=CONFIRMED)
    stages = dict(zip(atlas["role"].values.tolist(), atlas["stage"].values.tolist(), strict=True))
    roles = {role: {"stage": stages[role], "listed": listed[role], "confirmed": confirmed[role]} for role in listed}
    return {"roles": roles, "skipped": list(atlas.data.attrs["skipped"])}


def _print_atlas(record: Mapping[str, Any], skipped: Mapping[str, str]) -> None:
    from conceptlab.cli.tables import Column, print_table

    rows = [
        (role, said["stage"], _some(said["listed"]), _some(said["confirmed"])) for role, said in record["roles"].items()
    ]
    columns = [Column("role"), Column("stage"), Column("listed"), Column("confirmed by ablation")]
    print_table(
        "head atlas: listed where q <= 0.05 over all heads; confirmed where the role's task loses without the head",
        columns,
        rows,
    )
    for why in record["skipped"]:
        if why.partition(": ")[0] not in skipped:  # those were told
            print(f"not asked: {one_line(why)}")


def _some(heads: list[str]) -> str:
    return (
        ", ".join(heads[:SHOWN]) + (f" and {len(heads) - SHOWN} more" if len(heads) > SHOWN else "")
        if heads
        else "none"
    )


def _name(kind: str, table: Any, at: int) -> str:
    return f"L{int(table['layer'].values[at])}.{'H' if kind == 'head' else 'N'}{int(table['index'].values[at])}"


def _print(record: Mapping[str, Any], kind: str) -> None:
    from conceptlab.cli.tables import Column, print_table

    columns = [
        Column("detector"),
        Column(kind),
        *(Column(n, "right") for n in ("score", "control", "q")),
        Column("found"),
    ]
    rows = []
    for name, said in record["detectors"].items():
        for place, unit in enumerate(said["best"][:SHOWN]):
            first = (name, f"{said['found']} of {said['searched']}") if place == 0 else ("", "")
            values = (f"{unit[c]:.3f}" for c in ("score", "control", "q"))
            rows.append((first[0], unit["unit"], *values, first[1]))
    print_table(f"{kind}s by detector: the best {SHOWN} of each; found: q <= 0.05 over all {kind}s", columns, rows)
    for name, why in record["skipped"].items():
        print(f"skipped {name}: {one_line(why)}")
