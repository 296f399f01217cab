"""Random numbers that depend on nothing but named whole numbers: the ground of exact resuming."""

from __future__ import annotations

import hashlib

import torch


def generator(*key: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator given by ``key``, for example (seed, step, process).

    Args:
        *key: Whole numbers; keys that differ anywhere give unrelated numbers.
        device: Where the generator draws.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
