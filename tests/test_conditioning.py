"""What a pass takes over from another pass."""

from types import SimpleNamespace

import pytest
import torch

from rinvid.conditioning import LatentCarry, self_conditioning_mask


def carry_of(batch: int = 3) -> LatentCarry:
    output = SimpleNamespace(
        latents=torch.randn(batch, 4, 8, requires_grad=True), interface=torch.randn(batch, 5, 6, requires_grad=True)
    )
    return LatentCarry.of(output)


def test_an_empty_carry_is_no_input() -> None:
    assert LatentCarry().inputs() == {"latents": None, "interface": None}
    assert LatentCarry().keep(torch.tensor([True])) == LatentCarry()


def test_a_carry_is_cut_off_from_the_gradient() -> None:
    inputs = carry_of().inputs()
    assert set(inputs) == {"latents", "interface"}
    assert not any(value.requires_grad for value in inputs.values() if value is not None)


def test_keep_zeroes_the_other_samples() -> None:
    carry = carry_of()
    kept = carry.keep(torch.tensor([True, False, True]))
    for name, value in carry.inputs().items():
        after = kept.inputs()[name]
        assert value is not None
        assert after is not None
        assert torch.equal(after[[0, 2]], value[[0, 2]])
        assert not after[1].any()
        assert value[1].any(), "the carry it was taken from is unchanged"


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_the_mask_keeps_each_sample_with_the_rate(rate: float) -> None:
    mask = self_conditioning_mask(20_000, rate, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert mask.dtype == torch.bool
    assert float(mask.float().mean()) == pytest.approx(rate, abs=0.01)


def test_the_mask_is_given_by_the_generator() -> None:
    first, again, other = (
        self_conditioning_mask(100, 0.5, torch.device("cpu"), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
