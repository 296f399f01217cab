"""How near predicted frames are to the true ones: PSNR and SSIM by clip."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

RANGE = 2.0  # of values in [-1, 1]


def psnr(predicted: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each clip in dB, shape (B,), from the error over all of its values.

    Args:
        predicted: (B, ...) in [-1, 1].
        truth: Like ``predicted``.
    """
    error = (predicted.double() - truth.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(RANGE**2 / error.clamp(min=1e-10))


def ssim(predicted: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each clip, shape (B,), averaged over its frames.

    Args:
        predicted: (B, C, F, H, W) in [-1, 1], H and W at least 11.
        truth: Like ``predicted``.
    """
    # SSIM's brightness term is made for values that are not negative.
    made, true = (x.transpose(1, 2).flatten(0, 1).float().add(1).div(2) for x in (predicted, truth))
    values = structural_similarity_index_measure(made, true, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(predicted.shape[0], -1).mean(1)
