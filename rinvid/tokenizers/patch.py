"""Patch tokenizers: non-overlapping patches of pixels through one dense layer each way (RIN paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from rinvid.models.layers import Linear, Readout
from rinvid.tokenizers.base import Grid, Tokenizer

# A strided convolution whose kernel is its stride is a dense layer on patches, which is what runs fast everywhere.
_VIDEO = "b (t pt) (h ph) (w pw) c -> b (t h w) (pt ph pw c)"
_FROM_VIDEO = "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)"


class Patch3D(Tokenizer):
    """Patches of frames x height x width; a clip's end is filled with zeros up to whole patches.

    Args:
        patch_size: [frames, height, width], for example [2, 4, 4].
    """

    def __init__(self, in_channels: int, out_channels: int, dim: int, patch_size: Sequence[int] = (2, 4, 4)) -> None:
        super().__init__(in_channels, out_channels, dim)
        if len(patch_size) != 3 or any(not isinstance(p, int) or p < 1 for p in patch_size):
            raise ValueError(f"patch_size must be three whole numbers >= 1 (frames, height, width), got {patch_size}")
        self.patch = tuple(patch_size)
        volume = self.patch[0] * self.patch[1] * self.patch[2]
        # A convolution's kernel (frames, height, width, in, out) in the authors' code.
        self.stem = Linear(volume * in_channels, dim, fans=volume * (in_channels + dim))
        self.readout = Readout(dim, volume * out_channels)

    video = True

    @property
    def frame_stride(self) -> int:
        return self.patch[0]

    def grid(self, frames: int, height: int, width: int) -> Grid:
        pt, ph, pw = self.patch
        if height % ph or width % pw:
            raise ValueError(f"frames of {height}x{width} do not divide into patches of {ph}x{pw}")
        return -(-frames // pt), height // ph, width // pw

    def encode(self, sample: Tensor) -> Tensor:
        pt, ph, pw = self.patch
        sample = F.pad(sample, (0, 0, 0, 0, 0, -sample.shape[2] % pt))
        return self.stem(rearrange(sample.movedim(1, -1), _VIDEO, pt=pt, ph=ph, pw=pw))  # (B, t h w, dim)

    def decode(self, tokens: Tensor, grid: Grid) -> Tensor:
        (t, h, w), (pt, ph, pw) = grid, self.patch
        return rearrange(self.readout(tokens), _FROM_VIDEO, t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)  # (B, C, F, H, W)


class Patch2D(Patch3D):
    """Square or rectangular patches of one image.

    Args:
        patch_size: Side in pixels, or [height, width].
    """

    def __init__(self, in_channels: int, out_channels: int, dim: int, patch_size: int | Sequence[int] = 4) -> None:
        sides = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
        super().__init__(in_channels, out_channels, dim, (1, *sides))

    video = False

    def encode(self, sample: Tensor) -> Tensor:
        return super().encode(sample.unsqueeze(2))

    def decode(self, tokens: Tensor, grid: Grid) -> Tensor:
        return super().decode(tokens, grid).squeeze(2)  # (B, C, H, W)
