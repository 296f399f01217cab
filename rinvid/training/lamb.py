"""LAMB, the optimiser RIN is trained with (You et al. 2020, arXiv 1904.00962, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """Adam whose step on each tensor is as long as the learning rate times the tensor's own norm.

    With bias-corrected moments m and v, ``u = m / (sqrt(v) + eps) + weight_decay * p`` and the step is
    ``lr * ||p|| / ||u|| * u``, where the ratio is 1 if either norm is 0. The ratio has no bounds.

    Args:
        params: Parameters, or groups of them; see :func:`rinvid.training.parameter_groups`.
        lr: Learning rate >= 0.
        betas: Decay rates of the two moments, in [0, 1).
        eps: Added to sqrt(v), > 0.
        weight_decay: Decoupled weight decay >= 0.
        trust_ratio: Whether steps are scaled by ||p|| / ||u||. None ties it to the weight decay: what is not decayed is
            not scaled, as in the authors' groups.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        trust_ratio: bool | None = None,
    ) -> None:
        if not (lr >= 0 and weight_decay >= 0 and eps > 0):
            raise ValueError(f"LAMB needs lr, weight_decay >= 0 and eps > 0, got {lr=}, {weight_decay=}, {eps=}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"LAMB needs two betas in [0, 1), got {betas}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "trust_ratio": trust_ratio}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; nothing is read from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step(parameters, group)
        return loss

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                # Steps are counted on the CPU, where reading them costs nothing.
                step = torch.zeros((), dtype=torch.float32, device="cpu")
                self.state[p] = {"step": step, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        states = [self.state[p] for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        m, v = [state["m"] for state in states], [state["v"] for state in states]
        torch._foreach_add_([state["step"] for state in states], 1)
        steps = [float(state["step"]) for state in states]

        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(m, gradients, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, gradients, gradients, 1 - beta2)
        # In place from here on, so that a step needs room for the parameters once more and not twice.
        update = torch._foreach_div(v, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(update)
        torch._foreach_add_(update, group["eps"])
        torch._foreach_mul_(update, [1 - beta1**step for step in steps])
        torch._foreach_reciprocal_(update)
        torch._foreach_mul_(update, m)
        torch._foreach_add_(update, parameters, alpha=group["weight_decay"])

        scaled = group["weight_decay"] > 0 if group["trust_ratio"] is None else group["trust_ratio"]
        if scaled:
            for u, ratio in zip(update, _ratios(parameters, list(update)), strict=True):
                u.mul_(ratio)
        torch._foreach_add_(parameters, update, alpha=-group["lr"])


def _ratios(parameters: list[Tensor], update: list[Tensor]) -> Sequence[Tensor]:
    """||p|| / ||u|| of each tensor, 1 where either is 0."""
    sizes = torch.stack(torch._foreach_norm(parameters))
    lengths = torch.stack(torch._foreach_norm(update))
    return torch.where((sizes > 0) & (lengths > 0), sizes / lengths, 1.0).unbind()
