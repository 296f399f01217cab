"""Sine-cosine codes for positions and for the noise level (RIN paper, appendix; released code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Coordinates in [0, 1] are stretched to [0, 1000] before coding, so that neighbours differ clearly.
COORDINATE_SCALE = 1000.0


def frequencies(dim: int) -> Tensor:
    """The dim / 2 frequencies of a code of ``dim`` numbers, from 1 down to almost 1 / 10000, float64 on the CPU."""
    if dim % 2:
        raise ValueError(f"a sine-cosine code needs an even length, got {dim}")
    # On the CPU, because not every device has float64.
    return 10000.0 ** (-2 * torch.arange(dim // 2, dtype=torch.float64, device="cpu") / dim)


def waves(values: Tensor, frequency: Tensor) -> Tensor:
    """Sines, then cosines, of each value times each frequency: (*values.shape, 2 len(frequency))."""
    angle = values.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """Code each value in ``dim`` numbers: all sines first, then all cosines.

    Args:
        values: Any shape, in [0, 1000].
        dim: Length of the code, even.

    Returns:
        Shape (\\*values.shape, dim), in [-1, 1].
    """
    return waves(values, frequencies(dim).to(values))


def coordinates(length: int) -> Tensor:
    """Coordinates of ``length`` places spread evenly over [0, 1000]."""
    # float32 whatever the default: bf16 cannot tell 1000 from 998.
    return torch.arange(length, dtype=torch.float32) / max(length - 1, 1) * COORDINATE_SCALE


def grid_code(height: int, width: int, dim: int) -> Tensor:
    """Fixed 2-D code, shape (height * width, dim): y in the first half of the channels, x in the second.

    A grid with a side of 1 is coded as a line over all channels.
    """
    if 1 in (height, width):
        return sinusoid(coordinates(height * width), dim)
    y = sinusoid(coordinates(height), dim // 2).unsqueeze(1).expand(-1, width, -1)
    x = sinusoid(coordinates(width), dim // 2).unsqueeze(0).expand(height, -1, -1)
    return torch.cat([y, x], dim=-1).flatten(0, 1)


def clip_code(times: Sequence[float], height: int, width: int, dim: int, temporal: bool) -> Tensor:
    """Fixed code of a video grid in (t, h, w) order, shape (len(times) * height * width, dim).

    Args:
        times: Time of each step of the grid, as a share of the clip in [0, 1].
        temporal: Add a code of the time; without it the 2-D code is repeated over time, as in the released code.
    """
    code = grid_code(height, width, dim).unsqueeze(0).expand(len(times), -1, -1)
    if temporal:
        code = code + sinusoid(torch.tensor(times, dtype=torch.float32) * COORDINATE_SCALE, dim).unsqueeze(1)
    return code.flatten(0, 1)
