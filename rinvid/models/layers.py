"""The layers a RIN is made of. Each class lists in ``no_decay`` which of its own parameters are biases or gains.

Dense layers say in ``hidden`` whether what they make is features of the network, which is where Muon applies. Both are
properties of the module, not marks on the tensor, because tensors are replaced when weights are loaded or sharded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rinvid.models.positions import frequencies, waves


class Linear(nn.Linear):
    """Dense layer with Glorot-uniform kernel and zero bias.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        fans: fan_in + fan_out of the kernel, by which it is scaled. Where the authors' kernels have more than two axes,
            all but the last two multiply both fans, so that they start smaller than a matrix of the same size would.
    """

    no_decay = ("bias",)
    hidden = True

    def __init__(self, in_features: int, out_features: int, fans: int | None = None) -> None:
        self.fans = in_features + out_features if fans is None else fans
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        limit = math.sqrt(6 / self.fans)
        nn.init.uniform_(self.weight, -limit, limit)
        nn.init.zeros_(self.bias)


class Readout(Linear):
    """The last dense layer, whose rows stand for pixels rather than features."""

    hidden = False


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with eps 1e-6; ``gain`` is what the weight starts with."""

    no_decay = ("weight", "bias")

    def __init__(self, dim: int, gain: float = 1.0) -> None:
        super().__init__(dim, eps=1e-6)
        nn.init.constant_(self.weight, gain)


class Table(nn.Module):
    """A learned table of rows, shape (rows, dim), optionally added to a fixed one of the same shape."""

    fixed: Tensor | None

    def __init__(self, rows: int, dim: int, fixed: Tensor | None = None, learned: bool = True) -> None:
        super().__init__()
        fixed = None if fixed is None else fixed.to(torch.get_default_dtype())
        self.register_buffer("fixed", fixed, persistent=False)
        self.weight = nn.Parameter(torch.zeros(rows, dim)) if learned else None
        if self.weight is not None and fixed is None:
            nn.init.trunc_normal_(self.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self) -> Tensor:
        if self.weight is None:
            assert self.fixed is not None
            return self.fixed
        return self.weight if self.fixed is None else self.fixed + self.weight


