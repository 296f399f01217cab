"""Samplers on a continuous noise schedule, as diffusers schedulers (RIN paper, section 3.4; Chen 2023, algorithm 2).

Step i of N goes from t_i = 1 - i / N to t_{i+1} = max(1 - (i + 1 + time_difference) / N, 0). The result of a
trajectory is its last x0, not its last x_t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from rinvid.prediction import (
    Prediction,
    PredictionType,
    add_noise,
    check_prediction_type,
    expand,
    predict,
    unit_variance,
)
from rinvid.schedulers.interop import stock_config
from rinvid.schedules import create_schedule, require_signal
from rinvid.strict import StrictConfig
from rinvid.values import require_finite, require_range

VarianceType = Literal["fixed_large", "fixed_small"]
Generator = torch.Generator | list[torch.Generator] | None


@dataclass
class GammaSchedulerOutput(BaseOutput):
    """A sampler's step.

    Attributes:
        prev_sample: The sample at the next, lower noise level.
        pred_original_sample: The clean sample as predicted at this level, in [-input_scale, input_scale] if clipped.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class _GammaScheduler(StrictConfig, SchedulerMixin, ConfigMixin):
    """What the samplers share: the time grid, gamma, and the reading of a network's output."""

    order = 1
    init_noise_sigma = 1.0
    _config_shown: tuple[Any, Any] = (None, None)

    @property
    def config(self) -> FrozenDict:
        """The arguments, and what a stock scheduler needs to take this one's place by ``from_config``.

        Only the arguments are saved.
        """
        own = self._internal_dict
        if not hasattr(self, "_stock_config"):  # still in the constructor
            return own
        if self._config_shown[0] is not own:
            # Arguments that are marked as defaults would not be handed on.
            arguments = {key: value for key, value in own.items() if key != "_use_default_values"}
            arguments["_class_name"] = type(self).__name__
            self._config_shown = own, FrozenDict({**arguments, **self._stock_config})
        return self._config_shown[1]

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Arguments from a saved configuration, or from that of any scheduler that was made from a gamma scheduler's.

        Raises:
            ValueError: The configuration has a key of no scheduler, or is that of a scheduler with other noise levels.
        """
        known = cls._get_init_keys(cls)
        if "trained_betas" in config_dict:
            if "schedule" not in config_dict:
                raise ValueError(f"{cls.__name__} needs a noise schedule, which this configuration does not name")
            foreign = config_dict.keys() - known
            if config_dict.get("variance_type", "") not in get_args(VarianceType):
                foreign |= {"variance_type"}
        else:
            foreign = set().union(*(cls._get_init_keys(kind) for kind in _GammaScheduler.__subclasses__())) - known
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k not in foreign}, **kwargs)

    def _setup(self) -> None:
        check_prediction_type(self.config.prediction_type)
        if not 0 < self.config.input_scale <= 1:
            raise ValueError(f"input_scale must be in (0, 1], got {self.config.input_scale}")
        if not self.config.time_difference >= 0:
            raise ValueError(f"time_difference must be >= 0, got {self.config.time_difference}")
        spec = self.config.schedule
        self._schedule = create_schedule(spec if isinstance(spec, str) else dict(spec))
        self.num_inference_steps: int | None = None
        self.timesteps = torch.empty(0)
        require_signal(self._schedule, self.config.prediction_type)
        self._stock_config = stock_config(self._schedule, self.config.input_scale)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Lay out ``num_inference_steps`` >= 1 times, from 1 downwards."""
        if not isinstance(num_inference_steps, int) or num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be a whole number of at least 1, got {num_inference_steps}")
        self.num_inference_steps = num_inference_steps
        steps = torch.arange(num_inference_steps, dtype=torch.float64)
        self.timesteps = (1 - steps / num_inference_steps).float().to(device)

    def gamma(self, t: Tensor | float) -> Tensor:
        """gamma at time ``t`` in [0, 1], computed in float32."""
        t = torch.as_tensor(t, dtype=torch.float32)
        require_range("t", t)
        return self._schedule(t)

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """What the network is to see of x_t."""
        require_finite("sample", sample)
        return unit_variance(sample) if self.config.normalize_input else sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor | float) -> Tensor:
        """x_t of clean samples in [-1, 1], which are multiplied by the input scale; t is a scalar or (B,)."""
        if noise.shape != original_samples.shape:
            raise ValueError(f"noise must have the samples' shape, {tuple(original_samples.shape)}")
        gamma = self.gamma(timesteps).to(original_samples.device)
        noisy = add_noise(original_samples.float() * self.config.input_scale, noise.float(), gamma)
        return noisy.to(original_samples.dtype)

    def _levels(self, t: Tensor | float, device: torch.device) -> tuple[Tensor, Tensor]:
        """gamma now and after the step."""
        if self.num_inference_steps is None:
            raise ValueError("call set_timesteps(num_inference_steps) before step()")
        now = torch.as_tensor(t, dtype=torch.float32, device=device)
        after = (now - (1 + self.config.time_difference) / self.num_inference_steps).clamp(min=0)
        return self.gamma(now), self.gamma(after)

    def _predict(self, output: Tensor, x_t: Tensor, gamma: Tensor) -> Prediction:
        if output.shape != x_t.shape:
            raise ValueError(f"model_output has shape {tuple(output.shape)}, the sample {tuple(x_t.shape)}")
        require_finite("model_output", output)
        require_finite("sample", x_t)
        clip = self.config.input_scale if self.config.clip_sample else None
        return predict(output.float(), x_t.float(), gamma, self.config.prediction_type, clip)

    def _result(self, x_next: Tensor, x0: Tensor, dtype: torch.dtype, return_dict: bool) -> Any:
        x_next, x0 = x_next.to(dtype), x0.to(dtype)
        return GammaSchedulerOutput(x_next, x0) if return_dict else (x_next, x0)


