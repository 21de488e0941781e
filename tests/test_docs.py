"""What the documents say is so: the README's Python runs, generated pages are fresh, links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys) -> None:
    import conceptlab.worlds.default as world
    from conceptlab.data import ConceptSet

    whole = world.default_concepts()
    monkeypatch.setattr(
        world, "default_concepts", lambda: ConceptSet("two", whole.concepts[:2])
    )  # the same lines, sooner
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 4
    space: dict[str, object] = {"__name__": "readme"}
    exec(compile(blocks[0], "README.md", "exec"), space)
    assert capsys.readouterr().out.strip().splitlines()[-1] == "True"
    exec(compile(blocks[1], "README.md", "exec"), space)
    said = capsys.readouterr().out
    assert "1.43 -0.43" in said
    assert "sweep: 3 edits x 64 rows" in said
    exec(compile(blocks[2], "README.md", "exec"), space)
    assert [str(head) for head in space["heads"]] == ["L2.H0.z"]  # type: ignore[attr-defined]  # the name mover copies
    exec(compile(blocks[3], "README.md", "exec"), space)
    assert space["store"].complete and len(space["part"]) == len(space["store"])  # type: ignore[attr-defined]


def test_generated_pages_are_fresh() -> None:
    call = [sys.executable, str(ROOT / "docs" / "build.py"), "--check"]
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing
