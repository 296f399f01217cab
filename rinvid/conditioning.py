"""What a pass is conditioned on beside the noise level: the latents of another pass."""

from __future__ import annotations

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
