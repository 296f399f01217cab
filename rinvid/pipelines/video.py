"""Video prediction: context frames in, the whole clip out (RIN paper, section 4.3)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rinvid.conditioning import LatentCarry
from rinvid.data.clips import to_model_range, to_uint8
from rinvid.data.decode import read_clip
from rinvid.models.rin import RINModel
from rinvid.schedulers.gamma import GammaDDIMScheduler, GammaDDPMScheduler

OutputType = Literal["np", "pt", "pil"]
Context = NDArray[np.uint8] | Tensor | list[Image.Image] | str | os.PathLike[str]


@dataclass
class VideoPipelineOutput(BaseOutput):
    """Sampled clips, context frames first.

    Attributes:
        frames: By output type: "np" uint8 array (B, F, H, W, C); "pt" float tensor (B, C, F, H, W) in [-1, 1];
            "pil" a list of B lists of F images.
    """

    frames: Any


class RINVideoPipeline(DiffusionPipeline):
    """Predicts the frames that follow given ones, or whole clips where the model takes no context.

    Args:
        model: The network; its latents are carried from each sampling step to the next.
        scheduler: A gamma scheduler; its noise schedule may differ from the one trained with.
    """

    model_cpu_offload_seq = "model"

    def __init__(self, model: RINModel, scheduler: GammaDDPMScheduler | GammaDDIMScheduler) -> None:
        super().__init__()
        if model.config.num_frames is None:
            raise ValueError("RINVideoPipeline needs a model with num_frames; this one makes images")
        self.register_modules(model=model, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        context: Context | None = None,
        num_inference_steps: int = 400,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: Tensor | None = None,
        output_type: OutputType = "np",
    ) -> VideoPipelineOutput:
        """Sample clips.

        Args:
            context: The given frames: a uint8 array (B, c, H, W, C) or (c, H, W, C), a float tensor (B, C, c, H, W)
                in [-1, 1], a list of PIL images, or the path of a video whose first frames are taken.
            num_inference_steps: Sampling steps; RIN is made for hundreds (RIN paper: 400 and 1000).
            batch_size: Clips to sample where the model takes no context.
            generator: Source of the noise; a list has one generator a clip.
            noise: The starting noise itself (B, C, F - c, H, W).
            output_type: "np", "pt" or "pil".

        Raises:
            ValueError: The context does not fit the model, with the shape that would; unknown output type.
        """
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type {output_type!r}; known: {', '.join(get_args(OutputType))}")
        config = self.model.config
        given = self.prepare_context(context)
        batch = batch_size if given is None else len(given)
        device, dtype = self._execution_device, self.model.dtype
        if noise is None:
            shape = (batch, config.in_channels, self.model.predicted_frames, *self.model.frame_size)
            noise = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        predicted = self._denoise(noise.to(device, dtype), given, num_inference_steps)
        frames = predicted if given is None else torch.cat([given.to(predicted), predicted], dim=2)
        return VideoPipelineOutput(frames=_to_output(frames, output_type))

    def _denoise(self, sample: Tensor, context: Tensor | None, num_inference_steps: int) -> Tensor:
        """The last x0 of a trajectory from noise, in [-1, 1]."""
        scale = self.scheduler.config.input_scale
        scaled = None if context is None else (context * scale).to(sample)
        self.scheduler.set_timesteps(num_inference_steps, device=sample.device)
        levels = self.scheduler.gamma(self.scheduler.timesteps).to(sample.dtype)
        carry = LatentCarry()
        step = None
        for t, gamma in zip(self.progress_bar(self.scheduler.timesteps), levels, strict=True):
            output = self.model(self.scheduler.scale_model_input(sample, t), gamma, context=scaled, **carry.inputs())
            carry = LatentCarry.of(output)
            step = self.scheduler.step(output.sample, t, sample)
            sample = step.prev_sample
        assert step is not None
        return step.pred_original_sample.float() / scale

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
        images = [frame.convert("RGB").resize(size[::-1]) for frame in context]
        context = np.stack([np.asarray(image) for image in images])
    array = torch.as_tensor(context)
    if array.dtype != torch.uint8:
        raise ValueError(f"an array of context frames must be uint8, got {array.dtype}")
    return to_model_range(array.unsqueeze(0) if array.ndim == 4 else array)


def _shape(context: Context) -> object:
    return tuple(context.shape) if isinstance(context, Tensor | np.ndarray) else type(context).__name__


def _to_output(frames: Tensor, output_type: OutputType) -> Any:
    if output_type == "pt":
        return frames
    array = to_uint8(frames).cpu().numpy()
    return array if output_type == "np" else [[Image.fromarray(frame) for frame in clip] for clip in array]
