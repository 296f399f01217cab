"""What a pass is conditioned on beside the noise level: the latents of another pass, and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentCarry:
    """The latents (and interface) that condition the next pass; empty at the start of a trajectory.

    Attributes:
        latents: (B, m, d_z), or None for zeros.
        interface: (B, n, d_x), or None for zeros.
    """

    latents: Tensor | None = None
    interface: Tensor | None = None

    @classmethod
    def of(cls, output: Any) -> LatentCarry:
        """What a model's output hands on, cut off from its gradient."""
        return cls(output.latents.detach(), output.interface.detach())

    def keep(self, mask: Tensor) -> LatentCarry:
        """The same where ``mask`` (B,) is true, zeros elsewhere."""
        return LatentCarry(*(None if x is None else x * mask.reshape(-1, 1, 1).to(x.dtype) for x in self._fields()))

    def _fields(self) -> tuple[Tensor | None, Tensor | None]:
        return self.latents, self.interface

    def inputs(self) -> dict[str, Tensor | None]:
        """Keyword arguments of the model's next pass."""
        return {"latents": self.latents, "interface": self.interface}


def self_conditioning_mask(
    batch: int, rate: float, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Which samples keep their self-conditioning latents in training, (B,) bool, each with probability ``rate``."""
    return torch.rand(batch, generator=generator, device=device) > 1 - rate


def drop_labels(labels: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Labels (B,), each replaced by -1, the dropped label, with probability ``rate``.

    Training so is what classifier-free guidance needs (Ho and Salimans 2022, algorithm 1).
    """
    return labels.where(torch.rand(labels.shape, generator=generator, device=labels.device) >= rate, -1)


def guided(
    model: Any, inputs: Mapping[str, Tensor | None], carry: LatentCarry, scale: float = 0.0
) -> tuple[Tensor, LatentCarry]:
    """One pass with classifier-free guidance: the output, and what the next pass is given.

    The output is ``(1 + scale) * conditional - scale * unconditional``. Both passes run as one batch, see the same
    carried latents, and the conditional one hands its latents on.

    Args:
        model: A model with the forward of :class:`rinvid.RINModel`.
        inputs: Its keyword arguments, ``class_labels`` (B,) among them unless ``scale`` is 0.
        carry: What the pass before handed on.
        scale: Guidance scale w; 0 is none.

    Returns:
        The network's output, shaped like the sample, and the new carry.

    Raises:
        ValueError: ``scale`` is not 0 and there are no labels.
    """
    if scale == 0:
        output = model(**inputs, **carry.inputs())
        return output.sample, LatentCarry.of(output)
    labels = inputs.get("class_labels")
    if labels is None:
        raise ValueError(f"guidance_scale={scale} needs class labels; without labels it must be 0")
    both = {name: _twice(value) for name, value in (dict(inputs) | carry.inputs()).items()}
    both["class_labels"] = torch.cat([labels, torch.full_like(labels, -1)])
    output = model(**both)
    conditional, unconditional = output.sample.chunk(2)
    handed_on = LatentCarry(output.latents.chunk(2)[0].detach(), output.interface.chunk(2)[0].detach())
    return (1 + scale) * conditional - scale * unconditional, handed_on


def _twice(value: Any) -> Any:
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.ndim else value
