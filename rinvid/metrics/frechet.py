"""Frechet distance between Gaussians fitted to two sets of features, in float64."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor


def frechet_distance(a: ArrayLike | Tensor, b: ArrayLike | Tensor) -> float:
    """|mean_a - mean_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), with S the covariances over N - 1.

    With S = B B^T the last trace is the nuclear norm of B_a^T B_b. That form takes no square root of an eigenvalue
    that should be zero, and so stays exact where there are fewer samples than dimensions.

    Args:
        a: Features (N, D).
        b: Features (M, D).

    Raises:
        ValueError: Not two matrices of equal width with at least two rows each, or a value is not finite.
    """
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features must be (N, D) and (M, D) with N, M >= 2, got {tuple(a.shape)}, {tuple(b.shape)}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features hold a value that is not finite")
    mean_a, mean_b = a.mean(0), b.mean(0)
    root_a, root_b = _root((a - mean_a) / (len(a) - 1) ** 0.5), _root((b - mean_b) / (len(b) - 1) ** 0.5)
    cross = torch.linalg.svdvals(root_a.T @ root_b).sum()
    spread = root_a.square().sum() + root_b.square().sum() - 2 * cross
    return float((mean_a - mean_b).square().sum() + spread)


def _root(scaled: Tensor) -> Tensor:
    """B (D, rank) with B B^T = scaled^T scaled, for centred features over sqrt(N - 1)."""
    values, vectors = torch.linalg.eigh(scaled.T @ scaled)
    kept = values > scaled.shape[1] * torch.finfo(values.dtype).eps * values.max()
    return vectors[:, kept] * values[kept].sqrt()
