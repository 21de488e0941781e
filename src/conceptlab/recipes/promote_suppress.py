"""promote-suppress: a model that lists answers promotes all of them and suppresses those it has said (Yan and Jia 2025)."""

import numpy as np

from conceptlab.data.questions import Question, read_questions
from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.lenses.listing import STEPS, list_answers, told
from conceptlab.measure.lenses.listing_step import StepReading, read_step
from conceptlab.model import Model, load_model
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction
from conceptlab.worlds.one_to_many import ANSWERS, one_to_many
from conceptlab.worlds.planted import PlantedWorld

RECIPE = {
    "id": "promote-suppress",
    "claim": "Asked for several answers, a model first promotes all of them, with what attention brings from the subject, and "
    "then pushes down those it has already said, with what attention brings from them; MLPs amplify both.",
    "number": "share of steps at which an answer is said again without attention to the answers so far, and what Token Lens reads",
    "control": "the same for equally many random tokens",
    "world": "one-to-many: a subject with three answers, a head that suppresses those already said",
    "model": "a causal language model that attends through transformers' interface; without --data it lists cities of countries",
    "data": "CSV, JSONL or Parquet with the columns prompt, subject (a piece of the prompt), answers (three or more)",
    "methods": ["measure/lenses/token_lens", "measure/lenses/mlp_response", "measure/lenses/listing"],
}
ENOUGH = 4  # complete lists below which answers are taken from the data
CLEAN, KNOCKED, RANDOM, ON_TOP = 0.02, 0.40, 0.05, 0.95


def reproduce(setup: Setup) -> Reproduction:
    """List three answers a question, and read steps two and three. Raises InputError for --data without --model."""
    if setup.model is not None:
        questions = read_questions(setup.data) if setup.data is not None else default_questions()
        return measured(setup.model, questions, after=",", quick=setup.quick, seed=setup.seed)
    if setup.data is not None:
        raise InputError("promote-suppress --data needs --model: the planted world knows its own cities only")
    return on_world(one_to_many(n_prompts=24, seed=setup.seed), quick=setup.quick, seed=setup.seed)


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a one-to-many world (or its null twin)."""
    questions = [Question(r["prompt"], r["subject"], tuple(r["answers"])) for r in world.truth["rows"]]
    return measured(load_model(world.model, tokenizer=world.tokenizer), questions, after=" ,", quick=quick, seed=seed)


def default_questions() -> list[Question]:
    """Cities of eight countries, in words that a language model knows."""
    forms = ("The three largest cities in {} are:", "Here are three cities you can visit in {}:")
    return [Question(form.format(place), place, cities) for form in forms for place, cities in ANSWERS.items()]


def measured(model: Model, questions: list[Question], *, after: str, quick: bool, seed: int) -> Reproduction:
    """The findings on any model and questions; `after` is written behind each answer."""
    before = model.forwards
    listing = list_answers(model, questions, after=after)
    share, notes = len(listing.complete) / len(questions), []
    if len(listing.complete) < ENOUGH:
        notes.append(f"the model lists three right answers for {len(listing.complete)} of {len(questions)} questions; "
                     "the answers so far were taken from the data")  # fmt: skip
        listing = told(model, questions, after=after)
    steps = {k: step for k, step in listing.steps.items() if k > 1}
    readings = {
        k: read_step(model, s, [questions[r].subject for r in s.rows], n_random=2 if quick else 10, seed=seed + k)
        for k, s in steps.items()
    }
    chance = np.concatenate(
        [
            [len(said) / len(questions[r].answers) for r, said in zip(s.rows, s.said, strict=True)]
            for s in steps.values()
        ]
    )
    results = {f"{what} at step {k}": getattr(r, what) for k, r in readings.items() for what in ("token", "response")}
    provenance = Provenance(
        "promote-suppress", len(questions), seed, model.name, model.revision, causal="ablation",
        settings={"quick": quick, "steps": STEPS, "complete": share}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Reproduction(
        "promote-suppress", _findings(list(readings.values()), chance, seed), provenance, 0.0, tuple(notes), results
    )


def _findings(readings: list[StepReading], chance: np.ndarray, seed: int) -> tuple[Finding, ...]:
    """All steps together; intervals over subjects."""
    groups = row_groups(np.concatenate([r.groups for r in readings]), sum(len(r.groups) for r in readings))

    def of(name: str) -> tuple[float, float, float]:
        values = np.concatenate([getattr(r, name) for r in readings]).astype(float)
        share = name.startswith(("top", "repeats"))
        low, high = bootstrap_share(values, groups, seed=seed) if share else bootstrap_mean(values, groups, seed=seed)
        return float(values.mean()), float(low), float(high)

    def control(name: str) -> float:
        return float(np.mean([getattr(r, name) for r in readings]))

    def finding(name: str, what: str, beside: float, bar: str, holds: bool, unit: str = "share") -> Finding:
        value, low, high = of(what)
        return Finding(name, value, beside, bar, holds, unit, low, high)

    top, knocked, random, pushed = (of(n) for n in ("top", "repeats_knocked", "repeats_random", "pushed"))
    elsewhere, left, said = of("pushed_random")[0], of("mlp_left"), of("mlp_said")
    left_control, said_control = control("mlp_left_random"), control("mlp_said_random")
    return (
        finding("Token Lens of the subject: its three likeliest tokens are answers", "top", of("top_random")[0],
                f"at least {ON_TOP:.0%}", top[0] >= ON_TOP),
        finding("Token Lens of the answers so far: what they do to themselves", "pushed", elsewhere,
                "interval below 0 and below random tokens", pushed[2] < min(0.0, elsewhere), "logits"),
        finding("says an answer again, as it is", "repeats", float(chance.mean()), f"at most {CLEAN:.0%} (control: any answer)",
                of("repeats")[0] <= CLEAN),
        finding("says an answer again, without attention to the answers so far", "repeats_knocked", random[0],
                f"at least {KNOCKED:.0%}, random tokens at most {RANDOM:.0%}", knocked[0] >= KNOCKED and random[0] <= RANDOM),
        finding("MLPs promote the answers left because of the subject", "mlp_left", left_control,
                "interval above 0 and above random tokens", left[1] > max(0.0, left_control), "logits"),
        finding("MLPs push the answers so far down because of their tokens", "mlp_said", said_control,
                "interval below 0 and below random tokens", said[2] < min(0.0, said_control), "logits"),
    )  # fmt: skip