class FeedForward(nn.Module):
    """LayerNorm -> Dense -> exact GELU -> dropout -> Dense; hidden width ``ratio * dim``."""

    def __init__(self, dim: int, ratio: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.expand = Linear(dim, ratio * dim)
        self.contract = Linear(ratio * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.dropout(F.gelu(self.expand(self.norm(x)))))  # (B, n, dim)


class Attention(nn.Module):
    """Multi-head attention of queries to a source; the width is split evenly over the heads."""

    def __init__(self, query_dim: int, source_dim: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads, head_dim = heads, width // heads
        # Kernels (in, heads, head_dim) and (heads, head_dim, out) in the authors' code.
        self.query = Linear(query_dim, width, fans=query_dim * (heads + head_dim))
        self.key = Linear(source_dim, width, fans=source_dim * (heads + head_dim))
        self.value = Linear(source_dim, width, fans=source_dim * (heads + head_dim))
        self.output = Linear(width, query_dim, fans=heads * (head_dim + query_dim))

    def forward(self, queries: Tensor, source: Tensor) -> Tensor:
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, tokens, width / heads)
            for x in (self.query(queries), self.key(source), self.value(source))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.output(mixed.transpose(1, 2).flatten(-2))  # (B, tokens of queries, query_dim)


class DropPath(nn.Module):
    """Stochastic depth: in training, drops a whole residual branch per sample and rescales the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        return branch * keep.to(branch.dtype) / (1 - self.rate)


class DepthwiseConv3d(nn.Conv3d):
    """Convolution of each channel by itself, with zeros beyond the border."""

    no_decay = ("bias",)

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)


class TokenMixer(nn.Module):
    """Depthwise convolution among the tokens of a grid.

    Args:
        dim: Width of a token.
        kernel_size: Side of the kernel, odd.
        trailing: Steps at the end of the grid's time axis that come before all others in time.
    """

    def __init__(self, dim: int, kernel_size: int, trailing: int = 0) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.conv = DepthwiseConv3d(dim, kernel_size)
        self.trailing = trailing

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        volume = self.norm(x).transpose(1, 2).unflatten(-1, grid)  # (B, dim, t, h, w)
        if self.trailing:
            volume = self.conv(volume.roll(self.trailing, dims=2)).roll(-self.trailing, dims=2)
        else:
            volume = self.conv(volume)
        return volume.flatten(2).transpose(1, 2)  # (B, t h w, dim)


class NoiseLevelEmbedding(nn.Module):
    """gamma in [0, 1] -> one token: standardised sine-cosine code of dim / 4, then two dense layers."""

    frequency_bits: Tensor

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.expand = Linear(dim // 4, dim)
        self.mix = Linear(dim, dim)
        # As whole numbers, so that the network's change to half precision leaves the frequencies as they are.
        self.register_buffer("frequency_bits", frequencies(dim // 4).float().view(torch.int32), persistent=False)

    def forward(self, gamma: Tensor) -> Tensor:
        code = waves(gamma.float() * self.scale, self.frequency_bits.view(torch.float32))  # (B, dim / 4)
        code = F.layer_norm(code, code.shape[-1:], eps=0.0)
        return self.mix(F.silu(self.expand(code.to(self.mix.weight.dtype)))).unsqueeze(1)  # (B, 1, dim)


class Recall(nn.Module):
    """Self-conditioning: ``LN0(previous + FFN(previous))``, whose gain starts at zero (RIN paper, section 3.3)."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.feed_forward = FeedForward(dim, ratio)
        self.norm = LayerNorm(dim, gain=0.0)

    def forward(self, previous: Tensor) -> Tensor:
        return self.norm(previous + self.feed_forward(previous))


class ComputeLayer(nn.Module):
    """One layer of self-attention among the latents, with dropout and stochastic depth."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.attention = Attention(dim, dim, dim, heads)
        self.feed_forward = FeedForward(dim, mlp_ratio, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, z: Tensor) -> Tensor:
        normed = self.norm(z)
        z = z + self.drop_path(self.attention(normed, normed))
        return z + self.drop_path(self.feed_forward(z))  # (B, m, d_z)


class CrossLayer(nn.Module):
    """Tokens of one set attend to another: the read and the write of a block."""

    def __init__(self, dim: int, source_dim: int, heads: int, mlp_ratio: int, norm_source: bool = False) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.norm_source = LayerNorm(source_dim) if norm_source else nn.Identity()
        self.attention = Attention(dim, source_dim, min(dim, source_dim), heads)
        self.feed_forward = FeedForward(dim, mlp_ratio)

    def attend(self, tokens: Tensor, source: Tensor) -> Tensor:
        return tokens + self.attention(self.norm(tokens), self.norm_source(source))

    def forward(self, tokens: Tensor, source: Tensor) -> Tensor:
        tokens = self.attend(tokens, source)
        return tokens + self.feed_forward(tokens)


class Write(CrossLayer):
    """Interface tokens attend to the latents, and optionally mix with their neighbours on the grid."""

    def __init__(
        self,
        dim: int,
        source_dim: int,
        heads: int,
        mlp_ratio: int,
        norm_source: bool = False,
        mixer_kernel: int = 0,
        trailing: int = 0,
    ) -> None:
        super().__init__(dim, source_dim, heads, mlp_ratio, norm_source)
        self.mixer = TokenMixer(dim, mixer_kernel, trailing) if mixer_kernel else None

    def forward(self, tokens: Tensor, source: Tensor, grid: tuple[int, int, int]) -> Tensor:  # type: ignore[override]
        tokens = self.attend(tokens, source)
        if self.mixer is not None:
            tokens = tokens + self.mixer(tokens, grid)
        return tokens + self.feed_forward(tokens)