class GammaDDIMScheduler(_GammaScheduler):
    """Deterministic sampler (DDIM, Song et al. 2021, with eta 0) on a continuous schedule.

    Args:
        schedule: Spec of the noise schedule; it may differ from the one trained with.
        prediction_type: What the network's output means: "epsilon", "sample" or "v_prediction".
        input_scale: b in (0, 1] that the network was trained with.
        normalize_input: Give the network x_t at unit variance, as trained.
        time_difference: Extra distance of each step's end, in steps (Chen et al. 2023, Analog Bits, section 3.3).
        clip_sample: Clip x0 to [-input_scale, input_scale] at every step.

    Raises:
        ValueError: An unknown name, a value out of range, or epsilon prediction with a schedule that reaches 0.
    """

    @register_to_config
    def __init__(
        self,
        schedule: Mapping[str, Any] = {"type": "cosine"},
        prediction_type: PredictionType = "epsilon",
        input_scale: float = 1.0,
        normalize_input: bool = False,
        time_difference: float = 0.0,
        clip_sample: bool = True,
    ) -> None:
        self._setup()

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: Generator = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> GammaSchedulerOutput | tuple[Tensor, Tensor]:
        """From x_t at ``timestep`` to the next time; computed in float32, returned in the sample's type.

        ``generator`` and ``variance_noise`` are there so that samplers can take each other's place; this one uses none.
        """
        gamma, gamma_next = self._levels(timestep, sample.device)
        x0, epsilon = self._predict(model_output, sample, gamma)
        return self._result(add_noise(x0, epsilon, gamma_next), x0, sample.dtype, return_dict)


class GammaDDPMScheduler(_GammaScheduler):
    """Ancestral sampler (DDPM, Ho et al. 2020) on a continuous schedule.

    Args:
        schedule: Spec of the noise schedule; it may differ from the one trained with.
        prediction_type: What the network's output means: "epsilon", "sample" or "v_prediction".
        input_scale: b in (0, 1] that the network was trained with.
        normalize_input: Give the network x_t at unit variance, as trained.
        time_difference: Extra distance of each step's end, in steps (Chen et al. 2023, Analog Bits, section 3.3).
        clip_sample: Clip x0 to [-input_scale, input_scale] at every step.
        variance_type: "fixed_large" or "fixed_small": the two ends of Ho et al. 2020, section 3.2.

    Raises:
        ValueError: An unknown name, a value out of range, or epsilon prediction with a schedule that reaches 0.
    """

    @register_to_config
    def __init__(
        self,
        schedule: Mapping[str, Any] = {"type": "cosine"},
        prediction_type: PredictionType = "epsilon",
        input_scale: float = 1.0,
        normalize_input: bool = False,
        time_difference: float = 0.0,
        clip_sample: bool = True,
        variance_type: VarianceType = "fixed_large",
    ) -> None:
        if variance_type not in get_args(VarianceType):
            raise ValueError(f"variance_type {variance_type!r}; known: {', '.join(get_args(VarianceType))}")
        self._setup()

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: Generator = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> GammaSchedulerOutput | tuple[Tensor, Tensor]:
        """From x_t at ``timestep`` to the next time; computed in float32, returned in the sample's type.

        Args:
            generator: Source of the step's noise; a list has one generator a sample.
            variance_noise: The step's noise itself, like the sample.
        """
        gamma, gamma_next = self._levels(timestep, sample.device)
        x0, epsilon = self._predict(model_output, sample, gamma)
        if variance_noise is None:
            variance_noise = randn_tensor(
                tuple(sample.shape), generator=generator, device=sample.device, dtype=torch.float32
            )
        elif variance_noise.shape != sample.shape:
            raise ValueError(f"variance_noise must have the sample's shape, {tuple(sample.shape)}")
        require_finite("variance_noise", variance_noise)
        gamma, gamma_next = expand(gamma, sample), expand(gamma_next, sample)
        ratio = (gamma / gamma_next).clamp(0, 1)
        variance = 1 - ratio
        noise_variance = (1 - gamma).clamp(min=torch.finfo(gamma.dtype).tiny)
        mean = (sample.float() - variance / noise_variance.sqrt() * epsilon) / ratio.sqrt()
        # Out of pure noise (gamma = 0) the step is known from x0 alone.
        mean = torch.where(ratio > 0, mean, gamma_next.sqrt() * x0)
        if self.config.variance_type == "fixed_small":
            variance = (1 - gamma_next) / noise_variance * variance
        x_next = mean + variance.sqrt() * variance_noise.float()
        return self._result(x_next, x0, sample.dtype, return_dict)
