"""Sine-cosine codes, against the formula written out number by number."""

import math

import pytest
import torch

from rinvid.models.positions import clip_code, coordinates, grid_code, sinusoid


def code(value: float, dim: int) -> list[float]:
    """Sines of value / 10000^(i / dim) for even i, then cosines of the same angles."""
    angles = [value / 10000 ** (i / dim) for i in range(0, dim, 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


@pytest.mark.parametrize("dim", [2, 8, 12])
@pytest.mark.parametrize("value", [0.0, 1.0, 333.25, 1000.0])
def test_sinusoid(value: float, dim: int) -> None:
    made = sinusoid(torch.tensor([[value]], dtype=torch.float64), dim)
    assert made.shape == (1, 1, dim)
    torch.testing.assert_close(made[0, 0], torch.tensor(code(value, dim), dtype=torch.float64))


def test_an_odd_length_is_refused() -> None:
    with pytest.raises(ValueError, match="even length, got 7"):
        sinusoid(torch.zeros(1), 7)


@pytest.mark.parametrize(("length", "expected"), [(1, [0]), (2, [0, 1000]), (5, [0, 250, 500, 750, 1000])])
def test_coordinates_are_spread_over_a_thousand(length: int, expected: list[float]) -> None:
    torch.testing.assert_close(coordinates(length), torch.tensor(expected, dtype=torch.float32))


def test_a_grid_codes_y_then_x() -> None:
    made = grid_code(3, 2, 16)
    assert made.shape == (6, 16)
    for y in range(3):
        for x in range(2):
            expected = torch.tensor(code(500.0 * y, 8) + code(1000.0 * x, 8))
            torch.testing.assert_close(made[2 * y + x], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(1, 4), (4, 1)])
def test_a_line_is_coded_over_all_channels(height: int, width: int) -> None:
    torch.testing.assert_close(grid_code(height, width, 16), sinusoid(coordinates(4), 16))


def test_a_clip_repeats_the_frame_code_over_time() -> None:
    made = clip_code([0.0, 0.25, 1.0], 2, 2, 16, temporal=False).unflatten(0, (3, 4))
    for frame in made:
        assert torch.equal(frame, grid_code(2, 2, 16))


def test_a_temporal_code_tells_frames_apart() -> None:
    made = clip_code([0.0, 0.25, 1.0], 2, 2, 16, temporal=True).unflatten(0, (3, 4))
    for frame, time in zip(made, (0.0, 250.0, 1000.0), strict=True):
        torch.testing.assert_close(frame - grid_code(2, 2, 16), torch.tensor([code(time, 16)] * 4), atol=1e-4, rtol=0)
