"""What image and video pipelines share: the sampling trajectory, labels, noise, saving and loading."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from rinvid.conditioning import LatentCarry, guided
from rinvid.models.rin import RINModel
from rinvid.pipelines.card import write_card
from rinvid.pipelines.parts import foreign_parts, require_parts
from rinvid.schedulers.gamma import GammaDDIMScheduler, GammaDDPMScheduler
from rinvid.schedulers.interop import check_steps, gamma_of, network_input, times_of
from rinvid.strict import StrictConfig
from rinvid.values import require_labels

OutputType = Literal["pil", "np", "pt"]
Generator = torch.Generator | list[torch.Generator] | None
Labels = Tensor | Sequence[int] | int
# (diffusers loads classes only from modules that are imported already, so both of ours are named here.)
Scheduler: TypeAlias = GammaDDIMScheduler | GammaDDPMScheduler | SchedulerMixin
StepCallback = Callable[[Any, int, Any, dict[str, Any]], Mapping[str, Any] | None]


class RINPipeline(StrictConfig, DiffusionPipeline):
    """Base of the pipelines.

    Args:
        model: The network; its latents are carried from each sampling step to the next.
        scheduler: A gamma scheduler, or one of diffusers' made by ``from_config`` from a gamma scheduler's ``config``.
    """

    model_cpu_offload_seq = "model"

    def __init__(self, model: RINModel, scheduler: Scheduler) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler)
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        """Whether sampling ends after the step that is running; a callback sets ``pipeline._interrupt``."""
        return self._interrupt

    @torch.no_grad()
    def sample_trajectory(
        self,
        noise: Tensor,
        num_inference_steps: int,
        class_labels: Tensor | None = None,
        context: Tensor | None = None,
        carry: LatentCarry | None = None,
        generator: Generator = None,
        guidance_scale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        negative_labels: Tensor | None = None,
        max_batch_size: int | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> tuple[Tensor, LatentCarry]:
        """From noise to clean samples.

        Args:
            noise: Standard normal, of the shape of the result.
            num_inference_steps: Sampling steps.
            class_labels: (B,), for a model with classes.
            context: Clean frames (B, C, c, H, W) in [-1, 1], for a model with context frames.
            carry: Latents to begin with, of another trajectory; None is zeros.
            generator: Source of the noise that the sampler adds.
            guidance_scale: Classifier-free guidance w; 0 is none.
            guidance_interval: Times between which guidance acts, 0 for data and 1 for noise.
            negative_labels: Labels (B,) to guide away from; None is the dropped label.
            max_batch_size: Samples that the network takes at once; None is all of them.
            callback_on_step_end: As in diffusers: called with the pipeline, the step, the timestep and
                ``{"sample": x_t}``; what it returns under "sample" takes the place of x_t.

        Returns:
            The last clean sample, in [-1, 1], and the latents of the last pass.
        """
        scheduler, dtype = self.scheduler, self.model.dtype
        scale = scheduler.config.get("input_scale", 1.0)
        scheduler.set_timesteps(num_inference_steps, device=noise.device)
        if hasattr(scheduler, "set_begin_index"):
            # Or some would look for their place by the timestep, of which there may be two alike.
            scheduler.set_begin_index(0)
        levels, times = gamma_of(scheduler, scheduler.timesteps), times_of(scheduler)
        context = None if context is None else (context * scale).to(dtype)
        conditions = {"class_labels": class_labels, "context": context}
        extra = self._step_arguments(generator)
        # x_t and gamma stay in float32 between steps; the network casts what it is given.
        sample, carry = noise.float() * scheduler.init_noise_sigma, carry or LatentCarry()
        clean = sample
        self._interrupt = False
        for i, t in enumerate(self.progress_bar(scheduler.timesteps)):
            seen = {"sample": network_input(scheduler, sample, t).to(dtype), "gamma": levels[i], **conditions}
            w = guidance_scale if guidance_interval[0] <= times[i] <= guidance_interval[1] else 0.0
            output, carry = guided(self.model, seen, carry, w, negative_labels, max_batch_size)
            if i == 0 and not bool(output.isfinite().all()):
                raise ValueError("the network's output is not finite at the first step; are its weights whole?")
            step = scheduler.step(output.float(), t, sample, **extra)
            sample = step.prev_sample
            predicted = getattr(step, "pred_original_sample", None)
            # Multi-step solvers say no clean sample; the last x_t is one.
            clean = sample if predicted is None else predicted
            if callback_on_step_end is not None:
                sample = (callback_on_step_end(self, i, t, {"sample": sample}) or {}).get("sample", sample)
            if self.interrupt:
                break
        self.maybe_free_model_hooks()
        return clean.float() / scale, carry

    def _step_arguments(self, generator: Generator) -> dict[str, Any]:
        """What this scheduler's step takes beyond output, timestep and sample."""
        # diffusers' DDIM would otherwise keep the noise that belongs to the unclipped sample.
        wanted = {"generator": generator, "use_clipped_model_output": True}
        taken = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in wanted.items() if name in taken}

    def _check(
        self, num_inference_steps: int, output_type: str, guidance_scale: float, guidance_interval: tuple[float, float]
    ) -> None:
        """What can be wrong with a call, before any work."""
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type {output_type!r}; known: {', '.join(get_args(OutputType))}")
        check_steps(self.scheduler, num_inference_steps)
        first, last = guidance_interval
        if not 0 <= first <= last <= 1:
            raise ValueError(
                f"guidance_interval must be two times with 0 <= first <= last <= 1, got {guidance_interval}"
            )
        if guidance_scale and self.model.config.num_classes is None:
            raise ValueError(f"guidance_scale={guidance_scale}: a model without classes has nothing to be guided to")

    def _labels(self, class_labels: Labels | None, batch: int | None = None) -> Tensor | None:
        """Labels (B,) on the pipeline's device."""
        classes = self.model.config.num_classes
        if class_labels is None:
            if classes is not None:
                raise ValueError(f"class_labels is missing: whole numbers in [0, {classes - 1}], or -1 for none")
            return None
        if classes is None:
            raise ValueError("class_labels were given, but this model has no classes")
        labels = torch.as_tensor(class_labels, device="cpu").reshape(-1)
        if not len(labels):
            raise ValueError("class_labels is empty")
        require_labels(labels, classes)
        if batch is not None and len(labels) == 1:
            labels = labels.expand(batch)
        if batch is not None and len(labels) != batch:
            raise ValueError(f"there are {len(labels)} labels for {batch} samples")
        return labels.to(self._execution_device)

    def _noise(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(f"generator is a list of {len(generator)} for {shape[0]} samples")
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """As diffusers saves pipelines, with a model card; parts of plugins are noted with where they come from."""
        config = {key: value for key, value in self.config.items() if key != "_plugins"}
        if parts := foreign_parts(self.model, self.scheduler):
            config["_plugins"] = parts
        self._internal_dict: Any = FrozenDict(config)
        super().save_pretrained(save_directory, *args, **options)
        write_card(save_directory, self)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Components from a saved pipeline's index.

        Raises:
            ValueError: The pipeline needs a plugin that is not installed, or the index has an unknown key.
        """
        require_parts(config_dict.get("_plugins", {}))
        return super().extract_init_dict(config_dict, **kwargs)
