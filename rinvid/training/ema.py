"""Exponential moving average of weights with a constant decay from the first step, as RIN is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Average of a model's parameters and buffers.

    Args:
        model: The model; its present weights are the average's start.
        decay: In [0, 1); each update moves the average by 1 - decay of the way to the weights.

    Raises:
        ValueError: ``decay`` is out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.average = {name: tensor.detach().clone() for name, tensor in _state(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights; whole-number buffers are copied."""
        pairs = [(self.average[name], tensor) for name, tensor in _state(model).items()]
        floating = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], 1 - self.decay)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)

    @contextmanager
    def averaged(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model holds the average in evaluation mode; its weights come back whatever happens."""
        own = {name: tensor.detach().clone() for name, tensor in _state(model).items()}
        training = model.training
        try:
            _fill(model, self.average)
            model.eval()
            yield
        finally:
            _fill(model, own)
            model.train(training)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors by name."""
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over saved averages.

        Raises:
            ValueError: A tensor is missing or unknown.
        """
        if state.keys() != self.average.keys():
            raise ValueError(f"averaged weights do not fit: {sorted(state.keys() ^ self.average.keys())[:3]} ...")
        for name, tensor in state.items():
            self.average[name].copy_(tensor)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return model.state_dict(keep_vars=True)


@torch.no_grad()
def _fill(model: nn.Module, state: dict[str, Tensor]) -> None:
    for name, tensor in _state(model).items():
        tensor.copy_(state[name])
