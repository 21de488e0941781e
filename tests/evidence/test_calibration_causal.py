"""The quick form of the causal part of `make calibration`: truths hold on a planted world, decoys and null twins stay silent."""

import numpy as np

from benchmarks.calibration_causal import QUICK, Silence, Tally, gradient_rows, null_cases, planted, put
from benchmarks.calibration_causal_cases import METHODS, QUESTIONS, Verdict, ask, make_case


def test_planted_heads_are_found_and_decoys_are_not():
    tally = planted(METHODS["activation patching, heads, noising"], QUICK)
    assert tally.hits == tally.found and tally.hits / tally.true > 0.85  # an OR hides its branches from noising
    assert set(tally.missed) == {"or"} and tally.decoys == 0 < tally.decoy_cells


def test_truths_name_cells_that_exist():
    for name in ("indirect object", "and", "fact and copy"):
        case = make_case(name, 0)
        for method in ("path patching", "attention knock-out", "direct logit attribution"):
            if name in METHODS[method].questions:
                assert case.asked.truth[METHODS[method].kind] <= set(ask(METHODS[method], case).cells)


def test_null_twins_are_silent():
    silent = Silence()
    for question in ("indirect object", "fact and copy"):
        for kind, case in null_cases(question, 1):
            assert kind == "null twin" or case.right != list(case.world.answer_ids(case.asked.clean))
            silent.add(ask(METHODS["direct logit attribution"], case, null=True))
    assert silent.runs == 4 and silent.found == 0


def test_saturated_attention_misleads_the_gradient_and_not_its_integral():
    rows, worth = gradient_rows("induction, key", QUICK)
    cells = {row.split(" | ")[1]: [float(v) for v in row.strip("| ").split(" | ")[2:]] for row in rows}
    noising, _, eap, _, integrated = cells["L0.H0 → L1.H0.k"]
    assert noising > 0.98 and eap < 0.1 * noising and abs(integrated - noising) < 0.05
    assert "3.0 edges" in worth


def test_counts_are_right_on_made_up_verdicts(tmp_path):
    found = np.array([True, True, False, False])
    tally = Tally()
    p = np.array([0.01, 0.01, 0.5, 1.0])
    tally.add(
        Verdict(["a>x", "d>x", "b>x", "c>x"], found, found, p, p), frozenset({"a>x", "b>x"}), frozenset({"d"}), "w"
    )
    assert (tally.true, tally.found, tally.hits, tally.decoys, tally.decoy_cells) == (2, 2, 1, 1, 1)
    assert tally.missed == {"w": 2} and tally.idle_p == [0.01] and tally.bare == 1
    page = tmp_path / "page.md"
    page.write_text("# Calibration\n\nother\n")
    for text in ("## Causal methods\n\none\n", "## Causal methods\n\ntwo\n"):
        put(page, text)
    assert page.read_text() == "# Calibration\n\nother\n\n## Causal methods\n\ntwo\n"
    assert all(asked.truth for asked in QUESTIONS.values())
