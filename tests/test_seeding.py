"""Random numbers by key."""

import pytest
import torch

from rinvid.seeding import generator


def draw(*key: int) -> torch.Tensor:
    return torch.rand(8, generator=generator(*key))


def test_a_key_gives_the_same_numbers_whatever_was_drawn_before() -> None:
    first = draw(3, 1, 4)
    torch.manual_seed(9)
    draw(2)
    assert torch.equal(draw(3, 1, 4), first)


@pytest.mark.parametrize(
    ("one", "other"),
    [((0,), (1,)), ((1, 2), (2, 1)), ((1, 2, 3), (1, 2, 4)), ((1, 2), (1, 2, 1)), ((5,), (5, 0)), ((2**32,), (0, 1))],
)
def test_keys_that_differ_give_other_numbers(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert not torch.equal(draw(*one), draw(*other))


def test_neighbouring_keys_are_unrelated() -> None:
    steps = torch.stack([torch.randn(256, generator=generator(0, step)) for step in range(50)])
    correlation = torch.corrcoef(steps).fill_diagonal_(0)
    assert correlation.abs().max() < 0.35
