"""The optimiser: parameter groups, Muon with AdamW, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adamw", "muon"]


def learning_rate(
    step: int,
    base: float,
    warmup_steps: int,
    total_steps: int,
    schedule: str = "cosine",
    tail_steps: int = 0,
    end_factor: float = 0.0,
) -> float:
    """Learning rate after ``step`` optimiser steps: linear warm-up from 0, then a curve, then a flat tail.

    Args:
        step: Steps done, from 0.
        base: Rate at the end of the warm-up.
        warmup_steps: Length of the warm-up.
        total_steps: Length of the run.
        schedule: "none", "linear", "cosine", or "cosine@r" with r in (0, 1]: a cosine stretched by 1/r, of which only
            the first part is used, so that it does not reach its end.
        tail_steps: Last steps at ``base * end_factor``.
        end_factor: Where the curve ends, as a share of ``base``.

    Raises:
        ValueError: Unknown schedule, or r out of range.
    """
    name, _, share = schedule.partition("@")
    try:
        rate = float(share or 1)
    except ValueError:
        rate = 0.0
    if name not in ("none", "linear", "cosine") or not 0 < rate <= 1:
        raise ValueError(f"learning-rate schedule {schedule!r}; known: none, linear, cosine, cosine@r with r in (0, 1]")
    if step < warmup_steps:
        return base * step / warmup_steps
    if name == "none":
        return base
    done = (step - warmup_steps) / max((total_steps - warmup_steps - tail_steps) / rate, 1)
    done = min(done, 1.0)
    left = 1 - done if name == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return base * (end_factor + (1 - end_factor) * left)


class ParameterGroups(list[dict[str, Any]]):
    """Parameter groups for an optimiser, in a fixed order."""


def decayed(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters that get weight decay, and those that do not: biases and gains.

    Layers list the latter in ``no_decay``, see :mod:`rinvid.models.layers`.
    """
    decay, keep = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (keep if name in getattr(module, "no_decay", ()) else decay).append(parameter)
    return decay, keep
