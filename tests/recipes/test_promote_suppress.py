"""promote-suppress: holds on the planted world, on a user's file and model, and on nothing where nothing is planted."""

import json

import pytest

from conceptlab.data.questions import read_questions
from conceptlab.errors import DataError, InputError
from conceptlab.measure.lenses.listing import list_answers
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.promote_suppress import default_questions, measured, on_world, reproduce
from conceptlab.worlds.one_to_many import ANSWERS, WORDS, one_to_many
from conceptlab.worlds.word_tokenizer import SPECIALS
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce)
    assert done.holds and all(f.holds for f in done.findings) and not done.notes
    found = {f.name: f for f in done.findings}
    again = found["says an answer again, without attention to the answers so far"]
    assert again.value >= 0.40 and again.control <= 0.05
    assert found["says an answer again, as it is"].value <= 0.02
    pushed = found["Token Lens of the answers so far: what they do to themselves"]
    assert pushed.value < -5 and abs(pushed.control) < 0.1
    assert {"token at step 2", "response at step 3"} <= set(done.results)
    assert done.provenance.causal == "ablation" and done.provenance.passes > 0


@pytest.mark.parametrize("seed", [5, 6])
def test_the_null_world_does_not_hold(seed):
    done = on_world(one_to_many(n_prompts=24, seed=seed, null=True), seed=seed)
    held = {f.name for f in done.findings if f.holds}
    assert not done.holds and held <= {
        "says an answer again, as it is"
    }  # a model that knows nothing may also say nothing twice
    assert "0 of 24 questions" in done.notes[0]


@pytest.fixture(scope="module")
def natural():
    """The world's model with a tokenizer that splits signs off words, as a user's would."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate((*SPECIALS, *WORDS))}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    return load_model(one_to_many().model, tokenizer=tokenizer)


def rows(n=8):
    return [{"prompt": f"cities in {s}:", "subject": s, "answers": list(a)} for s, a in list(ANSWERS.items())[:n]]


def test_a_users_model_and_file_run(natural, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows()), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=natural, data=path))
    assert done.holds and done.provenance.n == 8
    csv = tmp_path / "questions.csv"
    lines = [f'"{r["prompt"]}","{r["subject"]}","{", ".join(r["answers"])}"' for r in rows()]
    csv.write_text("\n".join(["prompt,subject,answers", *lines]), encoding="utf-8")
    assert read_questions(csv) == read_questions(path)
    assert [f.value for f in reproduce(Setup(quick=True, model=natural, data=csv)).findings] == [
        f.value for f in done.findings
    ]


def test_a_model_that_lists_too_little_is_told_so(natural):
    questions = default_questions()  # prompts with words that this model does not know
    done = measured(natural, questions[:4], after=",", quick=True, seed=0)
    assert done.provenance.settings["complete"] <= 1 and len(done.findings) == 6


def test_answers_are_listed_in_the_models_order_and_steps_know_their_tokens(natural, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows(3)), encoding="utf-8")
    listing = list_answers(natural, read_questions(path))
    assert listing.order == tuple(tuple(a) for a in list(ANSWERS.values())[:3]) and listing.complete == [0, 1, 2]
    step = listing.steps[3]
    assert step.texts[0] == "cities in Peru: Lima, Cusco,"
    vocabulary = natural.tokenizer.get_vocab()
    ids = step.batch.ids[0]
    assert [ids[p] for p in step.subject[0]] == [vocabulary["Peru"]]
    assert [ids[p] for p in step.said_at[0]] == step.said_ids[0].tolist() == [vocabulary["Lima"], vocabulary["Cusco"]]
    assert step.left_ids[0].tolist() == [vocabulary["Arequipa"]]


def test_data_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs --model"):
        reproduce(Setup(quick=True, data=tmp_path / "any.csv"))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("q.csv", "prompt,subject\na,b\n", "no column 'answers'"),
        ("q.csv", "prompt,subject,answers\n", "has no rows"),
        ("q.csv", 'prompt,subject,answers\ncities in Peru:,Peru,"a, b, c",more\n', "line 2: another number of cells"),
        ("q.csv", 'prompt,subject,answers\ncities:,Peru,"a, b, c"\n', "does not hold the subject"),
        ("q.csv", 'prompt,subject,answers\nin Peru:,Peru,"a, b"\n', "at least 3"),
        ("q.csv", 'prompt,subject,answers\nin Peru:,Peru,"a, b, A"\n', "each once"),
        ("q.csv", 'prompt,subject,answers\n,Peru,"a, b, c"\n', "'prompt' is"),
        ("q.jsonl", '{"prompt": "in Peru:", "subject": "Peru", "answers": [1, 2, 3]}\n', "give a list of texts"),
        ("q.jsonl", '{"prompt": "in Peru:"}\n', "no key 'subject' and 'answers'"),
        ("q.jsonl", "{\n", "line 1: broken JSON"),
        ("q.jsonl", "[]\n", "no object"),
        ("q.parquet", "not parquet", "cannot be read as Parquet"),
        ("q.txt", "x", "unknown kind of file"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_clear_line(tmp_path, name, text, says):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        read_questions(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_missing_file_and_answers_that_nothing_tells_apart(natural, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "none.csv")
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"prompt": "cities in Peru:", "subject": "Peru", "answers": ["Lima", "Foo", "Bar"]}))
    with pytest.raises(DataError, match="share their first token"):  # both are the unknown word
        list_answers(natural, read_questions(path))
