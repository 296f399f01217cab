"""What a pass takes over from another pass, labels that are dropped, and guidance towards them."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rinvid.conditioning import LatentCarry, drop_labels, guided, self_conditioning_mask
from rinvid.models.rin import RINModel
from tests.helpers import assert_close, model_inputs, randomised, small_model

LABELLED: dict[str, dict[str, Any]] = {
    "images": {"num_frames": None, "context_frames": 0, "num_classes": 4},
    "images that carry both": {
        "num_frames": None,
        "context_frames": 0,
        "num_classes": 4,
        "self_cond": "latent+interface",
    },
    "images without memory": {"num_frames": None, "context_frames": 0, "num_classes": 4, "self_cond": "none"},
    "clips with context": {"num_classes": 4},
    "clips with context that carry both": {"num_classes": 4, "self_cond": "latent+interface"},
    "clips, label and noise level on the interface": {
        "num_classes": 4,
        "cond_on_latent": False,
        "time_on_latent": False,
    },
}


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


def same(a: LatentCarry, b: LatentCarry) -> bool:
    pairs = zip(a.inputs().values(), b.inputs().values(), strict=True)
    return all(x is y is None or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs)


@pytest.mark.parametrize("cuts", [[0, 5], [0, 2, 5], [0, 1, 2, 3, 4, 5], [0, 4, 5]])
def test_parts_join_to_the_whole(cuts: list[int]) -> None:
    carry = carry_of(5)
    parts = [carry.part(first, end) for first, end in pairwise(cuts)]
    assert [len(part.latents) for part in parts] == [end - first for first, end in pairwise(cuts)]
    assert same(LatentCarry.join(parts), carry)
    if len(parts) > 1:
        assert not same(LatentCarry.join(parts[::-1]), carry), "their order is that of the batch"


def test_a_part_is_of_the_samples_asked_for() -> None:
    carry = carry_of(5)
    part = carry.part(1, 3)
    for name, value in carry.inputs().items():
        assert torch.equal(part.inputs()[name], value[1:3])
    assert len(carry.part(3, 100).latents) == 2
    assert len(carry.latents) == 5, "the carry it was taken from is unchanged"


@pytest.mark.parametrize("held", ["nothing", "latents"])
def test_what_is_not_there_stays_so_in_parts_and_joined(held: str) -> None:
    carry = LatentCarry() if held == "nothing" else LatentCarry(latents=torch.randn(4, 3, 2))
    parts = [carry.part(0, 3), carry.part(3, 4)]
    assert all(part.interface is None for part in parts)
    assert same(LatentCarry.join(parts), carry)


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


# -- labels are dropped


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_labels_are_dropped_with_the_rate(rate: float) -> None:
    labels = torch.arange(20_000) % 10
    dropped = drop_labels(labels, rate, torch.Generator().manual_seed(0))
    gone = dropped == -1
    assert dropped.dtype == labels.dtype
    assert float(gone.float().mean()) == pytest.approx(rate, abs=0.01 if 0 < rate < 1 else 0)
    assert torch.equal(dropped[~gone], labels[~gone])
    assert labels.min() == 0, "the labels it was given are unchanged"


def test_a_dropped_label_stays_dropped() -> None:
    assert drop_labels(torch.tensor([-1, 3]), 0.0).tolist() == [-1, 3]


def test_the_generator_decides_which_labels_are_dropped() -> None:
    labels = torch.arange(100)
    first, again, other = (drop_labels(labels, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# -- guidance


def labelled(kind: str) -> tuple[RINModel, dict[str, Tensor]]:
    """A model with labels, and what a pass at one noise level takes."""
    model = randomised(small_model(**LABELLED[kind]))
    return model, model_inputs(model, 3) | {"gamma": torch.tensor(0.4), "class_labels": torch.tensor([0, 3, 1])}


@pytest.mark.parametrize("kind", LABELLED)
@torch.no_grad()
def test_no_guidance_is_a_single_pass(kind: str) -> None:
    model, inputs = labelled(kind)
    expected = model(**inputs)
    sizes: list[int] = []
    model.register_forward_hook(lambda *arguments: sizes.append(len(arguments[-1].sample)))
    output, carry = guided(model, inputs, LatentCarry(), 0.0)
    assert sizes == [3]
    assert torch.equal(output, expected.sample)
    assert torch.equal(carry.latents, expected.latents)
    assert torch.equal(carry.interface, expected.interface)


@torch.no_grad()
def test_no_guidance_needs_no_labels() -> None:
    model = randomised(small_model())
    inputs = model_inputs(model)
    assert torch.equal(guided(model, inputs, LatentCarry())[0], model(**inputs).sample)


@pytest.mark.parametrize("scale", [2.0, 0.5, -1.0])
@pytest.mark.parametrize("kind", LABELLED)
@torch.no_grad()
def test_guidance_is_two_passes_of_which_the_one_with_labels_hands_on(kind: str, scale: float) -> None:
    model, inputs = labelled(kind)
    without_labels = inputs | {"class_labels": torch.full((3,), -1)}
    carry, latents, interface = LatentCarry(), None, None
    for step in range(2):
        output, carry = guided(model, inputs, carry, scale)
        towards = model(**inputs, latents=latents, interface=interface)
        away = model(**without_labels, latents=latents, interface=interface)
        assert_close(output, (1 + scale) * towards.sample - scale * away.sample, 1e-4)
        assert (output - towards.sample).abs().max() > 1e-2, f"step {step}: guidance must matter"
        latents, interface = towards.latents, towards.interface
        assert_close(carry.latents, latents, 1e-4)
        assert_close(carry.interface, interface, 1e-4)
        assert (latents - away.latents).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["images", "clips with context"])
@torch.no_grad()
def test_guidance_towards_a_dropped_label_changes_nothing(kind: str) -> None:
    model, inputs = labelled(kind)
    inputs["class_labels"] = torch.tensor([0, -1, 1])
    output, carry = guided(model, inputs, LatentCarry(), 3.0)
    plain = model(**inputs)
    assert_close(output[1], plain.sample[1], 1e-4)
    assert_close(carry.latents, plain.latents, 1e-4)
    assert ((output - plain.sample).flatten(1).abs().amax(1) > 1e-2).tolist() == [True, False, True]


def test_guidance_carries_nothing_with_a_gradient() -> None:
    model, inputs = labelled("clips with context that carry both")
    output, carry = guided(model, inputs, LatentCarry(), 1.0)
    assert output.requires_grad
    assert not any(value.requires_grad for value in carry.inputs().values() if value is not None)


@pytest.mark.parametrize("base", [{}, {"num_classes": 4}], ids=["no classes", "classes"])
def test_guidance_without_labels_is_refused(base: dict[str, Any]) -> None:
    model = small_model(**base)
    inputs: dict[str, Tensor | None] = {**model_inputs(model), "class_labels": None}
    for given in (inputs, {name: value for name, value in inputs.items() if name != "class_labels"}):
        with pytest.raises(ValueError, match=r"guidance_scale=1\.5 needs class labels; without labels it must be 0"):
            guided(model, given, LatentCarry(), 1.5)


@pytest.mark.parametrize("kind", LABELLED)
@torch.no_grad()
def test_guidance_away_from_labels_of_choice(kind: str) -> None:
    model, inputs = labelled(kind)
    labels, negative, carry = inputs["class_labels"], torch.tensor([2, -1, 1]), carry_for(model, 3)
    output, handed_on = guided(model, inputs, carry, 2.0, negative)
    towards = model(**inputs, **carry.inputs())
    away = model(**inputs | {"class_labels": negative}, **carry.inputs())
    assert_close(output, 3 * towards.sample - 2 * away.sample, 1e-4)
    assert_close(handed_on.latents, towards.latents, 1e-4)
    assert_close(output[2], towards.sample[2], 1e-4)  # away from its own label: no guidance
    dropped, _ = guided(model, inputs, carry, 2.0)
    assert_close(output[1], dropped[1], 1e-4)  # -1 is the dropped label
    assert (output[0] - dropped[0]).abs().max() > 1e-2
    assert labels.tolist() == [0, 3, 1], "the labels it was given are unchanged"


# -- batches split for memory


def carry_for(model: RINModel, batch: int, seed: int = 4) -> LatentCarry:
    """Latents as a pass of this model might hand on."""
    generator, config = torch.Generator().manual_seed(seed), model.config
    tokens = model.grid[0] * model.grid[1] * model.grid[2]
    return LatentCarry(
        torch.randn(batch, config.num_latents, config.latent_dim, generator=generator),
        torch.randn(batch, tokens, config.interface_dim, generator=generator),
    )


def watched(model: RINModel) -> list[int]:
    """The list to which each pass of the model adds how many samples it had."""
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, __, given: sizes.append(len(given["sample"])), with_kwargs=True)
    return sizes


@pytest.mark.parametrize("one_level", [True, False], ids=["one level", "a level each"])
@pytest.mark.parametrize("scale", [0.0, 1.5])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 100])
@pytest.mark.parametrize("kind", ["images", "clips with context that carry both"])
@torch.no_grad()
def test_a_split_batch_gives_the_same(kind: str, size: int, scale: float, one_level: bool) -> None:
    model, inputs = labelled(kind)
    if not one_level:
        inputs["gamma"] = torch.tensor([0.2, 0.5, 0.9])
    carry = carry_for(model, 3)
    expected, handed_on = guided(model, inputs, carry, scale)
    sizes = watched(model)
    output, joined = guided(model, inputs, carry, scale, max_batch_size=size)
    rows = 6 if scale else 3
    assert max(sizes) == min(size, rows), "guidance doubles the batch, and that is split too"
    assert sum(sizes) == rows
    assert len(sizes) == -(-rows // size)
    assert_close(output, expected, 1e-5 * float(expected.abs().max()))
    for name, value in handed_on.inputs().items():
        assert_close(joined.inputs()[name], value, 1e-5 * float(value.abs().max()))


@torch.no_grad()
def test_negative_labels_are_split_with_the_rest() -> None:
    model, inputs = labelled("images")
    options = {"scale": 2.0, "negative_labels": torch.tensor([2, -1, 0])}
    expected, _ = guided(model, inputs, LatentCarry(), **options)
    output, _ = guided(model, inputs, LatentCarry(), **options, max_batch_size=2)
    assert_close(output, expected, 1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_carried_latents_matter_to_each_sample_alone() -> None:
    model, inputs = labelled("clips with context that carry both")
    carry = carry_for(model, 3)
    other = LatentCarry.join([carry.part(0, 1), carry_for(model, 1, seed=5), carry.part(2, 3)])
    for size in (None, 2):
        first, second = (guided(model, inputs, given, max_batch_size=size)[0] for given in (carry, other))
        assert ((first - second).flatten(1).abs().amax(1) > 1e-2).tolist() == [False, True, False]
        zeroed, _ = guided(model, inputs, LatentCarry(), max_batch_size=size)
        assert ((first - zeroed).flatten(1).abs().amax(1) > 1e-2).all()


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("size", [0, -2])
def test_no_sample_at_once_is_refused(size: int, scale: float) -> None:
    model, inputs = labelled("images")
    with pytest.raises(ValueError, match=f"max_batch_size must be at least 1, got {size}"):
        guided(model, inputs, LatentCarry(), scale, max_batch_size=size)
