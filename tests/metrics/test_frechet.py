"""Frechet distance, against recorded values and closed forms."""

import numpy as np
import pytest
import torch

from rinvid.metrics import frechet_distance
from tests.helpers import parity


@pytest.mark.parametrize("case", ["full_rank", "rank_deficient"])
def test_recorded_distances(case: str) -> None:
    arrays, _ = parity("frechet")
    a, b, recorded = (arrays[f"{case}/{name}"] for name in ("a", "b", "frechet"))
    assert frechet_distance(a, b) == pytest.approx(float(recorded), rel=1e-6)
    assert frechet_distance(b.numpy(), a.numpy()) == pytest.approx(float(recorded), rel=1e-6)


def test_identical_features_are_at_no_distance() -> None:
    arrays, _ = parity("frechet")
    assert abs(frechet_distance(arrays["identical/a"], arrays["identical/b"])) < 1e-9
    few = arrays["rank_deficient/a"]
    assert abs(frechet_distance(few, few.flip(0))) < 1e-9


def gaussian(rows: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim))


@pytest.mark.parametrize("rows", [50, 5], ids=["more samples than dimensions", "fewer"])
def test_a_shift_costs_its_square(rows: int) -> None:
    a = gaussian(rows, 8, 0)
    shift = np.arange(8.0)
    assert frechet_distance(a, a + shift) == pytest.approx((shift**2).sum(), rel=1e-9)


@pytest.mark.parametrize("rows", [50, 5], ids=["more samples than dimensions", "fewer"])
def test_a_scale_costs_the_difference_of_the_deviations(rows: int) -> None:
    a = gaussian(rows, 8, 1)
    a -= a.mean(0)
    # (sd - 3 sd)^2 over the principal axes: 4 times the trace of the covariance over N - 1.
    assert frechet_distance(a, 3 * a) == pytest.approx(4 * a.var(0, ddof=1).sum(), rel=1e-9)


def test_one_dimension_is_the_known_formula() -> None:
    a, b = gaussian(40, 1, 2), 2 + 3 * gaussian(30, 1, 3)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_it_is_symmetric_and_blind_to_order_and_rotation() -> None:
    a, b = gaussian(30, 6, 4), gaussian(20, 6, 5) @ np.diag(np.arange(1.0, 7))
    distance = frechet_distance(a, b)
    turn = np.linalg.qr(gaussian(6, 6, 6))[0]
    assert distance > 1
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a[::-1].copy(), b) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-9)


def test_constant_features_have_no_spread() -> None:
    assert frechet_distance(np.zeros((4, 3)), np.full((5, 3), 2.0)) == pytest.approx(12)


@pytest.mark.parametrize("kind", [np.float16, np.float32, torch.float32])
def test_the_sum_runs_in_float64(kind: object) -> None:
    # A mean of a thousand would drown the spread of one in float32.
    a = gaussian(60, 4, 7) + 1000
    stored = torch.tensor(a, dtype=kind) if isinstance(kind, torch.dtype) else a.astype(kind)
    result = frechet_distance(stored, stored)
    assert isinstance(result, float)
    assert abs(result) < 1e-9


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((3, 4)), np.zeros((3, 5)), r"\(N, D\).*\(3, 4\), \(3, 5\)"),
        (np.zeros(4), np.zeros((3, 4)), r"got \(4,\), \(3, 4\)"),
        (np.zeros((3, 4, 1)), np.zeros((3, 4)), r"got \(3, 4, 1\)"),
        (np.zeros((1, 4)), np.zeros((3, 4)), "N, M >= 2"),
        (np.zeros((3, 4)), np.zeros((0, 4)), "N, M >= 2"),
        (np.full((3, 4), np.nan), np.zeros((3, 4)), "not finite"),
        (np.zeros((3, 4)), np.full((3, 4), np.inf), "not finite"),
    ],
)
def test_what_is_no_feature_matrix_is_refused(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)
