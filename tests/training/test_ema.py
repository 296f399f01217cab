"""Averaged weights."""

import pytest
import torch
from torch import nn

from rinvid.training import EMA
from tests.helpers import small_model


def filled(value: float) -> nn.Module:
    """A small model with parameters, float buffers and a whole-number buffer, all floats at ``value``."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    fill(model, value)
    return model


@torch.no_grad()
def fill(model: nn.Module, value: float) -> None:
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(value)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
def test_an_update_moves_by_one_minus_decay(decay: float) -> None:
    model = filled(0.0)
    ema = EMA(model, decay)
    fill(model, 1.0)
    names = set(model.state_dict()) - {"1.num_batches_tracked"}
    for updates in (1, 2, 3):  # the decay is the same from the first step
        ema.update(model)
        for name in names:
            average = ema.state_dict()[name].double()
            torch.testing.assert_close(average, torch.full_like(average, 1 - decay**updates), rtol=1e-4, atol=0)
    assert "1.running_mean" in names


def test_every_tensor_is_averaged_by_itself() -> None:
    model = small_model(num_classes=3, context_embedding=True).double()
    model.codec.requires_grad_(False)  # what does not learn is averaged all the same
    model.register_buffer("scale", torch.ones(3, dtype=torch.float64))
    ema = EMA(model, 0.9)
    assert set(ema.state_dict()) == {name for name, _ in model.named_parameters()} | {"scale"}
    expected = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    for _ in range(3):
        for name, tensor in model.state_dict().items():
            tensor.normal_()
            expected[name] = 0.9 * expected[name] + (1 - 0.9) * tensor
        ema.update(model)
    for name, average in ema.state_dict().items():
        torch.testing.assert_close(average, expected[name], rtol=0, atol=1e-12)


def test_whole_numbers_are_copied() -> None:
    model = filled(0.0)
    ema = EMA(model, 0.9)
    model[1].num_batches_tracked.fill_(7)
    ema.update(model)
    assert ema.state_dict()["1.num_batches_tracked"] == 7


def test_the_average_is_a_tensor_of_its_own_without_gradient() -> None:
    model = filled(1.0)
    ema = EMA(model, 0.9)
    fill(model, 5.0)
    assert (ema.state_dict()["0.weight"] == 1).all()
    ema.update(model)
    assert not any(tensor.requires_grad for tensor in ema.state_dict().values())
    assert (model[0].weight == 5).all()
    assert model[0].weight.requires_grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_averaged_lends_the_average_and_gives_the_weights_back(fails: bool, training: bool) -> None:
    model = filled(1.0).train(training)
    ema = EMA(model, 0.5)
    fill(model, 3.0)
    ema.update(model)

    def look() -> None:
        with ema.averaged(model):
            assert (model[0].weight == 2).all()
            assert (model[1].running_var == 2).all()
            assert not model.training
            assert not model[1].training
            if fails:
                raise KeyError("in the block")

    if fails:
        with pytest.raises(KeyError, match="in the block"):
            look()
    else:
        look()
    assert (model[0].weight == 3).all()
    assert (model[1].running_var == 3).all()
    assert model.training == model[1].training == training
    assert (ema.state_dict()["0.weight"] == 2).all()


def test_saved_averages_come_back() -> None:
    model = filled(1.0)
    ema = EMA(model, 0.5)
    fill(model, 2.0)
    ema.update(model)
    saved = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
    other = EMA(filled(0.0), 0.5)
    other.load_state_dict(saved)
    ema.update(model)
    other.update(model)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in ema.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_averages_of_another_model_are_refused(change: str) -> None:
    ema = EMA(filled(1.0), 0.5)
    state = dict(ema.state_dict())
    if change == "missing":
        del state["0.bias"]
    else:
        state["2.bias"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"do not fit: \['\d.bias'\]"):
        ema.load_state_dict(state)


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"\[0, 1\), got {decay}"):
        EMA(filled(0.0), decay)
