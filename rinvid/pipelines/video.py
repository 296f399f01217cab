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

from rinvid.conditioning import LatentCarry, guided
from rinvid.data.clips import to_model_range, to_uint8
from rinvid.data.decode import read_clip
from rinvid.models.rin import RINModel
from rinvid.schedulers.gamma import GammaDDIMScheduler, GammaDDPMScheduler
from rinvid.values import require_labels

OutputType = Literal["np", "pt", "pil"]
Context = NDArray[np.uint8] | Tensor | list[Image.Image] | str | os.PathLike[str]


@dataclass
class VideoPipelineOutput(BaseOutput):
    """Sampled clips, context frames first.

    Attributes:
        frames: By output type: "np" float array (B, F, H, W, C) in [0, 1]; "pt" float tensor (B, C, F, H, W) in [0, 1];
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
        class_labels: Tensor | list[int] | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 400,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: OutputType = "np",
        batch_size: int = 1,
        guidance_scale: float = 0.0,
    ) -> VideoPipelineOutput:
        """Sample clips.

        Args:
            context: The given frames: a uint8 array (B, c, H, W, C) or (c, H, W, C), a float tensor (B, C, c, H, W)
                in [-1, 1], a list of PIL images, or the path of a video whose first frames are taken.
            class_labels: (B,) whole numbers, for a model with classes.
            num_frames: Frames of the result, context included; None is the model's own. A longer clip is rolled out:
                its last frames become the next context.
            num_inference_steps: Sampling steps; RIN is made for hundreds (RIN paper: 400 and 1000).
            generator: Source of the noise; a list has one generator a clip.
            output_type: "np", "pt" or "pil".
            batch_size: Clips to sample where the model takes no context.
            guidance_scale: Classifier-free guidance towards the labels, w in ``(1 + w) conditional - w unconditional``;
                0 is none.

        Raises:
            ValueError: The context does not fit the model, with the shape that would; an argument is out of range.
        """
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type {output_type!r}; known: {', '.join(get_args(OutputType))}")
        given = self.prepare_context(context)
        total = self.model.config.num_frames if num_frames is None else num_frames
        if not self.model.config.context_frames < total:
            raise ValueError(f"num_frames={num_frames} leaves no frame to predict after the context")
        if given is None and total > self.model.config.num_frames:
            raise ValueError(f"num_frames={num_frames}: a model without context frames cannot roll a clip out")
        labels = self._labels(class_labels)
        windows = [] if given is None else [given]
        while sum(window.shape[2] for window in windows) < total:
            last = torch.cat(windows, dim=2)[:, :, -given.shape[2] :] if given is not None else None
            noise = self._noise(batch_size if given is None else len(given), generator)
            windows.append(self._denoise(noise, last, labels, num_inference_steps, generator, guidance_scale))
        frames = torch.cat([window.to(windows[-1]) for window in windows], dim=2)[:, :, :total]
        return VideoPipelineOutput(frames=_to_output(frames, output_type))

    def _labels(self, class_labels: Tensor | list[int] | None) -> Tensor | None:
        if class_labels is None:
            return None
        labels = torch.as_tensor(class_labels, device="cpu")
        if self.model.config.num_classes is not None:
            require_labels(labels, self.model.config.num_classes)
        return labels.to(self._execution_device)

    def _noise(self, batch: int, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
        shape = (batch, self.model.config.in_channels, self.model.predicted_frames, *self.model.frame_size)
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

    def _denoise(
        self,
        sample: Tensor,
        context: Tensor | None,
        labels: Tensor | None,
        num_inference_steps: int,
        generator: Any,
        guidance_scale: float,
    ) -> Tensor:
        """The last x0 of a trajectory from noise, in [-1, 1]."""
        scale = self.scheduler.config.input_scale
        inputs = {
            "class_labels": labels,
            "context": None if context is None else (context * scale).to(self.model.dtype),
        }
        self.scheduler.set_timesteps(num_inference_steps, device=sample.device)
        # x_t and gamma stay in float32 between steps; the network casts what it is given.
        levels = self.scheduler.gamma(self.scheduler.timesteps)
        dtype = self.model.dtype
        carry = LatentCarry()
        step = None
        for t, gamma in zip(self.progress_bar(self.scheduler.timesteps), levels, strict=True):
            seen = self.scheduler.scale_model_input(sample, t).to(dtype)
            output, carry = guided(self.model, {"sample": seen, "gamma": gamma, **inputs}, carry, guidance_scale)
            step = self.scheduler.step(output, t, sample, generator=generator)
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


def _to_output(frames: Tensor, output_type: OutputType) -> Any:
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in clip] for clip in to_uint8(frames).cpu().numpy()]
    unit = frames.float().add(1).div(2).clamp(0, 1)
    return unit if output_type == "pt" else unit.movedim(1, -1).cpu().numpy()
