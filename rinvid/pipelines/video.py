"""Video prediction: context frames in, the whole clip out (RIN paper, section 4.3)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rinvid.conditioning import LatentCarry
from rinvid.data.clips import to_model_range, to_uint8
from rinvid.data.decode import read_clip
from rinvid.models.rin import RINModel
from rinvid.pipelines.base import Generator, Labels, OutputType, RINPipeline, Scheduler, StepCallback

Context = NDArray[np.uint8] | Tensor | list[Image.Image] | str | os.PathLike[str]


@dataclass
class VideoPipelineOutput(BaseOutput):
    """Sampled clips, context frames first.

    Attributes:
        frames: By output type: "np" float array (B, F, H, W, C) in [0, 1]; "pt" float tensor (B, C, F, H, W) in [0, 1];
            "pil" a list of B lists of F images.
    """

    frames: Any


class RINVideoPipeline(RINPipeline):
    """Predicts the frames that follow given ones, or whole clips where the model takes no context.

    Args:
        model: The network; its latents are carried from each sampling step to the next.
        scheduler: A gamma scheduler, or one of diffusers' made by ``from_config`` from a gamma scheduler's ``config``.

    Raises:
        ValueError: The model makes images.
    """

    def __init__(self, model: RINModel, scheduler: Scheduler) -> None:
        if model.config.num_frames is None:
            raise ValueError("RINVideoPipeline needs a model with num_frames; this one makes images")
        super().__init__(model, scheduler)

    @torch.no_grad()
    def __call__(
        self,
        context: Context | None = None,
        class_labels: Labels | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 400,
        generator: Generator = None,
        output_type: OutputType = "np",
        batch_size: int = 1,
        guidance_scale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        negative_labels: Labels | None = None,
        carry_latents: bool = False,
        max_batch_size: int | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> VideoPipelineOutput:
        """Sample clips.

        Args:
            context: The given frames: a uint8 array (B, c, H, W, C) or (c, H, W, C), a float tensor (B, C, c, H, W)
                in [-1, 1], a list of PIL images, or the path of a video whose first frames are taken.
            class_labels: Whole numbers, -1 for none, one for all or one a clip, for a model with classes.
            num_frames: Frames of the result, context included; None is the model's own. A longer clip is rolled out:
                its last frames become the next context.
            num_inference_steps: Sampling steps; RIN is made for hundreds (RIN paper: 400 and 1000).
            generator: Source of the noise; a list has one generator a clip, which then does not depend on the others.
            output_type: "np", "pt" or "pil".
            batch_size: Clips to sample where the model takes no context.
            guidance_scale: Classifier-free guidance towards the labels, w in ``(1 + w) conditional - w unconditional``;
                0 is none.
            guidance_interval: Times between which guidance acts, 0 for data and 1 for noise.
            negative_labels: Labels to guide away from instead of the dropped one; one for all, or one a clip.
            carry_latents: Begin each window of a rollout with the latents that the one before ended with.
            max_batch_size: Clips that the network takes at once, to save memory; None is all.
            callback_on_step_end: As in diffusers, with ``{"sample": x_t}``.

        Raises:
            ValueError: The context does not fit the model, with the shape that would; an argument is out of range.
        """
        self._check(num_inference_steps, output_type, guidance_scale, guidance_interval)
        given = self.prepare_context(context)
        total = self._total_frames(num_frames, given is not None)
        batch = batch_size if given is None else len(given)
        labels = self._labels(class_labels, batch)
        negative = None if negative_labels is None else self._labels(negative_labels, batch)
        shape = (batch, self.model.config.in_channels, self.model.predicted_frames, *self.model.frame_size)
        # Finished windows leave the device, so that memory on it does not grow with the clip.
        windows = [] if given is None else [given.cpu()]
        recent, carry = given, LatentCarry()
        while sum(window.shape[2] for window in windows) < total:
            window, latest = self.sample_trajectory(
                self._noise(shape, generator),
                num_inference_steps,
                labels,
                recent,
                carry=carry,
                generator=generator,
                guidance_scale=guidance_scale,
                guidance_interval=guidance_interval,
                negative_labels=negative,
                max_batch_size=max_batch_size,
                callback_on_step_end=callback_on_step_end,
            )
            windows.append(window.cpu())
            if self.interrupt:
                break
            if recent is not None:
                recent = torch.cat([recent, window], dim=2)[:, :, -recent.shape[2] :]
            carry = latest if carry_latents else LatentCarry()
        frames = torch.cat(windows, dim=2)[:, :, :total]
        return VideoPipelineOutput(frames=_to_output(frames, output_type, self._execution_device))

    def _total_frames(self, num_frames: int | None, with_context: bool) -> int:
        config = self.model.config
        total: int = config.num_frames if num_frames is None else num_frames
        if not config.context_frames < total:
            raise ValueError(f"num_frames={num_frames} leaves no frame to predict after the context")
        if not with_context and total > config.num_frames:
            raise ValueError(f"num_frames={num_frames}: a model without context frames cannot roll a clip out")
        return total

    def prepare_context(self, context: Context | None) -> Tensor | None:
        """Any accepted form of context as a float tensor (B, C, c, H, W) in [-1, 1].

        Raises:
            ValueError: Missing, not wanted, or of the wrong type, number of frames, size or channels.
        """
        config, size = self.model.config, self.model.frame_size
        if not config.context_frames:
            if context is not None:
                raise ValueError("this model takes no context frames")
            return None
        wanted = (
            f"{config.context_frames} frames of {size[0]}x{size[1]} pixels with {config.in_channels} channels: uint8 "
            f"(B, {config.context_frames}, {size[0]}, {size[1]}, {config.in_channels}), or float "
            f"(B, {config.in_channels}, {config.context_frames}, {size[0]}, {size[1]}) in [-1, 1]"
        )
        if context is None:
            raise ValueError(f"context is missing; this model needs {wanted}")
        frames = _to_tensor(context, config.context_frames, size)
        shape = (config.in_channels, config.context_frames, *size)
        if frames.ndim != 5 or tuple(frames.shape[1:]) != shape:
            raise ValueError(f"context of shape {_shape(context)} does not fit; this model needs {wanted}")
        return frames.to(self._execution_device)


def _to_tensor(context: Context, count: int, size: tuple[int, int]) -> Tensor:
    if isinstance(context, Tensor) and context.is_floating_point():
        if context.numel() and not -1.001 <= float(context.min()) <= float(context.max()) <= 1.001:
            raise ValueError(f"float context must lie in [-1, 1], got [{context.min():.3g}, {context.max():.3g}]")
        return context.float()
    if isinstance(context, str | os.PathLike):
        context = read_clip(context, 0, count, size=size[0])
    elif isinstance(context, list):
        if not context or not all(isinstance(frame, Image.Image) for frame in context):
            raise ValueError(f"a list of context frames must hold {count} PIL images, got {context!r:.80}")
        context = np.stack([np.asarray(frame.convert("RGB").resize(size[::-1])) for frame in context])
    if not isinstance(context, Tensor | np.ndarray):
        raise TypeError(f"context must be an array, a tensor, a list of images or a path, got {type(context).__name__}")
    array = torch.as_tensor(np.ascontiguousarray(context) if isinstance(context, np.ndarray) else context)
    if array.dtype != torch.uint8:
        raise ValueError(f"an array of context frames must be uint8, got {array.dtype}")
    return to_model_range(array.unsqueeze(0) if array.ndim == 4 else array)


def _shape(context: Context) -> object:
    return tuple(context.shape) if isinstance(context, Tensor | np.ndarray) else type(context).__name__


def _to_output(frames: Tensor, output_type: OutputType, device: torch.device) -> Any:
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in clip] for clip in to_uint8(frames).numpy()]
    unit = frames.add(1).div(2).clamp(0, 1)
    return unit.to(device) if output_type == "pt" else unit.movedim(1, -1).numpy()
