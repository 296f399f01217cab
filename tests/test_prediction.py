"""The algebra of gamma, against formulas written out in float64."""

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from rinvid.prediction import (
    LossType,
    PredictionType,
    add_noise,
    check_prediction_type,
    expand,
    log_snr,
    min_snr_weight,
    predict,
    squared_error,
    to_epsilon,
    to_x0,
    unit_variance,
    velocity,
)
from rinvid.schedules import Schedule, create_schedule

PREDICTIONS: tuple[PredictionType, ...] = get_args(PredictionType)
LOSSES: tuple[LossType, ...] = get_args(LossType)
GAMMAS = torch.tensor([0.9999, 0.7, 0.2, 1e-6], dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def x0() -> Tensor:
    return draw(4, 3, 2, 5, 5).clamp(-1, 1)


@pytest.fixture
def epsilon() -> Tensor:
    return draw(4, 3, 2, 5, 5, seed=1)


def output_of(x0: Tensor, epsilon: Tensor, gamma: Tensor, prediction_type: str) -> Tensor:
    """The perfect network's output."""
    alpha, sigma = (g.sqrt().reshape(-1, 1, 1, 1, 1) for g in (gamma, 1 - gamma))
    return {"sample": x0, "epsilon": epsilon, "v_prediction": alpha * epsilon - sigma * x0}[prediction_type]


@pytest.mark.parametrize("name", PREDICTIONS)
def test_every_prediction_gives_back_sample_and_noise(name: PredictionType, x0: Tensor, epsilon: Tensor) -> None:
    x_t = add_noise(x0, epsilon, GAMMAS)
    output = output_of(x0, epsilon, GAMMAS, name)
    torch.testing.assert_close(to_x0(output, x_t, GAMMAS, name), x0, atol=1e-9, rtol=0)
    for clip in (None, 1.0):
        made = predict(output, x_t, GAMMAS, name, clip)
        torch.testing.assert_close(made.x0, x0, atol=1e-9, rtol=0)
        torch.testing.assert_close(made.epsilon, epsilon, atol=1e-9, rtol=0)


def test_noising_and_velocity_are_a_rotation(x0: Tensor, epsilon: Tensor) -> None:
    angle = GAMMAS.sqrt().acos().reshape(-1, 1, 1, 1, 1)
    x_t, v = add_noise(x0, epsilon, GAMMAS), velocity(x0, epsilon, GAMMAS)
    torch.testing.assert_close(x_t, angle.cos() * x0 + angle.sin() * epsilon)
    torch.testing.assert_close(v, angle.cos() * epsilon - angle.sin() * x0)
    torch.testing.assert_close(to_epsilon(x0, x_t, GAMMAS), epsilon, atol=1e-9, rtol=0)


def test_gamma_may_be_a_scalar(x0: Tensor, epsilon: Tensor) -> None:
    one, each = torch.tensor(0.3, dtype=torch.float64), torch.full((4,), 0.3, dtype=torch.float64)
    assert expand(one, x0).shape == ()
    assert expand(each, x0).shape == (4, 1, 1, 1, 1)
    assert torch.equal(add_noise(x0, epsilon, one), add_noise(x0, epsilon, each))


@pytest.mark.parametrize("name", PREDICTIONS)
def test_predict_clips_and_recomputes_the_noise(name: PredictionType, x0: Tensor, epsilon: Tensor) -> None:
    x_t = add_noise(x0, epsilon, GAMMAS)
    made = predict(3 * draw(4, 3, 2, 5, 5, seed=2), x_t, GAMMAS, name, clip=0.5)
    assert made.x0.abs().max() == 0.5
    torch.testing.assert_close(add_noise(made.x0, made.epsilon, GAMMAS), x_t, atol=1e-9, rtol=0)


def test_where_there_is_no_noise_it_is_zero() -> None:
    x_t = torch.tensor([[2.0]])
    assert to_epsilon(torch.tensor([[1.0]]), x_t, torch.ones(1)) == 0


@pytest.mark.parametrize("gamma", [0.5, 0.1, 1e-9, 1 - 1e-9])
def test_log_snr(gamma: float) -> None:
    expected = math.log(gamma) - math.log1p(-gamma)
    assert float(log_snr(torch.tensor(gamma, dtype=torch.float64))) == pytest.approx(expected, rel=1e-12)
    assert float(log_snr(torch.tensor(0.8))) == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("gamma", [1e-9, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", PREDICTIONS)
def test_the_ends_are_finite_in_float32(name: PredictionType, loss: LossType, gamma: float) -> None:
    x0, epsilon, output = (draw(2, 3, 4, 4, seed=s).float() for s in (3, 4, 5))
    level = torch.full((2,), gamma)
    x_t = add_noise(x0, epsilon, level)
    made = predict(output, x_t, level, name, clip=1.0)
    assert made.x0.isfinite().all()
    assert made.epsilon.isfinite().all()
    assert log_snr(torch.tensor(1e-9)).isfinite()
    output.requires_grad_()
    squared_error(output, x_t, x0, epsilon, level, name, loss).sum().backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize(("name", "loss"), itertools.product(PREDICTIONS, LOSSES))
def test_squared_error(name: PredictionType, loss: LossType, scale: float, x0: Tensor, epsilon: Tensor) -> None:
    gamma = torch.tensor([0.95, 0.7, 0.2, 0.01], dtype=torch.float64)
    x0, output = scale * x0, 2 * draw(4, 3, 2, 5, 5, seed=6)
    x_t = add_noise(x0, epsilon, gamma)
    for i in range(4):
        a, s = math.sqrt(gamma[i]), math.sqrt(1 - gamma[i])
        out, xt = output[i], x_t[i]
        x = {"sample": out, "epsilon": (xt - s * out) / a, "v_prediction": a * xt - s * out}[name]
        clipped = x.clamp(-scale, scale)
        assert not torch.equal(x, clipped), "the output must be large enough for clipping to matter"
        if loss == "sample":
            expected = ((clipped - x0[i]) / scale).square().mean()
        elif loss == "epsilon":
            # As predicted for epsilon and v; recovered from the clipped sample for sample predictions.
            noise = {"sample": (xt - a * clipped) / s, "epsilon": out, "v_prediction": s * xt + a * out}[name]
            expected = (noise - epsilon[i]).square().mean()
        else:
            noise = {"sample": (xt - a * x) / s, "epsilon": out, "v_prediction": s * xt + a * out}[name]
            expected = (a * noise - s * x - (a * epsilon[i] - s * x0[i])).square().mean()
        error = squared_error(output, x_t, x0, epsilon, gamma, name, loss, scale)
        assert error.shape == (4,)
        torch.testing.assert_close(error[i], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("name", "loss"), itertools.product(PREDICTIONS, LOSSES))
def test_the_perfect_output_has_no_error(name: PredictionType, loss: LossType, x0: Tensor, epsilon: Tensor) -> None:
    x_t = add_noise(x0, epsilon, GAMMAS)
    error = squared_error(output_of(x0, epsilon, GAMMAS, name), x_t, x0, epsilon, GAMMAS, name, loss)
    torch.testing.assert_close(error, torch.zeros(4, dtype=torch.float64), atol=1e-18, rtol=0)


def test_unit_variance_is_by_sample_over_all_other_axes() -> None:
    x = 3 * draw(2, 3, 4, 5, 5)
    x[1] *= 10
    scaled = unit_variance(x)
    torch.testing.assert_close(scaled.flatten(1).std(1, correction=0), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(scaled * x.flatten(1).std(1, correction=0).reshape(2, 1, 1, 1, 1), x)


def test_an_unknown_prediction_type_lists_the_known_ones() -> None:
    for name in PREDICTIONS:
        check_prediction_type(name)
    with pytest.raises(ValueError, match="'noise'; known: epsilon, sample, v_prediction"):
        check_prediction_type("noise")


# -- min-SNR weights

SCHEDULES = [
    create_schedule("cosine"),
    create_schedule("cosine", start=0.2, end=1.0, tau=1.0),
    create_schedule("sigmoid"),
    create_schedule("linear"),
    create_schedule("log"),
    create_schedule("log", reverse=True),
]


@pytest.mark.parametrize("limit", [5.0, 1.0])
def test_min_snr_weights_are_the_textbook_ones(limit: float) -> None:
    gamma = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    snr = gamma / (1 - gamma)
    capped = snr.clamp(max=limit)
    assert (capped < snr).any()
    assert (capped == snr).any()
    torch.testing.assert_close(min_snr_weight(gamma, "sample", limit), capped)
    torch.testing.assert_close(min_snr_weight(gamma, "epsilon", limit), capped / snr)
    torch.testing.assert_close(min_snr_weight(gamma, "v_prediction", limit), capped / (snr + 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize(
    ("loss", "at_noise", "at_data"), [("sample", 0.0, 5.0), ("epsilon", 1.0, 0.0), ("v_prediction", 0.0, 0.0)]
)
def test_min_snr_weights_at_the_ends(
    loss: LossType, at_noise: float, at_data: float, scale: float, dtype: torch.dtype
) -> None:
    weight = min_snr_weight(torch.tensor([0.0, 1.0], dtype=dtype), loss, 5.0, scale)
    torch.testing.assert_close(weight, torch.tensor([at_noise, at_data], dtype=dtype))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_min_snr_weights_are_finite_over_every_schedule(loss: LossType, schedule: Schedule) -> None:
    for dtype in (torch.float32, torch.float64):
        for scale in (1.0, 0.1):
            weight = min_snr_weight(schedule(torch.linspace(0, 1, 101, dtype=dtype)), loss, 5.0, scale)
            assert weight.dtype == dtype
            assert weight.isfinite().all()
            assert (weight >= 0).all()
            assert weight.max() > 0


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("name", PREDICTIONS)
def test_an_error_of_the_sample_weighs_the_same_under_every_loss(name: PredictionType, scale: float) -> None:
    gamma = torch.tensor([0.999, 0.95, 0.7, 0.2, 0.01, 1e-4], dtype=torch.float64)
    x0, epsilon = scale * draw(6, 3, 4, 4).clamp(-0.8, 0.8), draw(6, 3, 4, 4, seed=1)
    wrong = x0 + 0.1 * scale * draw(6, 3, 4, 4, seed=2).clamp(-1, 1)  # never so far off that it would be clipped
    x_t = add_noise(x0, epsilon, gamma)
    output = {
        "sample": wrong,
        "epsilon": to_epsilon(wrong, x_t, gamma),
        "v_prediction": velocity(wrong, to_epsilon(wrong, x_t, gamma), gamma),
    }[name]
    # In units of the data an error counts min(snr, 5) times, whatever the data was multiplied by.
    snr = scale**2 * gamma / (1 - gamma)
    expected = snr.clamp(max=5) * ((wrong - x0) / scale).square().flatten(1).mean(1)
    for loss in LOSSES:
        error = squared_error(output, x_t, x0, epsilon, gamma, name, loss, scale)
        torch.testing.assert_close(error * min_snr_weight(gamma, loss, 5.0, scale), expected, rtol=1e-7, atol=0)
