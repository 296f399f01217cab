"""Images out of noise, with or without labels (RIN paper, section 4.1)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image
from torch import Tensor

from rinvid.models.rin import RINModel
from rinvid.pipelines.base import Generator, Labels, OutputType, RINPipeline, Scheduler, StepCallback


class RINImagePipeline(RINPipeline):
    """Samples images.

    Args:
        model: The network; its latents are carried from each sampling step to the next.
        scheduler: A gamma scheduler, or one of diffusers' made by ``from_config`` from a gamma scheduler's ``config``.

    Raises:
        ValueError: The model makes videos.
    """

    def __init__(self, model: RINModel, scheduler: Scheduler) -> None:
        if model.config.num_frames is not None:
            raise ValueError("RINImagePipeline needs a model without num_frames; this one makes videos")
        super().__init__(model, scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels | None = None,
        num_images_per_label: int = 1,
        guidance_scale: float = 0.0,
        num_inference_steps: int = 250,
        generator: Generator = None,
        output_type: OutputType = "pil",
        batch_size: int = 1,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        negative_labels: Labels | None = None,
        max_batch_size: int | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> ImagePipelineOutput:
        """Sample images.

        Args:
            class_labels: Whole numbers, -1 for none, for a model with classes.
            num_images_per_label: Images for each label.
            guidance_scale: Classifier-free guidance towards the labels, w in ``(1 + w) conditional - w unconditional``;
                0 is none.
            num_inference_steps: Sampling steps; RIN is made for hundreds (RIN paper: 250 and 1000).
            generator: Source of the noise; a list has one generator an image, which then does not depend on the others.
            output_type: "pil", "np" (B, H, W, C) or "pt" (B, C, H, W), the last two in [0, 1].
            batch_size: Images to sample where the model has no classes.
            guidance_interval: Times between which guidance acts, 0 for data and 1 for noise.
            negative_labels: Labels to guide away from instead of the dropped one; one for all, or one an image.
            max_batch_size: Images that the network takes at once, to save memory; None is all.
            callback_on_step_end: As in diffusers, with ``{"sample": x_t}``.

        Raises:
            ValueError: An argument is out of its range, or does not fit the model.
        """
        self._check(num_inference_steps, output_type, guidance_scale, guidance_interval)
        if num_images_per_label < 1 or batch_size < 1:
            raise ValueError("num_images_per_label and batch_size must be at least 1")
        labels = self._labels(class_labels)
        if labels is not None:
            labels = labels.repeat_interleave(num_images_per_label)
        count = batch_size if labels is None else len(labels)
        images, _ = self.sample_trajectory(
            self._noise((count, self.model.config.in_channels, *self.model.frame_size), generator),
            num_inference_steps,
            labels,
            generator=generator,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            negative_labels=None if negative_labels is None else self._labels(negative_labels, count),
            max_batch_size=max_batch_size,
            callback_on_step_end=callback_on_step_end,
        )
        return ImagePipelineOutput(images=_to_output(images, output_type))


def _to_output(images: Tensor, output_type: OutputType) -> Any:
    unit = images.add(1).div(2).clamp(0, 1)
    if output_type == "pt":
        return unit
    array = unit.movedim(1, -1).cpu().numpy()
    if output_type == "np":
        return array
    pixels = (array * 255).round().astype("uint8")
    return [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in pixels]
