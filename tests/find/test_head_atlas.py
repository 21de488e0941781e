"""The head atlas: planted roles are listed, those the model uses are confirmed, look-alikes are not, random heads have none."""

import numpy as np
import pytest

from conceptlab.errors import InputError
from conceptlab.find.detector import Found
from conceptlab.find.heads.find_heads import find_heads
from conceptlab.find.heads.head_atlas import CONFIRMED, STAGES, head_atlas, roles_of
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.measure.effects.detector_agreement import detector_agreement
from conceptlab.measure.effects.head_losses import head_losses
from conceptlab.measure.effects.task_ability import task_ability
from conceptlab.model import load_model
from conceptlab.results import Scores
from conceptlab.worlds.head_roles import head_roles, names_of
from conceptlab.worlds.induction import induction


def drawn(*, seed=31, null=False, **options):
    world = head_roles(seed=seed, null=null)
    survey = HeadSurvey(load_model(world.model, tokenizer=world.tokenizer), seed=seed, n_rows=16, names=names_of(world))
    return world, survey, head_atlas(survey.model, survey=survey, **options)


@pytest.fixture(scope="module")
def made():
    return drawn()


def by_head(roles):
    found = {}
    for role, heads in roles.items():
        for head in heads:
            found.setdefault(head, set()).add(role)
    return found


def test_roles_are_listed_and_used_ones_confirmed(made):
    world, _, atlas = made
    written = by_head(roles_of(atlas))
    assert {h: written.get(h, set()) for h in world.truth["roles"]} == {
        h: set(r) for h, r in world.truth["roles"].items()
    }
    asked = {role for role, task in zip(atlas["role"].values, atlas["task_of"].values, strict=True) if task}
    wanted = {h: set(roles) & asked for h, roles in world.truth["used"].items()}
    assert by_head(roles_of(atlas, least=CONFIRMED)) == wanted
    assert list(atlas.data.attrs["skipped"]) == [] and set(atlas["stage"].values.tolist()) <= set(STAGES)


def test_each_task_is_lost_where_a_plain_ablation_says_so(made):
    _, survey, atlas = made
    task = survey.naming_task()
    plain = head_losses(survey.model, task.batch, task.metric, seed=survey.seed)
    assert np.allclose(atlas["loss"].sel(task=task.name).values, plain["score"].values, atol=1e-5)
    held = atlas["loss"].sel(task="the right name is held back").values
    assert np.allclose(held, -plain["score"].values, atol=1e-3)
    assert atlas.data.sizes["task"] == 5  # nine roles, five distinct tasks


@pytest.mark.parametrize("seed", [31, 32, 33])
def test_a_twin_of_random_heads_has_no_confirmed_role(seed):
    _, _, atlas = drawn(seed=seed, null=True)
    labels = atlas["label"].values
    assert not (labels >= CONFIRMED).any() and (labels > 0).mean() <= 0.05
    said = " ".join(atlas.data.attrs["skipped"])
    assert "s-inhibition: no head of" in said and "retrieval: none of 16 prompts" in said


def test_a_role_whose_task_cannot_be_asked_stays_a_candidate():
    world = induction()
    atlas = head_atlas(
        load_model(world.model, tokenizer=world.tokenizer), ["duplicate-token", "previous-token", "name-mover"]
    )
    assert roles_of(atlas) == {"previous-token": ["L0.H0", "L0.H1"], "duplicate-token": ["L0.H2"]}
    assert roles_of(atlas, least=CONFIRMED) == {
        "previous-token": ["L0.H0"],
        "duplicate-token": [],
    }  # L0.H1 is the decoy
    said = list(atlas.data.attrs["skipped"])
    assert said[0].startswith("name-mover: 0 of 58") and said[1].startswith("the task of duplicate-token: 0 of 58")


def test_it_saves_and_draws(made, tmp_path):
    from conceptlab.plot import chart_of

    _, _, atlas = made
    atlas.save(tmp_path / "atlas")
    back = Scores.load(tmp_path / "atlas")
    assert roles_of(back) == roles_of(atlas) and back.provenance.causal == "ablation"
    chart = chart_of(back)
    panels = list(dict.fromkeys(row["panel"] for row in chart.rows))
    assert len(panels) == 14 and panels[0] == "previous-token · identification" and panels[-1].startswith("lost: ")
    outlined = {row["unit"] for row in chart.rows if row["panel"].startswith("induction") and row["label"] >= 1}
    assert (
        outlined == {"L1.H0", "L1.H3"}
        and "10 of 18 heads have a role" in chart.says
        and "for 7 the role's task" in chart.says
    )
    assert chart.save(tmp_path / "atlas.png").stat().st_size > 10_000


def test_rankings_made_before_are_not_made_again(made):
    _, survey, _ = made
    found = find_heads(survey.model, ["induction"], survey=survey)
    before = survey.model.forwards
    again = head_atlas(survey.model, survey=survey, found=found, ablate=False)
    assert survey.model.forwards == before and roles_of(again) == {"induction": ["L1.H0", "L1.H3"]}
    assert again.provenance.causal == "none"
    with pytest.raises(InputError, match="no role of heads could be asked of .*: x: because"):
        head_atlas(survey.model, survey=survey, found=Found({}, {"x": "because"}))


def test_agreement_with_ablation_is_told_by_role(made):
    _, survey, atlas = made
    table = detector_agreement(atlas, seed=1)
    successor = table.data.sel(role="successor")
    assert float(successor["score"]) >= 0.9 and float(successor["control"]) == pytest.approx(0.5, abs=0.05)
    assert [int(successor[c]) for c in ("searched", "listed", "needed", "both")] == [18, 2, 1, 1]
    assert "copying" not in table["role"].values  # no task says what it is for
    with pytest.raises(InputError, match="holds no task of a role"):
        detector_agreement(head_atlas(survey.model, ["induction"], survey=survey, ablate=False))


def test_agreement_is_not_found_where_scores_are_dealt_out_again(made):
    _, _, atlas = made
    rng, ps = np.random.default_rng(5), []
    for _ in range(20):
        data = atlas.data.copy(deep=True)
        order = rng.permutation(18)
        data["score"] = (data["score"].dims, data["score"].values.reshape(9, 18)[:, order].reshape(9, 3, 6))
        ps.append(detector_agreement(Scores(data, atlas.provenance), n_shuffles=199)["p"].values)
    ps = np.concatenate(ps)
    assert np.mean(ps[np.isfinite(ps)] <= 0.05) <= 0.12


def test_what_a_model_cannot_do_no_head_is_needed_for():
    _, survey, atlas = drawn(seed=34, null=True)
    assert atlas.data.sizes["task"] == 0 and atlas.provenance.causal == "none"
    assert any("does not do it (a repeated word is foreseen)" in said for said in atlas.data.attrs["skipped"])
    task = survey.repetition()
    assert not task_ability(survey.model, task.batch, task.metric, seed=34).there


def test_ability_is_the_metric_over_other_rows_answers(made):
    _, survey, _ = made
    task = survey.naming_task()
    able = task_ability(survey.model, task.batch, task.metric)
    assert able.there and able.own > 5 and abs(able.other) < 1
    held = survey.holding_back()
    assert task_ability(survey.model, held.batch, held.metric, against=True).there
    assert not task_ability(survey.model, held.batch, held.metric).there
    whole = survey.repetition()  # reads the whole vocabulary
    able = task_ability(survey.model, whole.batch, whole.metric)
    assert able.there and able.own > -0.01 and able.other < -5
