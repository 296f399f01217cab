"""Random numbers that depend on nothing but named whole numbers: the ground of exact resuming."""

from __future__ import annotations

import numpy as np
import torch


def generator(*key: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator given by ``key``, for example (seed, step, process).

    Args:
        *key: Whole numbers >= 0; keys that differ anywhere give unrelated numbers.
        device: Where the generator draws.
    """
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))
