"""What a trained pipeline is worth on held-out clips: numbers with their protocol, and the clips to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from rinvid import registry
from rinvid.data.clips import to_model_range, to_uint8
from rinvid.metrics.frames import psnr, ssim
from rinvid.metrics.frechet import frechet_distance
from rinvid.models.rin import RINModel
from rinvid.pipelines.video import RINVideoPipeline
from rinvid.seeding import generator
from rinvid.training.objective import diffusion_losses

# Times at which the use of context is measured; the last is pure noise, where nothing but context helps.
GAIN_TIMES = (0.5, 0.7, 0.9, 1.0)


def predict_clips(
    pipeline: RINVideoPipeline,
    truth: NDArray[np.uint8],
    steps: int,
    seed: int,
    batch_size: int = 64,
    labels: Tensor | None = None,
) -> NDArray[np.uint8]:
    """Predict each clip from its first frames, and its label if given; uint8 like ``truth``, context frames first.

    The noise of a clip depends on ``seed`` and its place alone, not on the batch it is sampled in.
    """
    given = pipeline.model.config.context_frames
    batches = range(0, len(truth), batch_size)
    predicted = []
    pipeline.set_progress_bar_config(desc="sampling", leave=False, disable=len(batches) > 1)
    for first in tqdm(batches, desc="sampling", unit="batch", disable=len(batches) == 1):
        part = truth[first : first + batch_size]
        generators = [generator(seed, first + index) for index in range(len(part))]
        context = part[:, :given] if given else None
        clips = pipeline(
            context,
            class_labels=None if labels is None else labels[first : first + batch_size].tolist(),
            num_inference_steps=steps,
            generator=generators,
            output_type="pt",
            batch_size=len(part),
        ).frames
        predicted.append(to_uint8(clips * 2 - 1).cpu().numpy())
    return np.concatenate(predicted)


def score_clips(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], context_frames: int, mean_frame: Tensor | None = None
) -> dict[str, Any]:
    """PSNR, SSIM and a Frechet distance of predicted frames, beside what trivial predictions reach.

    Args:
        truth: uint8 (N, F, H, W, 3).
        predicted: Like ``truth``.
        context_frames: Given frames at the start, which no score but the Frechet distance looks at.
        mean_frame: Mean of the training frames (3, H, W) in [-1, 1], a prediction to beat.
    """
    real, made = to_model_range(torch.from_numpy(truth)), to_model_range(torch.from_numpy(predicted))
    target = real[:, :, context_frames:]
    guesses = {"prediction": made[:, :, context_frames:]}
    if mean_frame is not None:
        guesses["mean_frame"] = mean_frame[:, None].expand_as(target)
    if context_frames:
        guesses["copy_last_frame"] = real[:, :, context_frames - 1 : context_frames].expand_as(target)
        guesses["mean_context_frame"] = real[:, :, :context_frames].mean(2, keepdim=True).expand_as(target)
    scores: dict[str, Any] = {
        name: {"psnr": float(psnr(guess, target).mean()), "ssim": float(ssim(guess, target).mean())}
        for name, guess in guesses.items()
    }
    scores["psnr_by_frame"] = [float(psnr(a, b).mean()) for a, b in zip(made.unbind(2), real.unbind(2), strict=True)][
        context_frames:
    ]
    scores["motion"] = {"real": _motion(real), "predicted": _motion(made)}
    if len(truth) > 1:
        extractor = registry.extractors.create("random3d")
        scores["frechet_random3d"] = frechet_distance(extractor(real), extractor(made))
    return scores


def context_gain(
    model: RINModel, clips: Tensor, options: Mapping[str, Any], seed: int, labels: Tensor | None = None
) -> dict[str, float]:
    """By how much a clip's own context lowers the x0 error against another clip's context, at some noise levels.

    Zero means that the context is ignored, which the loss curve does not show.

    Args:
        model: The network.
        clips: (B, C, F, H, W) in [-1, 1], B at least 2.
        options: Arguments of the objective, ``schedule`` included.
        seed: Seed of the noise, the same at every call.
        labels: (B,) for a model with classes.
    """
    given = model.config.context_frames
    if not given or len(clips) < 2:
        return {}
    context, target = clips[:, :, :given], clips[:, :, given:]
    noise = torch.randn(target.shape, generator=generator(seed)).to(clips.device)
    fixed = {
        **options,
        "loss_type": "sample",
        "noise": noise,
        "label_dropout": 0.0,
        "class_labels": None if labels is None else labels.to(clips.device),
        "self_cond_mask": torch.ones(len(clips), dtype=torch.bool, device=clips.device),
    }
    gains = {}
    with torch.no_grad():
        for time in GAIN_TIMES:
            fixed["t"] = torch.full((len(clips),), time, device=clips.device)
            own, other = (
                diffusion_losses(model, target, context=c, **fixed).loss.mean() for c in (context, context.roll(1, 0))
            )
            gains[f"context_gain/t={time}"] = float(other - own)
            gains[f"own_context_error/t={time}"] = float(own)
    return gains


def _motion(clips: Tensor) -> float:
    """Mean absolute difference between neighbouring frames, in units of [-1, 1]."""
    return float(clips.diff(dim=2).abs().mean())
