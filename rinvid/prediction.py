"""All algebra of the noise level gamma: the one place where sqrt(gamma) stands.

With x0 the data times the input scale, epsilon ~ N(0, I) and gamma in [0, 1] (Chen 2023, section 2):

    x_t = sqrt(gamma) x0 + sqrt(1 - gamma) epsilon        v = sqrt(gamma) epsilon - sqrt(1 - gamma) x0

Tensors have any shape with the batch first; gamma is a scalar or has shape (B,).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "sample", "v_prediction"]
LossType = Literal["epsilon", "sample", "v_prediction"]


class Prediction(NamedTuple):
    """What a network output says: the clean sample and the noise, both shaped like the sample."""

    x0: Tensor
    epsilon: Tensor


def check_prediction_type(prediction_type: str) -> None:
    """Raise ValueError unless the name is one of the three prediction types."""
    if prediction_type not in get_args(PredictionType):
        raise ValueError(f"prediction_type {prediction_type!r}; known: {', '.join(get_args(PredictionType))}")


def check_loss_type(loss_type: str) -> None:
    """Raise ValueError unless the name is one of the three loss types."""
    if loss_type not in get_args(LossType):
        raise ValueError(f"loss_type {loss_type!r}; known: {', '.join(get_args(LossType))}")


def expand(gamma: Tensor, like: Tensor) -> Tensor:
    """gamma of shape () or (B,) with trailing axes added, so that it broadcasts against ``like``."""
    return gamma.reshape(gamma.shape + (1,) * (like.ndim - gamma.ndim)) if gamma.ndim else gamma


def log_snr(gamma: Tensor) -> Tensor:
    """log(gamma / (1 - gamma)), natural logarithm of the signal-to-noise ratio."""
    return gamma.log() - (-gamma).log1p()


def min_snr_weight(gamma: Tensor, loss_type: LossType, limit: float, input_scale: float = 1.0) -> Tensor:
    """Min-SNR weight of a loss (Hang et al. 2023, section 3.4), finite for every gamma in [0, 1].

    Whatever the loss type, an error of the clean sample counts min(snr, limit) times, where
    snr = input_scale^2 gamma / (1 - gamma).

    Args:
        gamma: Any shape.
        loss_type: Where the squared error is taken.
        limit: The cap, 5 in the paper; > 0.
        input_scale: b in (0, 1] that the data was multiplied by.
    """
    limit = limit / input_scale**2
    if loss_type == "v_prediction":
        return torch.minimum(gamma, limit * (1 - gamma))
    if loss_type == "epsilon":
        # (A curve that falls to zero may end at -0.)
        return (limit * (1 - gamma) / gamma.abs()).clamp(max=1)
    return (gamma / (1 - gamma)).clamp(max=limit) * input_scale**2


def add_noise(x0: Tensor, epsilon: Tensor, gamma: Tensor) -> Tensor:
    """x_t at noise level gamma."""
    gamma = expand(gamma, x0)
    return gamma.sqrt() * x0 + (1 - gamma).sqrt() * epsilon


def velocity(x0: Tensor, epsilon: Tensor, gamma: Tensor) -> Tensor:
    """v (Salimans and Ho 2022, appendix D)."""
    return add_noise(epsilon, -x0, gamma)


def unit_variance(x_t: Tensor) -> Tensor:
    """x_t over its own population standard deviation per sample (Chen 2023, section 3.2)."""
    return x_t / x_t.flatten(1).std(1, correction=0).reshape(-1, *(1,) * (x_t.ndim - 1))


def to_x0(output: Tensor, x_t: Tensor, gamma: Tensor, prediction_type: PredictionType) -> Tensor:
    """The clean sample that a network output stands for, not clipped."""
    if prediction_type == "sample":
        return output
    gamma = expand(gamma, x_t)
    if prediction_type == "epsilon":
        return (x_t - (1 - gamma).sqrt() * output) / gamma.sqrt()
    return gamma.sqrt() * x_t - (1 - gamma).sqrt() * output


def to_epsilon(x0: Tensor, x_t: Tensor, gamma: Tensor) -> Tensor:
    """The noise that takes x0 to x_t; where there is no noise (gamma = 1) it is taken as zero."""
    gamma = expand(gamma, x_t)
    sigma = (1 - gamma).sqrt()
    tiny = torch.finfo(sigma.dtype).tiny
    return torch.where(sigma > 0, (x_t - gamma.sqrt() * x0) / sigma.clamp(min=tiny), torch.zeros_like(x_t))


def predict(
    output: Tensor, x_t: Tensor, gamma: Tensor, prediction_type: PredictionType, clip: float | None
) -> Prediction:
    """x0 clipped to [-clip, clip], and the noise recomputed from it, as samplers use them."""
    x0 = to_x0(output, x_t, gamma, prediction_type)
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
    return Prediction(x0, to_epsilon(x0, x_t, gamma))


def squared_error(
    output: Tensor,
    x_t: Tensor,
    x0: Tensor,
    epsilon: Tensor,
    gamma: Tensor,
    prediction_type: PredictionType,
    loss_type: LossType,
    input_scale: float = 1.0,
) -> Tensor:
    """Mean squared error of each sample, shape (B,), in the space of ``loss_type``.

    The sample loss looks at the clipped x0, in units of the data (divided by input_scale squared). The epsilon
    loss looks at the noise as predicted, or recovered from the clipped x0 under sample prediction.
    """
    x0_hat = to_x0(output, x_t, gamma, prediction_type)
    if loss_type == "v_prediction":
        epsilon_hat = output if prediction_type == "epsilon" else to_epsilon(x0_hat, x_t, gamma)
        v_hat = output if prediction_type == "v_prediction" else velocity(x0_hat, epsilon_hat, gamma)
        error = v_hat - velocity(x0, epsilon, gamma)
    elif loss_type == "sample":
        error = (x0_hat.clamp(-input_scale, input_scale) - x0) / input_scale
    elif prediction_type == "sample":
        error = to_epsilon(x0_hat.clamp(-input_scale, input_scale), x_t, gamma) - epsilon
    elif prediction_type == "epsilon":
        error = output - epsilon
    else:
        g = expand(gamma, x_t)
        error = (1 - g).sqrt() * x_t + g.sqrt() * output - epsilon
    return error.square().flatten(1).mean(1)
