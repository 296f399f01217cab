"""Features of the fixed random network are the same everywhere and tell clips apart."""

import pytest
import torch

from rinvid.metrics import frechet_distance
from rinvid.metrics.random3d import Random3D
from rinvid.registry import extractors


def ramp(batch: int = 2) -> torch.Tensor:
    """Clips made without random numbers."""
    count = batch * 3 * 4 * 16 * 16
    return (torch.arange(count, dtype=torch.float64) * 0.37).sin().float().reshape(batch, 3, 4, 16, 16)


def test_features_are_fixed_numbers() -> None:
    features = Random3D()(ramp())
    assert features.shape == (2, Random3D.num_features) == (2, 64)
    assert features.dtype == torch.float32
    assert features[0, :3].tolist() == pytest.approx([0.2718621, 0.6130766, 0.4478041], rel=1e-5)


def test_two_networks_are_the_same_network_without_touching_global_randomness() -> None:
    torch.manual_seed(1)
    first = Random3D()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(first(ramp()), extractors.create("random3d")(ramp()))
    assert list(first.parameters()) == []


def test_clips_of_a_batch_do_not_meet_and_any_size_is_taken() -> None:
    network, clip = Random3D(), ramp()
    torch.testing.assert_close(network(clip)[1:], network(clip[1:]))
    assert network(clip[:, :, :1, :8, :12]).shape == (2, 64)
    assert network(clip.double()).dtype == torch.float32
    assert not network(clip.requires_grad_()).requires_grad


def test_motion_is_seen() -> None:
    # The same frames in another order are another clip.
    network, clip = Random3D(), ramp()
    assert (network(clip) - network(clip[:, :, [0, 2, 1, 3]])).abs().max() > 1e-4


def test_a_distance_on_features_grows_with_the_damage() -> None:
    network, generator = Random3D(), torch.Generator().manual_seed(0)
    clip = torch.rand(24, 3, 4, 16, 16, generator=generator) * 2 - 1
    noise = torch.randn(clip.shape, generator=generator)
    true = network(clip)
    distances = [frechet_distance(true, network((clip + sigma * noise).clamp(-1, 1))) for sigma in (0, 0.3, 1.0)]
    assert abs(distances[0]) < 1e-6
    assert distances[0] < distances[1] < distances[2]
