"""The optimiser: parameter groups, which optimiser takes which, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from rinvid.training.config import OptimizerName
from rinvid.training.lamb import Lamb


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


def parameter_groups(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    """Trainable parameters as two optimiser groups: with weight decay, and without: biases and gains.

    Layers list the latter in ``no_decay``, see :mod:`rinvid.models.layers`. In layers that say nothing, of a plugin for
    example, every vector is one of them. What is not decayed gets no trust ratio from :class:`Lamb` either.

    Args:
        model: Any module.
        weight_decay: Decay of the first group.
    """
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            tags = getattr(module, "no_decay", None)
            (keep if (parameter.ndim <= 1 if tags is None else name in tags) else decay).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decay, "weight_decay": weight_decay, "trust_ratio": True},
        {"params": keep, "weight_decay": 0.0, "trust_ratio": False},
    ]
    return [group for group in groups if group["params"]]


class Optimizers:
    """One or more optimisers that step together and share one learning rate."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)

    def set_lr(self, lr: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """All state as named tensors, ``<optimiser>.<parameter>.<name>``; plain numbers become scalars."""
        return {
            f"{number}.{parameter}.{name}": torch.as_tensor(value)
            for number, optimizer in enumerate(self.optimizers)
            for parameter, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over the state that :meth:`tensors` gave.

        Raises:
            ValueError: The state belongs to other parameters.
        """
        for number, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                owner, parameter, name = key.split(".", 2)
                if int(owner) == number:
                    state.setdefault(int(parameter), {})[name] = value
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            # A parameter that never got a gradient has no state.
            for place, values in state.items():
                fits = place < len(parameters) and all(
                    v.shape in ((), parameters[place].shape) for v in values.values()
                )
                if not fits:
                    raise ValueError(f"optimiser state is for another network: parameter {place} does not fit")
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def create_optimizers(
    model: nn.Module, name: OptimizerName, weight_decay: float, betas: tuple[float, float] = (0.9, 0.95)
) -> Optimizers:
    """AdamW, LAMB, or Muon (Jordan et al. 2024) for the matrices between features and AdamW for the rest.

    The learning rate is set later, step by step. Muon's updates are scaled to the size of AdamW's, so that both take
    the same rates.

    Args:
        model: A model whose layers say what they hold, see :mod:`rinvid.models.layers`.
        name: "adamw", "lamb" or "muon".
        weight_decay: Decoupled decay of all but biases and gains.
        betas: Of AdamW and LAMB.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "adamw":
        return Optimizers([torch.optim.AdamW(groups, betas=betas, fused=True)])
    if name == "lamb":
        return Optimizers([Lamb(groups, betas=betas)])
    if name != "muon":
        raise ValueError(f"optimizer {name!r}; known: {', '.join(get_args(OptimizerName))}")
    hidden = {id(module.weight) for module in model.modules() if getattr(module, "hidden", False)}
    matrices = [p for group in groups for p in group["params"] if id(p) in hidden]
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in hidden]} for group in groups]
    muon = torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return Optimizers([muon, torch.optim.AdamW(rest, betas=betas, fused=True)])
