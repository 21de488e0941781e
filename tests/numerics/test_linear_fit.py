"""fit_columns solves scikit-learn's problems, many at once."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from conceptlab.numerics.linear_fit import fit_columns, rotate


def rows(n: int = 240, d: int = 24, *, massive: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / d**0.5 + rng.normal(size=d)
    y = (x[:, :3].sum(1) + rng.normal(size=n) > x[:, :3].sum(1).mean()).astype(float)
    if massive:
        x[:, [4, 9]] = 1000 * x[:, [4, 9]] + 3000
    return x, y


def fitted(x, y, mask=None, *, standardise=True, **options):
    rotated = rotate(torch.tensor(x, dtype=torch.float32), standardise=standardise)
    y = torch.tensor(y, dtype=torch.float32).reshape(len(x), -1)
    mask = torch.ones_like(y) if mask is None else torch.tensor(mask, dtype=torch.float32)
    fit = fit_columns(rotated, y, mask, **options)
    assert bool(fit.converged.all())
    w, b = rotated.weights(fit.u, fit.b)
    return w.double().numpy(), b.double().numpy()


def objective(x, y, w, b, c) -> float:
    logits = x @ w + b
    return float(c * (np.logaddexp(0, logits) - y * logits).sum() + 0.5 * (w**2).sum())


def sklearn_logistic(x, y, c):
    model = LogisticRegression(C=c, tol=1e-10, max_iter=20_000, solver="newton-cholesky").fit(x, y)
    return model.coef_[0], model.intercept_[0]


def scaled(x):
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize("c", [0.01, 1.0])
@pytest.mark.parametrize("massive", [False, True])
def test_logistic_on_standardised_features_is_scikit_learns(c, massive):
    x, y = rows(massive=massive)
    w, b = fitted(x, y, c=c, tol=1e-5)
    z = scaled(x)
    want_w, want_b = sklearn_logistic(z, y, c)
    got_w = w[:, 0] * x.std(0)
    got_b = b[0] + x.mean(0) @ w[:, 0]
    assert objective(z, y, got_w, got_b, c) <= objective(z, y, want_w, want_b, c) * (1 + 1e-5)
    np.testing.assert_allclose(got_w, want_w, atol=2e-3 * np.abs(want_w).max())
    assert got_b == pytest.approx(want_b, abs=2e-3)


@pytest.mark.parametrize("massive", [False, True])
def test_logistic_on_raw_features_reaches_scikit_learns_objective(massive):
    x, y = rows(massive=massive)
    w, b = fitted(x, y, standardise=False, c=1.0, tol=1e-5)
    want = objective(x, y, *sklearn_logistic(x, y, 1.0), 1.0)
    assert objective(x, y, w[:, 0], b[0], 1.0) <= want * (1 + 1e-4)


def test_separable_rows_converge_to_the_same_finite_weights():
    x, _ = rows(60, 40)
    y = (x[:, 0] > np.median(x[:, 0])).astype(float)
    w, b = fitted(x, y, c=1.0, tol=1e-5)
    want_w, want_b = sklearn_logistic(scaled(x), y, 1.0)
    np.testing.assert_allclose(w[:, 0] * x.std(0), want_w, atol=2e-3)


def test_classes_one_against_the_rest():
    x, _ = rows()
    labels = np.digitize(x[:, 0] + x[:, 1], np.quantile(x[:, 0] + x[:, 1], [0.3, 0.6]))
    hot = np.eye(3)[labels]
    w, _ = fitted(x, hot, c=0.1, tol=1e-5)
    for k in range(3):
        want, _ = sklearn_logistic(scaled(x), hot[:, k], 0.1)
        np.testing.assert_allclose(w[:, k] * x.std(0), want, atol=2e-3)


def test_squared_loss_is_ridge():
    x, _ = rows(massive=True)
    y = np.random.default_rng(3).normal(size=len(x)) + scaled(x)[:, 0]
    w, b = fitted(x, y, loss="squared", c=0.1, tol=1e-6)
    want = Ridge(alpha=10.0).fit(scaled(x), y)
    np.testing.assert_allclose(w[:, 0] * x.std(0), want.coef_, atol=1e-3)
    assert b[0] + x.mean(0) @ w[:, 0] == pytest.approx(want.intercept_, abs=1e-3)


def test_masked_rows_take_no_part():
    x, y = rows()
    rng = np.random.default_rng(1)
    mask = rng.random((len(x), 3)) < np.array([0.3, 0.6, 0.9])
    w, _ = fitted(x, np.stack([y, y, 1 - y], 1), mask, c=0.3, tol=1e-5)
    for column, labels in enumerate((y, y, 1 - y)):
        seen = mask[:, column]
        want, _ = sklearn_logistic(scaled(x)[seen], labels[seen], 0.3)
        np.testing.assert_allclose(w[:, column] * x.std(0), want, atol=3e-3)


def test_rows_fewer_than_dimensions_and_more_than_256_dimensions():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 300)), (rng.random(50) > 0.5).astype(float)
    w, _ = fitted(x, y, c=0.01, tol=1e-5)
    want, _ = sklearn_logistic(scaled(x), y, 0.01)
    np.testing.assert_allclose(w[:, 0] * x.std(0), want, atol=1e-3 * np.abs(want).max() + 1e-5)


def test_constant_features_say_nothing_and_rounding_noise_is_not_blown_up():
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    noise = np.where(y == 1, 1000.0, np.nextafter(np.float32(1000), np.float32(2000)))  # the label in the last bit
    x = np.stack([np.full(80, 7.0), noise, rng.normal(size=80)], 1)
    rotated = rotate(torch.tensor(x, dtype=torch.float32))
    fit = fit_columns(rotated, torch.tensor(y, dtype=torch.float32)[:, None], torch.ones(80, 1))
    logits = rotated.z @ fit.u + fit.b
    assert float(logits.abs().max()) < 1.5
    wide = rotate(torch.full((3, 40), 0.1))
    assert bool(torch.isfinite(wide.z).all() and torch.isfinite(wide.basis).all())
    flat = rotate(torch.full((20, 4), 3.0))
    fit = fit_columns(flat, (torch.arange(20) % 4 == 0).float()[:, None], torch.ones(20, 1))
    assert float((flat.z @ fit.u + fit.b).mean()) == pytest.approx(np.log(0.25 / 0.75), abs=1e-2)


def test_a_loose_tolerance_gives_nearly_the_tight_decisions_on_shuffled_labels():
    x, y = rows(400, 24)
    rng = np.random.default_rng(5)
    shuffled = torch.tensor(np.stack([rng.permutation(y) for _ in range(40)], 1), dtype=torch.float32)
    rotated, train = rotate(torch.tensor(x, dtype=torch.float32)), torch.arange(400) < 320
    part = rotated.rows(train)
    guesses = []
    for tol in (1e-2, 1e-6):
        fit = fit_columns(part, shuffled[train], torch.ones(320, 40), c=1.0, tol=tol)
        guesses.append((rotated.z[~train] @ fit.u + fit.b > 0).float())
    assert float((guesses[0] != guesses[1]).float().mean()) < 0.01
    accuracy = [(g == shuffled[~train]).float().mean(0) for g in guesses]
    assert float((accuracy[0] - accuracy[1]).abs().mean()) < 0.01
