"""Control tasks (A5) and description length (A6) on examples of 400 types."""

import numpy as np
import pytest
import torch

from conceptlab.measure.probing.control_task import control_task, rows_within_types
from conceptlab.measure.probing.description_length import block_ends, description_length
from conceptlab.worlds.activations import typed_activations


@pytest.fixture(scope="module")
def typed():
    made = typed_activations(2700, 300)
    rng = np.random.default_rng(0)
    control = rng.integers(0, 2, 400)[made.types]
    return made, control


def test_a_linear_probe_is_selective(typed):
    made, _ = typed
    found = control_task(made.features[:, None], made.labels, "binary", made.types, n_draws=3)
    assert found.task[0] > 0.99 and 0.5 < found.control.mean() < 0.7
    assert found.selectivity[0] > 0.3


def test_control_labels_as_the_task_leave_no_selectivity(typed):
    made, control = typed
    found = control_task(made.features[:, None], control, "binary", made.types, n_draws=12)
    assert abs(found.selectivity[0]) < 0.03


def test_every_type_is_on_both_sides_of_a_fold():
    types = np.repeat(np.arange(30), 4)
    folds = rows_within_types(types, 5, np.random.default_rng(0))
    assert all(len(np.unique(folds[types == t])) == 4 for t in range(30))


@pytest.mark.parametrize("types", [np.arange(60), np.zeros(60, int)])
def test_types_that_cannot_be_learned_give_no_number(types):
    features = torch.randn(60, 2, 4, generator=torch.Generator().manual_seed(0))
    assert np.isnan(control_task(features, np.arange(60) % 2, "binary", types).selectivity).all()


def test_description_length_tells_the_task_from_its_controls(typed):
    made, control = typed
    shuffled = np.random.default_rng(1).permutation(made.labels)
    task, typed_control, noise = description_length(
        made.features[:, None], made.labels, "binary", control=np.stack([control, shuffled])
    )[0]
    assert task > 10
    assert typed_control < 1.3
    assert noise <= 1.05


def test_description_length_of_classes_and_of_graded_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    features = torch.randn(400, 2, 8, generator=torch.Generator().manual_seed(0))
    features[:, 1, :4] += 6 * torch.nn.functional.one_hot(torch.tensor(labels), 4)
    found = description_length(features, labels, "classes", control=rng.permutation(labels)[None])
    assert found.shape == (2, 2)
    assert found[1, 0] > 3 and found[0].max() < 1.05 and found[1, 1] < 1.05
    assert np.isnan(description_length(features, rng.normal(size=400), "graded")).all()


def test_blocks_double_and_end_at_the_last_row():
    assert block_ends(4000, 2) == [4, 8, 16, 32, 64, 128, 250, 500, 1000, 2000, 4000]
    assert block_ends(20, 2)[0] == 4 and block_ends(20, 2)[-1] == 20


def test_the_bits_are_those_of_scikit_learns_probes():
    """One order by hand: each block pays the cross-entropy of a probe trained on the rows before it."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    labels = (x[:, 0] + 0.3 * rng.normal(size=300) > 0).astype(int)
    found = description_length(torch.tensor(x)[:, None].float(), labels, "binary", n_orders=1, seed=3)[0, 0]
    order = np.random.default_rng(3).permutation(300)
    z, y = ((x - x.mean(0)) / x.std(0))[order], labels[order]
    ends = block_ends(300, 2)
    bits = float(ends[0])
    for start, stop in zip(ends, ends[1:], strict=False):
        if y[:start].min() == y[:start].max():  # one class so far: uniform costs go on
            bits += stop - start
            continue
        p = LogisticRegression(tol=1e-8).fit(z[:start], y[:start]).predict_proba(z[start:stop])
        bits -= np.log2(p[np.arange(stop - start), y[start:stop]]).sum()
    assert found == pytest.approx(300 / bits, rel=0.02)
