"""What tests of recipes share: a recipe's quick form, run once and judged, and its findings by name."""

import math
from collections.abc import Callable

from conceptlab.catalog import recipes
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Reproduction


def quick_form(reproduce: Callable[[Setup], Reproduction], **options: object) -> Reproduction:
    """Run it: it is the row's, and no number stands without its bar and its control. (`benchmarks.speed` takes the time.)"""
    done = reproduce(Setup(quick=True, **options))  # type: ignore[arg-type]
    assert isinstance(done, Reproduction)
    assert recipes()[done.id].module == reproduce.__module__.rpartition(".")[2]
    assert done.findings
    assert not [problem for finding in done.findings if (problem := unsupported(finding, done.notes))]
    return done


def unsupported(finding: Finding, notes: tuple[str, ...]) -> str:
    """What a finding lacks: a bar, or a control where no note that names the finding says why there is none."""
    if not finding.bar.strip():
        return f"{finding.name}: no bar"
    excused = any(finding.name in note for note in notes)
    if (finding.control is None or math.isnan(finding.control)) and not excused:
        return f"{finding.name}: no control, and no note names it and says why"
    return ""


def by_name(done: Reproduction) -> dict[str, Finding]:
    """Every finding of a run by its name."""
    return {finding.name: finding for finding in done.findings}
