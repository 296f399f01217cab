"""Layers whose behaviour the network's outputs alone do not show."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rinvid.models.layers import (
    Attention,
    DropPath,
    FeedForward,
    LayerNorm,
    Linear,
    NoiseLevelEmbedding,
    Recall,
    Table,
    TokenMixer,
)
from rinvid.tokenizers.patch import Patch2D, Patch3D


def assert_drawn_like(weight: Tensor, *kernel: int) -> None:
    """The weight is uniform within the limit that the authors' framework computes from its kernel's shape."""
    rest, (fan_in, fan_out) = math.prod(kernel[:-2]), kernel[-2:]
    limit = math.sqrt(6 / (rest * (fan_in + fan_out)))
    assert weight.numel() == math.prod(kernel)
    assert 0.98 * limit < float(weight.detach().abs().max()) <= limit
    assert float(weight.detach().std()) == pytest.approx(limit / math.sqrt(3), rel=0.03)


def test_dense_layers_start_glorot_uniform_without_bias() -> None:
    torch.manual_seed(0)
    layer = Linear(300, 100)
    limit = math.sqrt(6 / 400)
    assert not layer.bias.any()
    assert layer.weight.abs().max() <= limit
    assert float(layer.weight.detach().std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(("query", "source", "width", "heads"), [(64, 64, 64, 8), (96, 48, 48, 4), (48, 96, 48, 16)])
def test_attention_starts_as_small_as_the_authors_kernels(query: int, source: int, width: int, heads: int) -> None:
    torch.manual_seed(0)
    attention, head_dim = Attention(query, source, width, heads), width // heads
    assert_drawn_like(attention.query.weight, query, heads, head_dim)
    assert_drawn_like(attention.key.weight, source, heads, head_dim)
    assert_drawn_like(attention.value.weight, source, heads, head_dim)
    assert_drawn_like(attention.output.weight, heads, head_dim, query)
    assert not any(parameter.any() for name, parameter in attention.named_parameters() if name.endswith("bias"))


def test_patch_stems_start_as_small_as_the_authors_convolutions() -> None:
    torch.manual_seed(0)
    image, video = Patch2D(3, 3, dim=96, patch_size=[8, 4]), Patch3D(6, 3, dim=96, patch_size=[2, 4, 4])
    assert_drawn_like(image.stem.weight, 8, 4, 3, 96)
    assert_drawn_like(video.stem.weight, 2, 4, 4, 6, 96)
    # The way out is a dense layer there too.
    assert_drawn_like(image.readout.weight, 96, 8 * 4 * 3)
    assert_drawn_like(video.readout.weight, 96, 2 * 4 * 4 * 3)
    assert not any(layer.bias.any() for codec in (image, video) for layer in (codec.stem, codec.readout))


def test_feed_forward_layers_start_glorot_uniform() -> None:
    torch.manual_seed(0)
    layer = FeedForward(48, ratio=4)
    assert_drawn_like(layer.expand.weight, 48, 192)
    assert_drawn_like(layer.contract.weight, 192, 48)


def test_normalisation_has_the_reference_epsilon_and_a_chosen_gain() -> None:
    norm = LayerNorm(4, gain=0.0)
    assert norm.eps == 1e-6
    assert not norm(torch.randn(2, 4)).any()


def test_tables_start_as_a_truncated_normal_or_at_zero_beside_a_fixed_code() -> None:
    torch.manual_seed(0)
    free = Table(200, 50)().detach()
    assert float(free.std()) == pytest.approx(0.0176, rel=0.03)  # of a normal of 0.02 cut off at two deviations
    assert free.abs().max() <= 0.04
    fixed = torch.randn(5, 6)
    assert torch.equal(Table(5, 6, fixed)(), fixed)
    assert list(Table(5, 6, fixed, learned=False).parameters()) == []


def test_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    attention = Attention(query_dim=6, source_dim=4, width=8, heads=2)
    queries, source = torch.randn(3, 5, 6), torch.randn(3, 7, 4)
    q, k, v = attention.query(queries), attention.key(source), attention.value(source)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        weights = (q[..., h] @ k[..., h].transpose(1, 2) / 2).softmax(-1)
        heads.append(weights @ v[..., h])
    torch.testing.assert_close(attention(queries, source), attention.output(torch.cat(heads, -1)))


def test_drop_path_drops_whole_samples_and_rescales_the_rest() -> None:
    torch.manual_seed(0)
    layer, branch = DropPath(0.25), torch.ones(4000, 2, 3)
    out = layer(branch)
    by_sample = out.flatten(1)
    assert (by_sample == by_sample[:, :1]).all()
    torch.testing.assert_close(out.unique(), torch.tensor([0, 1 / 0.75]))
    assert float(out.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(branch), branch)
    assert torch.equal(DropPath(0.0)(branch), branch)


def test_dropout_acts_inside_the_feed_forward_in_training_only() -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(8, ratio=2, dropout=0.5), torch.randn(2, 3, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    hidden = F.gelu(layer.expand(layer.norm(x)))
    torch.testing.assert_close(layer(x), layer.contract(hidden))


def test_the_mixer_reaches_neighbours_on_the_grid_and_no_further() -> None:
    torch.manual_seed(0)
    grid, mixer = (3, 4, 5), TokenMixer(8, 3)
    x = torch.randn(1, 60, 8)
    moved = x.clone()
    moved[0, 1 * 20 + 1 * 5 + 1] += torch.randn(8)
    changed = (mixer(moved, grid) - mixer(x, grid)).abs().sum(-1).reshape(grid) > 1e-6
    near = torch.zeros(grid, dtype=torch.bool)
    near[:, 0:3, 0:3] = True
    assert torch.equal(changed, near)


def steps_that_hear(mixer: TokenMixer, grid: tuple[int, int, int], step: int) -> set[int]:
    """Which steps of the grid change when a token in the middle of ``step`` does."""
    torch.manual_seed(1)
    t, h, w = grid
    x = torch.randn(1, t * h * w, 8)
    moved = x.clone()
    moved[0, step * h * w + (h // 2) * w + w // 2] += torch.randn(8)
    changed = (mixer(moved, grid) - mixer(x, grid)).abs().reshape(t, -1).amax(1) > 1e-6
    return {i for i in range(t) if changed[i]}


@pytest.mark.parametrize(
    ("kernel", "trailing", "neighbours"),
    [
        # Steps 3 and 4 are context, in time 3 4 0 1 2.
        (3, 2, [{4, 0, 1}, {0, 1, 2}, {1, 2}, {3, 4}, {3, 4, 0}]),
        (5, 2, [{3, 4, 0, 1, 2}, {4, 0, 1, 2}, {0, 1, 2}, {3, 4, 0}, {3, 4, 0, 1}]),
        (3, 4, [{4, 0}, {1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4, 0}]),
        (3, 0, [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4}]),
    ],
)
def test_neighbours_are_those_in_time(kernel: int, trailing: int, neighbours: list[set[int]]) -> None:
    torch.manual_seed(0)
    mixer = TokenMixer(8, kernel, trailing)
    assert [steps_that_hear(mixer, (5, 3, 3), step) for step in range(5)] == neighbours


def test_mixing_is_a_convolution_in_the_order_of_time() -> None:
    torch.manual_seed(0)
    grid, mixer = (5, 2, 3), TokenMixer(8, 3, trailing=2)
    x = torch.randn(2, 30, 8)
    by_time = x.unflatten(1, grid)[:, [3, 4, 0, 1, 2]]
    volume = F.layer_norm(by_time, (8,), eps=1e-6).movedim(-1, 1)
    mixed = F.conv3d(volume, mixer.conv.weight, mixer.conv.bias, padding=1, groups=8).movedim(1, -1)
    torch.testing.assert_close(mixer(x, grid), mixed[:, [2, 3, 4, 0, 1]].flatten(1, 3))


def test_the_noise_level_code_is_standardised() -> None:
    torch.manual_seed(0)
    layer, seen = NoiseLevelEmbedding(32, scale=1000.0), []
    layer.expand.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert layer(torch.tensor([0.0, 0.37, 1.0])).shape == (3, 1, 32)
    torch.testing.assert_close(seen[0].mean(-1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[0].std(-1, correction=0), torch.ones(3))


def test_recall_starts_silent_and_learns_through_its_gain() -> None:
    torch.manual_seed(0)
    recall, previous = Recall(8, ratio=2), torch.randn(2, 3, 8)
    assert not recall(previous).any()
    recall(previous).square().sum().add(recall(previous).sum()).backward()
    assert recall.norm.weight.grad is not None
    assert recall.norm.weight.grad.any()
