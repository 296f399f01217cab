"""What a tokenizer is: the network's two ends, from samples to interface tokens and back."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

Grid = tuple[int, int, int]


class Tokenizer(nn.Module, ABC):
    """Contract of a tokenizer: learned ends of the network, built by name from a spec.

    Args:
        in_channels: Channels of the samples given to :meth:`encode`.
        out_channels: Channels of the samples made by :meth:`decode`.
        dim: Width of a token.
    """

    def __init__(self, in_channels: int, out_channels: int, dim: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dim = dim

    video: bool
    """Whether samples are clips (B, C, F, H, W) rather than images (B, C, H, W)."""

    @property
    @abstractmethod
    def frame_stride(self) -> int:
        """Frames covered by one step of the grid's time axis; 1 for images."""

    @abstractmethod
    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Tokens along (t, h, w) for a sample of that size; t is 1 for images.

        Raises:
            ValueError: The size cannot be tokenized, with what is allowed.
        """

    @abstractmethod
    def encode(self, sample: Tensor) -> Tensor:
        """(B, C, H, W) or (B, C, F, H, W) -> tokens (B, t h w, dim) in (t, h, w) order."""

    @abstractmethod
    def decode(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Tokens (B, t h w, dim) of ``grid`` -> sample; a video may be longer than what was encoded."""
