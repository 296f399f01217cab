"""Features of clips from a fixed random 3-D network: for telling runs apart where no pretrained weights are at hand.

A distance on them says whether one run is nearer to the data than another on the same clips. It is not FVD, is named
``frechet_random3d`` everywhere, and compares with no published number.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 0
CHANNELS = (3, 32, 64, 64)


class Random3D(nn.Module):
    """Three strided 3x3x3 convolutions with weights from a fixed seed, then the mean over time and space.

    Maps clips (B, 3, F, H, W) in [-1, 1] to features (B, 64).
    """

    num_features = CHANNELS[-1]

    def __init__(self) -> None:
        super().__init__()
        # NumPy's generator is stable over versions and platforms; torch's need not be.
        rng = np.random.default_rng(SEED)
        for index, (inputs, outputs) in enumerate(pairwise(CHANNELS)):
            kernel = rng.standard_normal((outputs, inputs, 3, 3, 3)) * (2 / (inputs * 27)) ** 0.5
            self.register_buffer(f"kernel{index}", torch.from_numpy(kernel).float(), persistent=False)

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        x = clips.float()
        for index in range(len(CHANNELS) - 1):
            x = F.relu(F.conv3d(x, getattr(self, f"kernel{index}"), stride=(1, 2, 2), padding=1))
        return x.mean(dim=(2, 3, 4))
