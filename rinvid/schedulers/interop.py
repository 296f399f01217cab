"""Between continuous noise schedules and diffusers' own schedulers, which know 1,000 noise levels and timesteps.

Timestep i of T stands for the time t = (i + 1) / T. A stock scheduler made from a gamma scheduler's ``config`` gets the
betas of those levels; RIN in turn is told the gamma of whatever timestep a stock scheduler is at.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rinvid.prediction import unit_variance
from rinvid.schedules import Schedule

TRAIN_STEPS = 1000
BETA_MIN = 1e-6


def stock_config(schedule: Schedule, input_scale: float) -> dict[str, Any]:
    """What diffusers' schedulers need in their configuration to have the noise levels of ``schedule``.

    Args:
        schedule: gamma(t).
        input_scale: b, to which clean samples are clipped.
    """
    times = torch.arange(TRAIN_STEPS + 1, dtype=torch.float64) / TRAIN_STEPS
    gamma = schedule(times)
    # Neither all nor none of the signal is lost in a step, since solvers divide by the distances of levels.
    betas = (1 - gamma[1:] / gamma[:-1]).nan_to_num(0).clamp(BETA_MIN, 1 - BETA_MIN)
    return {
        "trained_betas": betas.tolist(),
        "num_train_timesteps": TRAIN_STEPS,
        "clip_sample_range": input_scale,
        # The spacing whose timesteps are those of our samplers: t = 1, 1 - 1 / N, ...
        "timestep_spacing": "trailing",
    }


def gamma_of(scheduler: Any, timestep: Tensor | float) -> Tensor:
    """gamma of a scheduler's samples at ``timestep``, float32, of the timestep's shape.

    Between whole timesteps the ratio of noise to signal is interpolated, as the schedulers that use such timesteps do.

    Args:
        scheduler: A gamma scheduler, or one of diffusers' that keeps ``alphas_cumprod``.
        timestep: One or more of ``scheduler.timesteps``.

    Raises:
        ValueError: The scheduler is of another kind, a flow-matching one for example.
    """
    if hasattr(scheduler, "gamma"):
        return scheduler.gamma(timestep)
    levels = getattr(scheduler, "alphas_cumprod", None)
    continuous = getattr(scheduler.config, "timestep_type", "discrete") == "continuous"
    if levels is None or continuous or getattr(scheduler.config, "use_flow_sigmas", False):
        raise ValueError(
            f"{type(scheduler).__name__} has no noise levels of a diffusion (alphas_cumprod) by timesteps; choose one "
            "that has, such as DDIMScheduler or DPMSolverMultistepScheduler"
        )
    timestep = torch.as_tensor(timestep, dtype=torch.float32)
    levels = levels.to(timestep.device, torch.float32)
    below = timestep.floor().clamp(0, len(levels) - 1)
    above = (below + 1).clamp(max=len(levels) - 1)
    sigma = (1 / levels - 1).sqrt()  # noise over signal
    mixed = torch.lerp(sigma[below.long()], sigma[above.long()], timestep - below)
    return 1 / (1 + mixed.square())


def times_of(scheduler: Any) -> list[float]:
    """The times in [0, 1] that a scheduler's timesteps stand for."""
    timesteps: list[float] = scheduler.timesteps.tolist()
    if hasattr(scheduler, "gamma"):
        return timesteps
    return [(t + 1) / len(scheduler.alphas_cumprod) for t in timesteps]


def network_input(scheduler: Any, sample: Tensor, timestep: Tensor | float) -> Tensor:
    """What the network is to see of a scheduler's sample: x_t, at unit variance if it was trained so."""
    seen = scheduler.scale_model_input(sample, timestep)
    if hasattr(scheduler, "gamma") or not scheduler.config.get("normalize_input", False):
        return seen
    return unit_variance(seen)


def check_steps(scheduler: Any, num_inference_steps: int) -> None:
    """Raise ValueError for a number of steps that the scheduler does not have."""
    most = math.inf if hasattr(scheduler, "gamma") else len(getattr(scheduler, "alphas_cumprod", [0] * TRAIN_STEPS))
    if not 1 <= num_inference_steps <= most:
        allowed = "at least 1" if most == math.inf else f"1 to {most} with {type(scheduler).__name__}"
        raise ValueError(f"num_inference_steps must be {allowed}, got {num_inference_steps}")
