"""Learning rates, parameter groups, optimisers and their state."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from rinvid.models.rin import RINModel
from rinvid.training import diffusion_loss, learning_rate
from rinvid.training.config import OptimizerName
from rinvid.training.lamb import Lamb
from rinvid.training.optim import Optimizers, create_optimizers, parameter_groups
from tests.helpers import model_inputs, parity, small_model

CURVES = {
    "cosine@0.7_w10_t100": {"base": 2e-3, "warmup_steps": 10, "total_steps": 100, "schedule": "cosine@0.7"},
    "cosine@0.8_w5_t20": {"base": 3e-3, "warmup_steps": 5, "total_steps": 20, "schedule": "cosine@0.8"},
    "cosine_w10_t100_tail10_end0.1": {
        "base": 1e-3,
        "warmup_steps": 10,
        "total_steps": 100,
        "schedule": "cosine",
        "tail_steps": 10,
        "end_factor": 0.1,
    },
    "linear_w0_t50": {"base": 1e-3, "warmup_steps": 0, "total_steps": 50, "schedule": "linear"},
    "none_w10_t100": {"base": 1e-4, "warmup_steps": 10, "total_steps": 100, "schedule": "none"},
}
OPTIMIZERS = get_args(OptimizerName)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixer": {"mixer_kernel": 3},
    "everything": {"self_cond": "latent+interface", "xattn_enc_ln": True, "num_classes": 3, "context_embedding": True},
}


def loss_of(model: RINModel, seed: int | None = None) -> Tensor:
    """The loss on one fixed batch, or with noise drawn from ``seed``."""
    inputs = model_inputs(model)
    x0 = inputs.pop("sample").clamp(-1, 1)
    t = inputs.pop("gamma")
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    given = {"t": t} if seed is None else {}
    return diffusion_loss(
        model, x0, "cosine", prediction_type="sample", loss_type="sample", generator=generator, **given, **inputs
    )


def train(model: RINModel, optimizers: Optimizers, steps: range, lr: float = 1e-2) -> None:
    for step in steps:
        optimizers.set_lr(lr)
        optimizers.zero_grad()
        loss_of(model, seed=step).backward()
        optimizers.step()


# -- learning rate


def test_every_recorded_curve_is_checked() -> None:
    recorded = {name for name in parity("lamb_lr")[0] if name.startswith("lr/")}
    assert recorded == {f"lr/{name}" for name in CURVES}


@pytest.mark.parametrize("name", CURVES)
def test_reference_learning_rates(name: str) -> None:
    recorded = parity("lamb_lr")[0][f"lr/{name}"]
    made = torch.tensor([learning_rate(step, **CURVES[name]) for step in range(len(recorded))])
    torch.testing.assert_close(made, recorded, rtol=2e-6, atol=1e-9)


def test_landmarks_of_the_curves() -> None:
    options = {"base": 1.0, "warmup_steps": 10, "total_steps": 110}
    assert learning_rate(0, **options) == 0
    assert learning_rate(5, **options) == 0.5
    assert learning_rate(10, **options) == 1
    assert learning_rate(60, **options) == pytest.approx(0.5)
    assert learning_rate(110, **options) == pytest.approx(0)
    assert learning_rate(110, **options, schedule="cosine@0.5") == pytest.approx(0.5)
    assert learning_rate(110, **options, end_factor=0.2) == pytest.approx(0.2)
    assert learning_rate(85, **options, schedule="linear", tail_steps=50) == 0
    assert learning_rate(1000, **options) == pytest.approx(0), "it stays at its end"


@pytest.mark.parametrize("schedule", ["exponential", "cosine@0", "cosine@1.5", "cosine@x", "cosine@-0.5", ""])
def test_unknown_learning_rate_schedules_are_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"known: none, linear, cosine, cosine@r with r in \(0, 1\]"):
        learning_rate(50, base=1.0, warmup_steps=10, total_steps=100, schedule=schedule)


# -- parameter groups


@pytest.mark.parametrize("variant", VARIANTS)
def test_biases_and_gains_stand_apart_and_nothing_twice(variant: str) -> None:
    model = small_model(**VARIANTS[variant])
    names = {id(p): name for name, p in model.named_parameters()}
    decay, keep = ([names[id(p)] for p in group["params"]] for group in parameter_groups(model))
    assert sorted(decay + keep) == sorted(names.values())
    norms = {f"{part}.weight" for part, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    assert set(keep) == {name for name in names.values() if name.endswith(".bias") or name in norms}


def test_what_a_layer_says_goes_before_the_shape_of_its_parameters() -> None:
    class Layer(nn.Module):
        no_decay = ("gain",)

        def __init__(self) -> None:
            super().__init__()
            self.gain, self.weight = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(3))

    silent = nn.LayerNorm(3)
    layer = Layer()
    decay, keep = (group["params"] for group in parameter_groups(nn.ModuleList([layer, silent])))
    assert [id(p) for p in decay] == [id(layer.weight)]
    assert [id(p) for p in keep] == [id(p) for p in (layer.gain, silent.weight, silent.bias)]


def test_frozen_parameters_are_in_no_group() -> None:
    model = small_model()
    model.codec.requires_grad_(False)
    frozen = {id(p) for p in model.codec.parameters()}
    decay, keep = (group["params"] for group in parameter_groups(model))
    assert not frozen & {id(p) for p in decay + keep}
    assert len(decay + keep) == len(list(model.parameters())) - 4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_what_is_decayed_and_nothing_else(name: Any) -> None:
    model = small_model(mixer_kernel=3)
    optimizers = create_optimizers(model, name, weight_decay=0.5)
    optimizers.set_lr(0.1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)  # nothing is zero
            parameter.grad = torch.zeros_like(parameter)
    decay, keep = (group["params"] for group in parameter_groups(model))
    before = {id(p): p.detach().clone() for p in model.parameters()}
    optimizers.step()
    # A step of LAMB is as long as the rate times the tensor, however small what it is made of.
    rate = 0.1 if name == "lamb" else 0.1 * 0.5
    for parameter in decay:
        torch.testing.assert_close(parameter.detach(), before[id(parameter)] * (1 - rate))
    for parameter in keep:
        assert torch.equal(parameter, before[id(parameter)])


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    model = small_model(mixer_kernel=3)
    muon, adamw = create_optimizers(model, "muon", weight_decay=0.1).optimizers
    names = {id(p): name for name, p in model.named_parameters()}
    matrices, rest = (
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]} for optimizer in (muon, adamw)
    )
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    assert not matrices & rest
    assert matrices | rest == set(names.values())
    hidden = {n for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
    assert hidden <= matrices
    assert {"codec.readout.weight", "interface_rows.weight", "latent_rows.weight"} <= rest
    assert "blocks.0.write.mixer.conv.weight" in rest


def test_lamb_takes_everything_with_its_groups() -> None:
    model = small_model(mixer_kernel=3)
    (lamb,) = create_optimizers(model, "lamb", weight_decay=0.25, betas=(0.5, 0.75)).optimizers
    assert isinstance(lamb, Lamb)
    taken = [parameter for group in lamb.param_groups for parameter in group["params"]]
    assert {id(p) for p in taken} == {id(p) for p in model.parameters()}
    assert [group["weight_decay"] for group in lamb.param_groups] == [0.25, 0.0]


# -- steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loss_falls(name: Any) -> None:
    model = small_model()
    optimizers = create_optimizers(model, name, weight_decay=0.01)
    first = float(loss_of(model).detach())
    for _ in range(30):
        optimizers.set_lr(1e-2 if name == "lamb" else 3e-3)
        optimizers.zero_grad()
        loss_of(model).backward()
        optimizers.step()
    assert float(loss_of(model).detach()) < 0.5 * first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rate_reaches_every_group(name: Any) -> None:
    model = small_model()
    optimizers = create_optimizers(model, name, weight_decay=0.01)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loss_of(model).backward()
    optimizers.set_lr(0.0)
    optimizers.step()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    optimizers.set_lr(0.125)
    assert [g["lr"] for o in optimizers.optimizers for g in o.param_groups] == [0.125] * (3 if name == "muon" else 2)
    optimizers.step()
    unmoved = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    # Behind a gain of zero no gradient arrives yet.
    assert all("latent_recall.feed_forward" in n for n in unmoved)
    optimizers.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("layers", [[1, 1], [1, 0]], ids=["all blocks", "last block only reads"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_state_continues_bit_for_bit(name: Any, layers: list[int]) -> None:
    model = small_model(num_layers=layers)
    optimizers = create_optimizers(model, name, weight_decay=0.01)
    train(model, optimizers, range(3))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: value.clone() for key, value in optimizers.tensors().items()}
    train(model, optimizers, range(3, 6))

    resumed = small_model(num_layers=layers)
    resumed.load_state_dict(weights)
    fresh = create_optimizers(resumed, name, weight_decay=0.01)
    fresh.load_tensors(state)
    train(resumed, fresh, range(3, 6))
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in model.state_dict().items())

    forgetful = small_model(num_layers=layers)
    forgetful.load_state_dict(weights)
    train(forgetful, create_optimizers(forgetful, name, weight_decay=0.01), range(3, 6))
    assert not all(torch.equal(value, forgetful.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_named_tensors(name: Any) -> None:
    model = small_model()
    optimizers = create_optimizers(model, name, weight_decay=0.01)
    assert optimizers.tensors() == {}
    train(model, optimizers, range(1))
    tensors = optimizers.tensors()
    assert all(isinstance(value, Tensor) for value in tensors.values())
    moments = {"adamw": ("exp_avg", "exp_avg_sq"), "muon": ("momentum_buffer",), "lamb": ("m", "v", "step")}[name]
    first = len(list(optimizers.optimizers[0].state))
    for moment in moments:
        assert {key for key in tensors if key.startswith("0.") and key.endswith(f".{moment}")} == {
            f"0.{i}.{moment}" for i in range(first)
        }


@pytest.mark.parametrize(("saved", "own"), [([1, 1, 1], [1]), ([1], [1, 1, 1])], ids=["fewer here", "more here"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_of_other_parameters_is_refused(name: Any, saved: list[int], own: list[int]) -> None:
    model = small_model(num_layers=saved)
    optimizers = create_optimizers(model, name, weight_decay=0.01)
    train(model, optimizers, range(1))
    with pytest.raises(ValueError, match="optimiser state is for"):
        create_optimizers(small_model(num_layers=own), name, weight_decay=0.01).load_tensors(optimizers.tensors())


def test_an_unknown_optimizer_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'sgd'; known: adamw, lamb, muon"):
        create_optimizers(small_model(), "sgd", weight_decay=0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_betas_are_those_of_the_moments(name: Any) -> None:
    model = small_model()
    optimizers = create_optimizers(model, name, weight_decay=0.1, betas=(0.5, 0.75))
    optimizers.set_lr(1.0)
    bias = model.codec.stem.bias  # neither decayed nor scaled
    start = bias.detach().clone()
    for gradient in (1.0, 3.0):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizers.step()
    # Two bias-corrected Adam steps: moments (0.5, 0.25) then (1.75, 2.4375), over 1 - beta^step.
    moved = 1.0 + (1.75 / 0.75) / math.sqrt(2.4375 / 0.4375)
    torch.testing.assert_close(start - bias.detach(), torch.full_like(bias, moved), atol=1e-5, rtol=0)
