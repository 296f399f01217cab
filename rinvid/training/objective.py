"""The training objective: denoise, conditioned on the latents of a first pass (RIN paper, section 3.3)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rinvid.conditioning import LatentCarry, drop_labels, self_conditioning_mask
from rinvid.prediction import (
    LossType,
    PredictionType,
    add_noise,
    check_loss_type,
    check_prediction_type,
    min_snr_weight,
    squared_error,
    unit_variance,
)
from rinvid.registry import Spec
from rinvid.schedules import Schedule, create_schedule, require_signal
from rinvid.values import require_range


class Losses(NamedTuple):
    """Losses of a batch by sample, with the times they were taken at; both (B,)."""

    loss: Tensor
    t: Tensor


def diffusion_losses(
    model: Any,
    x0: Tensor,
    schedule: Spec | Schedule,
    prediction_type: PredictionType = "epsilon",
    loss_type: LossType = "epsilon",
    input_scale: float = 1.0,
    normalize_input: bool = False,
    self_cond_rate: float = 0.9,
    class_labels: Tensor | None = None,
    context: Tensor | None = None,
    t: Tensor | float | None = None,
    noise: Tensor | None = None,
    self_cond_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    label_dropout: float = 0.0,
    min_snr: float | None = None,
) -> Losses:
    """As :func:`diffusion_loss`, for each sample of the batch."""
    schedule = create_schedule(schedule)
    _validate(schedule, prediction_type, loss_type, input_scale, self_cond_rate, label_dropout, min_snr)
    if not x0.is_floating_point():
        raise ValueError(f"x0 must be floating-point numbers in [-1, 1], got {x0.dtype}")
    batch, device = x0.shape[0], x0.device
    if t is None:
        t = torch.rand(batch, generator=generator, device=device)
    if noise is None:
        noise = torch.randn(x0.shape, generator=generator, device=device)
    if self_cond_mask is None:
        self_cond_mask = self_conditioning_mask(batch, self_cond_rate, device, generator)
    t = torch.as_tensor(t, dtype=torch.float32, device=device)
    t = t.expand(batch) if t.ndim == 0 else t
    shapes = {"noise": (noise, x0.shape), "self_cond_mask": (self_cond_mask, (batch,)), "t": (t, (batch,))}
    for name, (value, shape) in shapes.items():
        if value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be {tuple(shape)}")
    require_range("t", t)
    if class_labels is not None and label_dropout > 0:
        class_labels = drop_labels(class_labels, label_dropout, generator)
    gamma = schedule(t)
    x0 = x0 * input_scale
    x_t = add_noise(x0, noise, gamma)
    inputs = {
        "sample": unit_variance(x_t) if normalize_input else x_t,
        "gamma": gamma,
        "class_labels": class_labels,
        "context": None if context is None else context * input_scale,
    }
    # Every sample takes the first pass and a mask picks who keeps it: a branch would differ between processes.
    carry = LatentCarry()
    if self_cond_rate > 0:
        with torch.no_grad():
            carry = LatentCarry.of(model(**inputs)).keep(self_cond_mask)
    output = model(**inputs, **carry.inputs()).sample.float()
    loss = squared_error(output, x_t, x0, noise, gamma, prediction_type, loss_type, input_scale)
    if min_snr is not None:
        loss = loss * min_snr_weight(gamma, loss_type, min_snr, input_scale)
    return Losses(loss, t)


def _validate(
    schedule: Schedule,
    prediction_type: PredictionType,
    loss_type: LossType,
    input_scale: float,
    self_cond_rate: float,
    label_dropout: float,
    min_snr: float | None,
) -> None:
    check_prediction_type(prediction_type)
    check_loss_type(loss_type)
    require_signal(schedule, prediction_type)
    if not 0 < input_scale <= 1:
        raise ValueError(f"input_scale must be in (0, 1], got {input_scale}")
    for name, rate in (("self_cond_rate", self_cond_rate), ("label_dropout", label_dropout)):
        if not 0 <= rate <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {rate}")
    if min_snr is not None and not min_snr > 0:
        raise ValueError(f"min_snr must be above 0, got {min_snr}")


def diffusion_loss(model: Any, x0: Tensor, schedule: Spec | Schedule, **options: Any) -> Tensor:
    """Mean training loss of a batch, a scalar.

    Args:
        model: A model with the forward of :class:`rinvid.RINModel`.
        x0: Clean images (B, C, H, W) or clean frames to predict (B, C, F - c, H, W), in [-1, 1].
        schedule: gamma(t), an object or spec.
        prediction_type: What the network's output means: "epsilon", "sample" or "v_prediction".
        loss_type: Where the squared error is taken: "epsilon", "sample" or "v_prediction", whatever is predicted.
        input_scale: b in (0, 1]; x0 and context are multiplied by it (Chen 2023, section 3).
        normalize_input: Divide the network's noisy input by its standard deviation per sample.
        self_cond_rate: Probability with which a sample keeps the latents of its first pass.
        class_labels: (B,) whole numbers, -1 for a dropped label.
        context: Clean frames (B, C, c, H, W) in [-1, 1].
        t: Times in [0, 1], (B,) or a scalar; uniform at random unless given.
        noise: Like x0; standard normal at random unless given.
        self_cond_mask: (B,) bool, who keeps the latents of the first pass; random unless given.
        generator: Source of all that is random here.
        label_dropout: Probability with which a label is dropped, for classifier-free guidance.
        min_snr: Cap of the min-SNR weights, 5 in their paper (Hang et al. 2023); None for no weights.

    Raises:
        ValueError: An unknown name, a value out of its range, a shape that does not fit the model, or epsilon
            prediction with a schedule that reaches gamma = 0.
    """
    return diffusion_losses(model, x0, schedule, **options).loss.mean()
