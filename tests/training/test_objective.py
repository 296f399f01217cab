"""The objective: the reference's loss and gradients, the self-conditioning pass, what is random."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rinvid.convert import rename
from rinvid.models.rin import RINModel
from rinvid.prediction import add_noise, squared_error
from rinvid.schedules import create_schedule
from rinvid.training import diffusion_loss
from rinvid.training.objective import diffusion_losses
from tests.helpers import (
    channels_first,
    model_inputs,
    parity,
    randomised,
    reference_data,
    reference_model,
    reference_options,
    reference_schedule,
    relative_error,
    small_model,
)

SCHEDULE = create_schedule("cosine")
SCHEDULES = [
    {"type": "cosine"},
    {"type": "cosine", "start": 0.2, "end": 1.0, "tau": 2.0},
    {"type": "sigmoid"},
    {"type": "linear"},
    {"type": "log"},
    {"type": "log", "reverse": True},
]
TYPES: list[Any] = ["epsilon", "sample", "v_prediction"]
IMAGES = {"num_frames": None, "context_frames": 0, "num_classes": 4}


def batch_of(model: RINModel, batch: int = 3) -> dict[str, Any]:
    """Clean data, times and noise, with the context or labels that the model takes."""
    inputs = model_inputs(model, batch)
    x0 = inputs.pop("sample").clamp(-1, 1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(8))
    return {"x0": x0, "noise": noise, "t": inputs.pop("gamma"), "schedule": SCHEDULE, **inputs}


def gradients(model: RINModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def by_hand(model: RINModel, data: dict[str, Any], mask: Tensor, scale: float = 1.0, detach: bool = True) -> Tensor:
    """Losses by sample (B,) of epsilon prediction, with both passes written out."""
    gamma = SCHEDULE(data["t"])
    x0 = data["x0"] * scale
    x_t = add_noise(x0, data["noise"], gamma)
    context = data["context"] * scale
    latents = model(x_t, gamma, context=context).latents
    latents = (latents.detach() if detach else latents) * mask.reshape(-1, 1, 1)
    output = model(x_t, gamma, context=context, latents=latents).sample
    return (output - data["noise"]).square().flatten(1).mean(1)


@pytest.mark.parametrize(
    "name", ["diffusion_image_eps", "diffusion_image_v", "diffusion_image_scaled", "diffusion_video_5to11"]
)
def test_reference_loss_and_gradients(name: str) -> None:
    arrays, meta = parity(name)
    model, (x0, conditions), options = reference_model(name), reference_data(name), reference_options(name)
    schedule, noise = reference_schedule(meta["model"]["train_schedule"]), channels_first(arrays["train_noise"])
    noisy = add_noise(options["input_scale"] * x0, noise, schedule(arrays["train_t"]))
    torch.testing.assert_close(noisy, channels_first(arrays["train_x_noised"]), atol=1e-5, rtol=0)
    loss = diffusion_loss(
        model,
        x0,
        schedule,
        **options,
        **conditions,
        loss_type={"eps": "epsilon", "x": "sample"}[meta["model"]["loss_type"]],
        t=arrays["train_t"],
        noise=noise,
        self_cond_rate=meta["self_cond_rate"],
        self_cond_mask=arrays["train_selfcond_uniform"] > 1 - meta["self_cond_rate"],
    )
    assert loss.shape == ()
    assert float(loss.detach()) == pytest.approx(float(arrays["loss"]), rel=1e-5)
    loss.backward()
    own = gradients(model)
    recorded = {name.removeprefix("grad/"): a for name, a in arrays.items() if name.startswith("grad/")}
    assert len(recorded) == 6
    for variable, array in recorded.items():
        ours, expected = rename(variable, array)
        assert relative_error(own[ours], expected) < 2e-4, variable


@pytest.mark.parametrize("mask", [[True, True, True], [False, False, False], [True, False, True]])
def test_the_mask_keeps_or_zeroes_the_carry_of_each_sample(mask: list[bool]) -> None:
    model = randomised(small_model())
    data, keep = batch_of(model), torch.tensor(mask)
    losses = diffusion_losses(model, **data, self_cond_mask=keep)
    torch.testing.assert_close(losses.loss, by_hand(model, data, keep))
    assert torch.equal(losses.t, data["t"])
    other = by_hand(model, data, ~keep)
    assert ((losses.loss - other).abs() > 1e-4).all(), "the mask must matter for each sample"
    torch.testing.assert_close(diffusion_loss(model, **data, self_cond_mask=keep), losses.loss.mean())


@pytest.mark.parametrize("self_cond", ["latent", "latent+interface"])
def test_both_kinds_of_state_are_carried(self_cond: str) -> None:
    model = randomised(small_model(self_cond=self_cond))
    data = batch_of(model)
    with torch.no_grad():
        losses = diffusion_losses(model, **data, self_cond_mask=torch.ones(3, dtype=torch.bool)).loss
        gamma = SCHEDULE(data["t"])
        x_t = add_noise(data["x0"], data["noise"], gamma)
        first = model(x_t, gamma, context=data["context"])
        second = model(x_t, gamma, context=data["context"], latents=first.latents, interface=first.interface)
    torch.testing.assert_close(losses, (second.sample - data["noise"]).square().flatten(1).mean(1))


@pytest.mark.parametrize(("rate", "passes"), [(0.0, 1), (0.5, 2), (1.0, 2)])
def test_a_rate_of_zero_takes_no_first_pass(rate: float, passes: int) -> None:
    model = randomised(small_model())
    data, calls = batch_of(model), []
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    loss = diffusion_losses(model, **data, self_cond_rate=rate, generator=torch.Generator().manual_seed(0)).loss
    assert calls == [False, True][-passes:]
    if rate == 0:
        torch.testing.assert_close(loss, by_hand(model, data, torch.zeros(3)))
    elif rate == 1:
        torch.testing.assert_close(loss, by_hand(model, data, torch.ones(3)))


@pytest.mark.parametrize("rate", [0.0, 0.9])
@pytest.mark.parametrize("base", [{}, {"num_frames": None, "context_frames": 0, "num_classes": 4}])
def test_models_without_self_conditioning_train(base: dict[str, Any], rate: float) -> None:
    model = randomised(small_model(**base, self_cond="none"))
    data = batch_of(model)
    gamma = SCHEDULE(data["t"])
    given = {name: data[name] for name in ("context", "class_labels") if name in data}
    output = model(add_noise(data["x0"], data["noise"], gamma), gamma, **given).sample
    expected = (output - data["noise"]).square().mean()
    torch.testing.assert_close(diffusion_loss(model, **data, self_cond_rate=rate), expected)


def test_the_input_scale_multiplies_data_and_context() -> None:
    model = randomised(small_model())
    data, keep = batch_of(model), torch.ones(3, dtype=torch.bool)
    loss = diffusion_losses(model, **data, input_scale=0.4, self_cond_mask=keep).loss
    torch.testing.assert_close(loss, by_hand(model, data, keep, scale=0.4))
    assert ((loss - diffusion_losses(model, **data, self_cond_mask=keep).loss).abs() > 1e-4).all()


@pytest.mark.parametrize("loss_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_a_normalised_input_is_for_the_network_only(prediction_type: Any, loss_type: Any) -> None:
    model = randomised(small_model())
    data, scale = batch_of(model), 0.5
    gamma, x0 = SCHEDULE(data["t"]), data["x0"] * scale
    x_t = add_noise(x0, data["noise"], gamma)
    seen = x_t / x_t.flatten(1).std(1, correction=0).reshape(-1, 1, 1, 1, 1)
    output = model(seen, gamma, context=data["context"] * scale).sample
    expected = squared_error(output, x_t, x0, data["noise"], gamma, prediction_type, loss_type, scale)
    losses = diffusion_losses(
        model,
        **data,
        prediction_type=prediction_type,
        loss_type=loss_type,
        input_scale=scale,
        normalize_input=True,
        self_cond_rate=0.0,
    )
    torch.testing.assert_close(losses.loss, expected)


def test_a_schedule_may_be_a_spec() -> None:
    model = randomised(small_model())
    data = batch_of(model) | {"schedule": {"type": "sigmoid", "tau": 0.9}}
    keep = torch.ones(3, dtype=torch.bool)
    loss = diffusion_loss(model, **data, self_cond_mask=keep)
    assert torch.equal(loss, diffusion_loss(model, **data | {"schedule": "sigmoid"}, self_cond_mask=keep))
    assert not torch.equal(loss, diffusion_loss(model, **data | {"schedule": "linear"}, self_cond_mask=keep))


def test_the_generator_gives_all_that_is_random() -> None:
    model = randomised(small_model())
    data = batch_of(model)
    fixed = {name: data[name] for name in ("x0", "schedule", "context")}

    def draw(seed: int) -> Tensor:
        torch.manual_seed(draw.calls)  # type: ignore[attr-defined]
        draw.calls += 1  # type: ignore[attr-defined]
        losses = diffusion_losses(model, **fixed, self_cond_rate=0.5, generator=torch.Generator().manual_seed(seed))
        return torch.stack([losses.loss, losses.t])

    draw.calls = 0  # type: ignore[attr-defined]
    first = draw(1)
    assert torch.equal(draw(1), first)
    assert not torch.isclose(draw(2), first).any()


def test_times_are_uniform() -> None:
    model = small_model(num_layers=[0]).eval()
    with torch.no_grad():
        t = diffusion_losses(
            model,
            torch.zeros(2000, 3, 4, 8, 8),
            SCHEDULE,
            context=torch.zeros(2000, 3, 3, 8, 8),
            self_cond_rate=0.0,
            generator=torch.Generator().manual_seed(0),
        ).t
    assert t.min() >= 0
    assert t.max() <= 1
    quarters = torch.histc(t, bins=4, min=0, max=1)
    assert (quarters - 500).abs().max() < 80


def test_two_backward_passes_in_a_row_add_up() -> None:
    model = randomised(small_model())
    data, keep = batch_of(model), torch.ones(3, dtype=torch.bool)
    diffusion_loss(model, **data, self_cond_mask=keep).backward()
    once = gradients(model)
    diffusion_loss(model, **data, self_cond_mask=keep).backward()
    twice = gradients(model)
    assert once.keys() == twice.keys()
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], 2 * gradient, msg=name)


def test_no_gradient_is_taken_through_the_first_pass() -> None:
    model = randomised(small_model())
    data, keep = batch_of(model), torch.ones(3, dtype=torch.bool)
    found = []
    for detach in (True, False):
        model.zero_grad()
        by_hand(model, data, keep, detach=detach).mean().backward()
        found.append(gradients(model))
    model.zero_grad()
    diffusion_loss(model, **data, self_cond_mask=keep).backward()
    own = gradients(model)
    cut, through = found
    for name in own:
        torch.testing.assert_close(own[name], cut[name], atol=1e-5, rtol=1e-3, msg=name)
    assert relative_error(through["latent_rows.weight"], cut["latent_rows.weight"]) > 1e-2


def test_gradients_reach_the_self_conditioning_from_its_silent_start() -> None:
    model = small_model()
    data = batch_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        diffusion_loss(model, **data, self_cond_mask=torch.ones(3, dtype=torch.bool)).backward()
        recall = model.latent_recall
        assert recall.norm.weight.grad.any()
        assert bool(recall.feed_forward.contract.weight.grad.any()) == (step > 0)
        optimizer.step()


# -- labels are dropped


def labels_seen(model: RINModel, data: dict[str, Any], **options: Any) -> list[list[int]]:
    """The labels of each pass of one loss."""
    seen: list[list[int]] = []
    hook = model.register_forward_pre_hook(
        lambda _, arguments, inputs: seen.append(inputs["class_labels"].tolist()), with_kwargs=True
    )
    with torch.no_grad():
        diffusion_loss(model, **data, **options)
    hook.remove()
    return seen


@pytest.mark.parametrize("base", [IMAGES, {"num_classes": 4}], ids=["images", "clips"])
def test_a_label_dropout_of_one_is_no_label_and_of_zero_is_none(base: dict[str, Any]) -> None:
    model = randomised(small_model(**base))
    data, keep = batch_of(model), torch.ones(3, dtype=torch.bool)
    without = data | {"class_labels": torch.full((3,), -1)}
    labelled, unlabelled = (diffusion_losses(model, **d, self_cond_mask=keep).loss for d in (data, without))
    assert torch.equal(diffusion_losses(model, **data, self_cond_mask=keep, label_dropout=0.0).loss, labelled)
    assert torch.equal(diffusion_losses(model, **data, self_cond_mask=keep, label_dropout=1.0).loss, unlabelled)
    assert ((labelled - unlabelled).abs() > 1e-4).all()


def test_labels_are_dropped_one_by_one_and_alike_in_both_passes() -> None:
    model = small_model(**IMAGES, num_layers=[0]).eval()
    data = batch_of(model, 600)
    before = data["class_labels"].clone()
    first, second = labels_seen(model, data, label_dropout=0.2, generator=torch.Generator().manual_seed(0))
    assert first == second
    kept = [label for label in first if label != -1]
    assert 600 - len(kept) == pytest.approx(120, abs=40)
    assert kept == [label for label, now in zip(before.tolist(), first, strict=True) if now != -1]
    assert torch.equal(data["class_labels"], before)


def test_the_generator_decides_which_labels_are_dropped() -> None:
    model = small_model(**IMAGES, num_layers=[0]).eval()
    data = batch_of(model, 40)

    def draw(seed: int) -> list[list[int]]:
        return labels_seen(model, data, label_dropout=0.5, generator=torch.Generator().manual_seed(seed))

    first = draw(1)
    assert draw(1) == first
    assert draw(2) != first


def test_a_label_dropout_without_labels_does_nothing() -> None:
    model = randomised(small_model())
    data, keep = batch_of(model), torch.ones(3, dtype=torch.bool)
    plain, dropping = (diffusion_loss(model, **data, self_cond_mask=keep, label_dropout=r) for r in (0.0, 0.5))
    assert torch.equal(plain, dropping)


# -- min-SNR weights


def snr_weight(snr: Tensor, loss_type: str, limit: float) -> Tensor:
    """min(snr, limit) times what one squared error of the data is in the loss (Hang et al. 2023, section 3.4)."""
    return snr.clamp(max=limit) / {"sample": torch.ones_like(snr), "epsilon": snr, "v_prediction": snr + 1}[loss_type]


@pytest.mark.parametrize("limit", [5.0, 0.5])
@pytest.mark.parametrize("loss_type", TYPES)
@pytest.mark.parametrize("prediction_type", TYPES)
def test_min_snr_weighs_the_loss_of_each_sample(prediction_type: Any, loss_type: Any, limit: float) -> None:
    model = randomised(small_model(**IMAGES))
    data, keep = batch_of(model, 4), torch.ones(4, dtype=torch.bool)
    data["t"] = torch.tensor([0.05, 0.3, 0.6, 0.95])
    options = {"prediction_type": prediction_type, "loss_type": loss_type, "self_cond_mask": keep}
    plain = diffusion_losses(model, **data, **options).loss
    gamma = SCHEDULE(data["t"].double())
    expected = plain * snr_weight(gamma / (1 - gamma), loss_type, limit).float()
    torch.testing.assert_close(diffusion_losses(model, **data, **options, min_snr=limit).loss, expected)
    assert not torch.isclose(plain, expected).all()


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_min_snr_weighs_an_error_of_the_data_alike_in_every_loss(scale: float) -> None:
    # The SNR is that of the scaled data: b^2 gamma / (1 - gamma).
    model = randomised(small_model(**IMAGES))
    data = batch_of(model, 4)
    data["x0"] = 0.3 * data["x0"]  # errors below stay within the clipped range
    data["t"] = torch.tensor([0.1, 0.3, 0.5, 0.7])
    for parameter in model.codec.readout.parameters():
        torch.nn.init.zeros_(parameter)
    options = {"prediction_type": "sample", "input_scale": scale, "self_cond_rate": 0.0, "min_snr": 5.0}
    losses = [diffusion_losses(model, **data, **options, loss_type=kind).loss for kind in TYPES]
    gamma = SCHEDULE(data["t"])
    snr = scale**2 * gamma / (1 - gamma)
    assert snr.min() < 5 < snr.max()
    expected = snr.clamp(max=5) * data["x0"].square().flatten(1).mean(1)  # the network says zero
    for loss in losses:
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("min_snr", [None, 5.0])
@pytest.mark.parametrize("loss_type", TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: "-".join(str(value) for value in s.values()))
def test_losses_and_gradients_are_finite_at_both_ends(
    schedule: dict[str, Any], loss_type: Any, min_snr: float | None
) -> None:
    model = randomised(small_model(**IMAGES, num_layers=[1]))
    data = batch_of(model, 2) | {"schedule": schedule, "t": torch.tensor([0.0, 1.0])}
    for prediction_type in TYPES:
        if prediction_type == "epsilon" and schedule["type"] == "log":
            continue
        model.zero_grad()
        losses = diffusion_losses(
            model, **data, prediction_type=prediction_type, loss_type=loss_type, input_scale=0.5, min_snr=min_snr
        )
        assert losses.loss.isfinite().all(), prediction_type
        losses.loss.mean().backward()
        assert all(gradient.isfinite().all() for gradient in gradients(model).values()), prediction_type


# -- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction_type": "noise"}, "'noise'; known: epsilon, sample, v_prediction"),
        ({"loss_type": "huber"}, "'huber'; known: epsilon, sample, v_prediction"),
        ({"schedule": "quartic"}, "'quartic'; known"),
        ({"context": None}, "context is missing"),
        ({"t": torch.tensor([0.1, 1.5, 0.5])}, r"t must be in \[0, 1\], got \[0.1.*, 1.5, 0.5"),
        ({"t": torch.tensor([0.1, -0.01, 0.5])}, r"t must be in \[0, 1\], got"),
        ({"t": torch.tensor([0.1, float("nan"), 0.5])}, r"t must be in \[0, 1\], got .*nan"),
        ({"input_scale": 0.0}, r"input_scale must be in \(0, 1\], got 0.0"),
        ({"input_scale": 1.01}, r"input_scale must be in \(0, 1\], got 1.01"),
        ({"input_scale": float("nan")}, r"input_scale must be in \(0, 1\], got nan"),
        ({"self_cond_rate": -0.1}, r"self_cond_rate must be in \[0, 1\], got -0.1"),
        ({"self_cond_rate": 1.1}, r"self_cond_rate must be in \[0, 1\], got 1.1"),
        ({"label_dropout": -0.1}, r"label_dropout must be in \[0, 1\], got -0.1"),
        ({"label_dropout": 1.1}, r"label_dropout must be in \[0, 1\], got 1.1"),
        ({"noise": torch.zeros(1, 3, 4, 8, 8)}, r"noise has shape \(1, 3, 4, 8, 8\); it must be \(3, 3, 4, 8, 8\)"),
        ({"self_cond_mask": torch.ones(1)}, r"self_cond_mask has shape \(1,\); it must be \(3,\)"),
        ({"min_snr": float("nan")}, "min_snr must be above 0, got nan"),
        ({"min_snr": 0.0}, "min_snr must be above 0, got 0.0"),
        ({"min_snr": -5.0}, "min_snr must be above 0, got -5.0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    model = small_model()
    with pytest.raises(ValueError, match=message):
        diffusion_loss(model, **batch_of(model) | options)


@pytest.mark.parametrize("schedule", [{"type": "log"}, {"type": "log", "reverse": True}])
@pytest.mark.parametrize("loss_type", TYPES)
def test_epsilon_prediction_without_signal_is_refused_before_any_pass(loss_type: Any, schedule: dict[str, Any]) -> None:
    model, passes = small_model(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    data = batch_of(model) | {"schedule": schedule}
    with pytest.raises(ValueError, match=r"Log\(.*\) reaches gamma = 0.*use sample or v_prediction"):
        diffusion_loss(model, **data, loss_type=loss_type)
    assert passes == []
    for prediction_type in ("sample", "v_prediction"):
        assert diffusion_loss(model, **data, prediction_type=prediction_type, loss_type=loss_type).isfinite()


def test_one_time_may_stand_for_all() -> None:
    model = randomised(small_model())
    data, keep = batch_of(model), torch.ones(3, dtype=torch.bool)
    one = diffusion_losses(model, **data | {"t": torch.tensor(0.4)}, self_cond_mask=keep)
    all_of_them = diffusion_losses(model, **data | {"t": torch.full((3,), 0.4)}, self_cond_mask=keep)
    assert torch.equal(one.loss, all_of_them.loss)
    assert torch.equal(one.t, all_of_them.t)
