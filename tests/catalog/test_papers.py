"""The catalogue: 150 rows, each in our own words, and a state that follows from what is there."""

import re
from collections import Counter
from pathlib import Path

import pytest

from catalog.tiny_recipe import ID, put, recipe_folder
from conceptlab.catalog import methods, paper, papers, recipes
from conceptlab.catalog.literals import PACKAGE
from conceptlab.errors import InputError

__all__ = ["recipe_folder"]
SOURCE = Path(__file__).resolve().parents[2] / ".." / "shared" / "papers.tsv"
RUN = 6  # words in a row that count as copied


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + RUN]) for i in range(len(found) - RUN + 1)}


def source_rows() -> list[dict[str, str]]:
    if not SOURCE.exists():
        pytest.skip("no list of papers beside the checkout")
    head, *lines = SOURCE.read_text(encoding="utf-8").splitlines()
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


def test_there_are_150_rows_of_one_sentence_each() -> None:
    rows = papers()
    assert len(rows) == len({row.id for row in rows}) == 150
    for row in rows:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.id)
        assert 15 <= len(row.claim.split()) <= 40, row.id
        assert row.claim.endswith("."), row.id
        assert ". " not in row.claim, row.id
        assert row.code == "" or row.code.startswith("https://"), row.id
        assert all((row.title, row.family, row.kind, row.modality)), row.id
    assert len({row.claim for row in rows}) == 150


def test_the_rows_are_those_of_the_list_beside_the_checkout() -> None:
    ours = {row.id: row for row in papers()}
    theirs = source_rows()
    assert [row["id"] for row in theirs] == list(ours)
    for row in theirs:
        ours_now = ours[row["id"]]
        assert (ours_now.family, ours_now.kind, ours_now.modality) == (row["family"], row["kind"], row["modality"])
        assert ours_now.code == ("" if row["code"] == "-" else row["code"])


def test_no_run_of_words_is_copied(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = {
        run: row["id"]
        for row in source_rows()
        for column in ("what_it_does", "headline", "small_check")
        for run in runs(row[column])
    }
    said = {row.id: row.claim for row in papers()}
    said |= {f"recipe {r.id}": f"{r.claim} | {r.number} | {r.control} | {r.world}" for r in recipes().values()}
    copied = {where: [" ".join(r) for r in runs(text) if r in theirs] for where, text in said.items()}
    with capsys.disabled():
        print(f"\ncatalogue: {len(said)} texts of ours against {len(theirs)} runs of {RUN} words")
    assert not {where: found for where, found in copied.items() if found}


def test_the_search_for_copies_sees_one() -> None:
    row = source_rows()[0]
    assert runs("We say: " + row["headline"]) & runs(row["headline"])


def test_a_state_follows_from_what_is_there(recipe_folder: Path) -> None:
    assert paper(ID).state == "planned"
    assert paper(ID).recipe is None
    assert paper("concept-depth").state == "method"
    put(recipe_folder)
    assert paper(ID).state == "works"
    assert paper(ID).to_record()["run"] == f"conceptlab reproduce {ID}"
    assert Counter(row.state for row in papers()) == {"works": 1, "method": 1, "planned": 148}
    assert [row.id for row in papers(state="works")] == [ID]
    assert {row.family for row in papers(family="circuits")} == {"circuits"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("soft-thinkin", "did you mean soft-thinking"),
        ("concept_depth", "did you mean concept-depth"),
        ("retrieval", "did you mean retrieval-heads"),
        ("zzzzzzzz", "conceptlab papers lists all ids"),
        ("", "conceptlab papers lists all ids"),
        ("x" * 10_000, "conceptlab papers lists all ids"),
    ],
)
def test_an_unknown_id_names_those_near_it(given: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        paper(given)
    assert len(str(caught.value)) < 300


def test_an_unknown_family_or_state_names_those_there_are() -> None:
    with pytest.raises(InputError, match="did you mean circuits"):
        papers(family="circuit")
    with pytest.raises(InputError, match="one of: alignment"):
        papers(family="zzzz")
    with pytest.raises(InputError, match="one of: works, method, planned"):
        papers(state="done")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('RECIPE = {"id": "lcm-future"}', "RECIPE lacks claim, number"),
        ("RECIPE = {'id': print()}", "write it as a literal dictionary"),
        ("RECIPE = {", "write it as a literal dictionary"),
    ],
)
def test_a_damaged_recipe_is_named(recipe_folder: Path, text: str, said: str) -> None:
    (recipe_folder / "lcm_future.py").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        papers()
    assert "lcm_future.py" in str(caught.value)


def test_a_recipe_in_a_file_of_another_name_is_refused(recipe_folder: Path) -> None:
    put(recipe_folder)
    (recipe_folder / "lcm_future.py").rename(recipe_folder / "other.py")
    with pytest.raises(InputError, match=r"name the file lcm_future.py"):
        recipes()


def test_every_recipe_belongs_to_a_row_and_names_methods_that_exist() -> None:
    ids = {row.id for row in papers()}
    built = recipes()
    assert set(built) <= ids
    for recipe in built.values():
        missing = [m for m in recipe.methods if not (PACKAGE / f"{m}.py").exists()]
        assert recipe.methods, recipe.id
        assert not missing, (recipe.id, missing)


def test_every_card_is_found_with_its_keys() -> None:
    cards = dict(methods())
    assert "measure/probing/layer_probe.py" in cards
    for file, card in cards.items():
        assert {"name", "paper", "tags", "takes", "returns", "cost"} <= set(card), file
