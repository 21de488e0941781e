"""bag-of-heuristics: holds on the planted bag and on a user's model, and not where answers come by rote or by an algorithm."""

import json

import pytest

from conceptlab.data.arithmetic import operand_grid
from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.bag_of_heuristics import NAMES, measured, on_world, reproduce
from conceptlab.worlds.heuristic_neurons import WORDS, heuristic_neurons
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=7)
    assert done.holds and all(f.holds for f in done.findings) and not done.notes
    found = {f.name: f for f in done.findings}
    assert found["planted neurons named as planted"].value >= 0.95
    assert (
        found["decoys among the neurons that matter"].value == 0 < found["decoys among the neurons that matter"].control
    )
    lost = found["accuracy lost without the neurons of a prompt's heuristics"]
    assert lost.low is not None and lost.low > 30 and lost.control == 0
    assert {"important", "named", "planted", "by prompt", "by heuristic", "alone"} == set(done.results)
    assert done.provenance.causal == "ablation" and done.provenance.passes > 0


@pytest.mark.parametrize("seed", [5, 6])
def test_what_is_known_by_rote_does_not_hold(seed):
    done = on_world(heuristic_neurons(null=True, seed=seed), seed=seed)
    found = {f.name: f for f in done.findings}
    assert not done.holds and found["neurons that matter and stand for a heuristic"].value <= 0.05
    assert done.provenance.settings["matter"] >= 100  # the answers do hang on neurons


def test_an_algorithm_without_neurons_does_not_hold():
    done = on_world(heuristic_neurons(solution="algorithm"))
    assert not done.holds and done.provenance.settings["matter"] == 0 and len(done.findings) == len(NAMES)
    assert all(name in done.notes[0] for name in NAMES)


@pytest.fixture(scope="module")
def natural():
    """The planted bag with a tokenizer that splits signs off numbers, as a user's would."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate((*SPECIALS, *WORDS))}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    return load_model(heuristic_neurons(seed=1).model, tokenizer=tokenizer)


def write(path, cells):
    rows = zip(cells.prompts, cells.left.tolist(), cells.right.tolist(), cells.answers, strict=True)
    records = [{"prompt": p, "left": str(a), "right": str(b), "operator": "+", "answer": r} for p, a, b, r in rows]
    path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")


def test_a_users_model_and_file_run(natural, tmp_path):
    write(tmp_path / "sums.jsonl", operand_grid(10, form="{a}+{b}="))
    done = reproduce(Setup(quick=True, model=natural, data=tmp_path / "sums.jsonl"))
    assert done.holds and done.provenance.n == 100 and done.provenance.settings["accuracy"] == 1.0


def test_a_part_of_the_grid_is_enough(natural):
    done = measured(natural, operand_grid(10, form="{a}+{b}=").select(range(0, 100, 3)), quick=True, seed=0)
    assert done.findings[0].value > 0.5 and done.provenance.n == 34


def test_numbers_of_several_tokens_are_one_clear_line(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate((*SPECIALS, *WORDS))}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    digits = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>",
                                     model_input_names=["input_ids", "attention_mask"])  # fmt: skip
    model = load_model(heuristic_neurons().model, tokenizer=digits)
    with pytest.raises(InputError, match="left operand of '10 \\+ 0 =' is 2 tokens") as caught:
        reproduce(Setup(quick=True, model=model))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="the answer '10' is not one known token"):
        measured(model, operand_grid(6), quick=True, seed=0)


def test_unknown_numbers_and_a_model_that_cannot_add_are_one_clear_line():
    world = heuristic_neurons()
    model = load_model(world.model, tokenizer=word_tokenizer(WORDS, 8))
    with pytest.raises(InputError, match="is not one known token"):
        reproduce(Setup(quick=True, model=model))  # its words end at 18
    wrong = word_tokenizer((*WORDS[1:19], WORDS[0], *WORDS[19:]), 8)
    with pytest.raises(InputError, match="of 100 prompts right, too few"):
        measured(load_model(world.model, tokenizer=wrong), operand_grid(10).select(range(100)), quick=True, seed=0)


def test_data_without_a_model_and_a_wrong_file_are_refused(natural, tmp_path):
    with pytest.raises(InputError, match="needs --model"):
        reproduce(Setup(quick=True, data=tmp_path / "any.csv"))
    (tmp_path / "bad.csv").write_text("prompt,left,right\n3+4=,3,4\n")
    with pytest.raises(DataError, match="no column 'operator' and 'answer'"):
        reproduce(Setup(quick=True, model=natural, data=tmp_path / "bad.csv"))
