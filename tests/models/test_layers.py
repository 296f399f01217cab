"""Layers whose behaviour the network's outputs alone do not show."""

import math

import pytest
import torch
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


def test_dense_layers_start_glorot_uniform_without_bias() -> None:
    torch.manual_seed(0)
    layer = Linear(300, 100)
    limit = math.sqrt(6 / 400)
    assert not layer.bias.any()
    assert layer.weight.abs().max() <= limit
    assert float(layer.weight.detach().std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)


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
