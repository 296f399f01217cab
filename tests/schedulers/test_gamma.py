"""Samplers: the reference's trajectories, a denoiser that knows the answer, each step against its formula."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rinvid.conditioning import LatentCarry, guided
from rinvid.registry import schedulers
from rinvid.schedulers.gamma import GammaDDIMScheduler, GammaDDPMScheduler
from rinvid.schedules import create_schedule
from tests.helpers import (
    Oracle,
    assert_close,
    channels_first,
    parity,
    reference_data,
    reference_model,
    reference_options,
    relative_error,
)

Scheduler = GammaDDIMScheduler | GammaDDPMScheduler

SAMPLERS = ["ddim", "ddpm", "ddpm@small"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SCHEDULES = [
    {"type": "cosine"},
    {"type": "cosine", "start": 0.2, "end": 1.0, "tau": 2.0},
    {"type": "sigmoid"},
    {"type": "linear"},
    {"type": "log"},
]
# All but epsilon with the logarithm, which is refused.
PAIRS = [(s, p) for s, p in itertools.product(SCHEDULES, PREDICTIONS) if (s["type"], p) != ("log", "epsilon")]
PAIR_NAMES = [f"{'-'.join(str(value) for value in s.values())}-{p}" for s, p in PAIRS]


def make(sampler: str, **options: Any) -> Scheduler:
    if sampler == "ddim":
        return GammaDDIMScheduler(**options)
    small = sampler.endswith("@small")
    return GammaDDPMScheduler(variance_type="fixed_small" if small else "fixed_large", **options)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clean(batch: int = 1) -> Tensor:
    return draw(batch, 3, 2, 4, 4, seed=5).clamp(-1, 1)


def level(spec: dict[str, Any], t: float) -> float:
    return float(create_schedule(spec)(torch.tensor(t, dtype=torch.float64)))


# -- the reference


TRAJECTORIES = [
    ("diffusion_image_eps", 0.0),
    ("diffusion_image_eps", 2.0),
    ("diffusion_image_v", 0.0),
    ("diffusion_image_scaled", 0.0),
    ("diffusion_video_5to11", 0.0),
]


def reference_scheduler(name: str, sampler: str) -> Scheduler:
    meta = parity(name)[1]
    schedule = {"type": meta["model"]["infer_schedule"]}
    scheduler = make(sampler, schedule=schedule, time_difference=meta["model"]["td"], **reference_options(name))
    scheduler.set_timesteps(meta["iterations"])
    return scheduler


def trajectory(name: str, sampler: str, guidance: float, denoise: Callable[..., tuple[Tensor, LatentCarry]]) -> Any:
    """The last step of a recorded trajectory, with ``denoise(model, inputs, carry, guidance)`` for each pass."""
    arrays, _ = parity(name)
    recorded = f"sample/{sampler}/g{guidance:.0f}"
    scheduler, model = reference_scheduler(name, sampler), reference_model(name)
    _, conditions = reference_data(name)
    if "context" in conditions:
        conditions["context"] = conditions["context"] * scheduler.config.input_scale
    sample, carry = channels_first(arrays[f"{recorded}/init_noise"]), LatentCarry()
    for step, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(sample, t)
        inputs = {"sample": seen, "gamma": scheduler.gamma(t), "class_labels": None, "context": None} | conditions
        with torch.no_grad():
            output, carry = denoise(model, inputs, carry, guidance)
        noise = {}
        if sampler != "ddim":
            noise["variance_noise"] = channels_first(arrays[f"{recorded}/step_noise"][step])
        result = scheduler.step(output, t, sample, **noise)
        sample = result.prev_sample
    return result


def in_two_passes(
    model: Any, inputs: dict[str, Tensor], carry: LatentCarry, guidance: float
) -> tuple[Tensor, LatentCarry]:
    """Guidance as the reference writes it."""
    dropped = torch.full_like(inputs["class_labels"], -1)
    with_label = model(**inputs, latents=carry.latents)
    without = model(**inputs | {"class_labels": dropped}, latents=carry.latents)
    return with_label.sample * (1 + guidance) - without.sample * guidance, LatentCarry(with_label.latents)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("name", "guidance"), TRAJECTORIES)
def test_reference_trajectories(name: str, guidance: float, sampler: str) -> None:
    result = trajectory(name, sampler, guidance, guided)
    expected = channels_first(parity(name)[0][f"sample/{sampler}/g{guidance:.0f}/out"])
    x0 = result.pred_original_sample
    assert relative_error(x0, expected) < 1e-3
    assert float(x0.abs().max()) <= reference_options(name)["input_scale"]
    if sampler == "ddpm":
        assert relative_error(result.prev_sample, expected) > 1e-3, "the result is the last x0, not the last x_t"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_reference_trajectories_with_two_passes_a_step(sampler: str) -> None:
    name = "diffusion_image_eps"
    expected = channels_first(parity(name)[0][f"sample/{sampler}/g2/out"])
    assert relative_error(trajectory(name, sampler, 2.0, in_two_passes).pred_original_sample, expected) < 1e-3

    def not_at_first(model: Any, inputs: Any, carry: LatentCarry, guidance: float) -> tuple[Tensor, LatentCarry]:
        return in_two_passes(model, inputs, carry, 0.0 if carry.latents is None else guidance)

    other = trajectory(name, sampler, 2.0, not_at_first).pred_original_sample
    assert relative_error(other, expected) > 1e-3, "guidance acts from the first step on"


# -- a denoiser that knows x0


@pytest.mark.parametrize("input_scale", [1.0, 0.5])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("schedule", "prediction"), PAIRS, ids=PAIR_NAMES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_recovers_what_the_denoiser_knows(
    sampler: str, schedule: dict[str, Any], prediction: str, batch: int, input_scale: float
) -> None:
    x0, steps = clean(batch), 5
    scheduler = make(sampler, schedule=schedule, prediction_type=prediction, input_scale=input_scale)
    scheduler.set_timesteps(steps)
    oracle = Oracle(x0, prediction, input_scale)
    for noisy in (False, True):
        sample = noise = draw(batch, 3, 2, 4, 4, seed=6)
        generator = torch.Generator().manual_seed(7)
        for i, t in enumerate(scheduler.timesteps):
            options: dict[str, Any] = {}
            if sampler != "ddim":
                options = {"generator": generator} if noisy else {"variance_noise": torch.zeros_like(sample)}
            result = scheduler.step(oracle(sample, scheduler.gamma(t)), t, sample, **options)
            sample = result.prev_sample
            assert sample.isfinite().all(), f"step {i}"
            if sampler == "ddim":  # the whole trajectory is known: the starting noise fades out, x0 fades in
                gamma = level(schedule, max(1 - (i + 1) / steps, 0))
                expected = math.sqrt(gamma) * input_scale * x0 + math.sqrt(1 - gamma) * noise
                # At gamma = 1e-9 an error of one bit in epsilon is one of 2e-3 in x0.
                assert_close(sample, expected, 1e-2 if prediction == "epsilon" else 1e-4)
        assert_close(result.pred_original_sample / input_scale, x0, 1e-4)


@pytest.mark.parametrize("input_scale", [1.0, 0.5])
@pytest.mark.parametrize(("schedule", "prediction"), PAIRS, ids=PAIR_NAMES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_half_precision_outputs_and_samples_lose_no_more_than_their_rounding(
    sampler: str, schedule: dict[str, Any], prediction: str, input_scale: float
) -> None:
    x0, steps = clean(2).bfloat16(), 5
    scheduler = make(sampler, schedule=schedule, prediction_type=prediction, input_scale=input_scale)
    scheduler.set_timesteps(steps)
    oracle, sample = Oracle(x0, prediction, input_scale), draw(2, 3, 2, 4, 4, seed=6).bfloat16()
    generator = torch.Generator().manual_seed(7)
    for i, t in enumerate(scheduler.timesteps):
        output = oracle(sample, scheduler.gamma(t))
        noise = {} if sampler == "ddim" else {"generator": generator}
        result = scheduler.step(output, t, sample, **noise)
        # bfloat16 has 8 bits, so what is rounded to it is off by up to 1 / 256 of itself. That of an output counts as
        # it does in x0: times sigma / alpha for epsilon, times sigma for v. At t = 1 that leaves nothing of x0 in
        # epsilon, where the clip alone holds.
        g = level(schedule, float(t))
        counts = {"epsilon": math.sqrt((1 - g) / max(g, 1e-30)), "v_prediction": math.sqrt(1 - g), "sample": 1.0}
        rounding = (float(output.float().abs().max()) * counts[prediction] + input_scale) / 256
        wrong = (result.pred_original_sample.float() - input_scale * x0.float()).abs().max()
        assert float(wrong) <= min(1.01 * rounding + 1e-4, 2 * input_scale), f"step {i}"
        assert result.prev_sample.isfinite().all(), f"step {i}"
        sample = result.prev_sample
    assert sample.dtype == torch.bfloat16
    assert float(wrong) < 0.05 * input_scale


@pytest.mark.parametrize("t", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_in_half_precision_is_the_rounded_step_in_float32(sampler: str, prediction: str, t: float) -> None:
    scheduler = make(sampler, schedule={"type": "linear"}, prediction_type=prediction)
    scheduler.set_timesteps(4)
    output, x_t = draw(2, 3, 4, 4, seed=1).bfloat16(), draw(2, 3, 4, 4, seed=2).bfloat16()
    noise = {} if sampler == "ddim" else {"variance_noise": draw(2, 3, 4, 4, seed=3)}
    half, full = (scheduler.step(o, t, x, **noise) for o, x in ((output, x_t), (output.float(), x_t.float())))
    assert full.prev_sample.dtype == torch.float32
    assert torch.equal(half.prev_sample, full.prev_sample.bfloat16())
    assert torch.equal(half.pred_original_sample, full.pred_original_sample.bfloat16())


# -- one step, against its formula


@pytest.mark.parametrize(("schedule", "prediction"), PAIRS, ids=PAIR_NAMES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddpm@small"])
def test_an_ancestral_step_is_the_posterior(sampler: str, schedule: dict[str, Any], prediction: str) -> None:
    scheduler = make(sampler, schedule=schedule, prediction_type=prediction)
    scheduler.set_timesteps(4)
    x0, x_t, noise = clean(2), draw(2, 3, 2, 4, 4, seed=8), draw(2, 3, 2, 4, 4, seed=9)
    oracle = Oracle(x0, prediction)
    for t in (0.75, 0.5, 0.25):
        g, g_next = level(schedule, t), level(schedule, t - 0.25)
        a = g / g_next
        output = oracle(x_t, torch.tensor(g, dtype=torch.float64))
        mean = scheduler.step(output, t, x_t, variance_noise=torch.zeros_like(x_t)).prev_sample
        # q(x' | x_t, x0) written with x0 rather than with the noise (Ho et al. 2020, equation 7)
        expected = math.sqrt(g_next) * (1 - a) / (1 - g) * x0 + math.sqrt(a) * (1 - g_next) / (1 - g) * x_t
        assert_close(mean, expected, 1e-4)
        variance = (1 - a) * ((1 - g_next) / (1 - g) if sampler.endswith("small") else 1)
        moved = scheduler.step(output, t, x_t, variance_noise=noise).prev_sample - mean
        assert_close(moved, math.sqrt(max(variance, 0)) * noise, 1e-4)


def test_the_small_variance_keeps_the_noise_level() -> None:
    # From x_t of level g, a step with the true x0 lands on the distribution of level g'.
    scheduler = make("ddpm@small", schedule={"type": "linear"}, prediction_type="sample")
    scheduler.set_timesteps(4)
    x0 = torch.full((1, 1, 400, 400), 0.5)
    x_t = scheduler.add_noise(x0, draw(1, 1, 400, 400), 0.75)
    moved = scheduler.step(x0, 0.75, x_t, generator=torch.Generator().manual_seed(1)).prev_sample
    assert float(moved.mean()) == pytest.approx(math.sqrt(0.5) * 0.5, abs=0.01)
    assert float(moved.std()) == pytest.approx(math.sqrt(0.5), abs=0.01)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("clip", [True, False])
def test_x0_is_clipped_to_the_input_scale_and_the_noise_follows(sampler: str, clip: bool) -> None:
    scheduler = make(sampler, schedule={"type": "linear"}, prediction_type="sample", input_scale=0.5, clip_sample=clip)
    scheduler.set_timesteps(2)
    x_t, output = draw(1, 3, 4, 4), 2 * draw(1, 3, 4, 4, seed=1)
    noise = {} if sampler == "ddim" else {"variance_noise": torch.zeros_like(x_t)}
    result = scheduler.step(output, 0.5, x_t, **noise)
    x0 = output.clamp(-0.5, 0.5) if clip else output
    assert torch.equal(result.pred_original_sample, x0)
    assert not torch.equal(x0, output) or not clip
    # The last step goes to gamma = 1, where both samplers' means are x0 itself.
    assert_close(result.prev_sample, x0, 1e-5)


@pytest.mark.parametrize("time_difference", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_time_difference_ends_each_step_further_on(sampler: str, time_difference: float) -> None:
    # The cosine falls off on both sides of zero, so that a step beyond t = 0 would show.
    schedule = {"type": "cosine", "start": 0.0}
    scheduler = make(sampler, schedule=schedule, prediction_type="sample", time_difference=time_difference)
    scheduler.set_timesteps(10)
    x0, epsilon = clean(), draw(1, 3, 2, 4, 4, seed=1)
    noise = {} if sampler == "ddim" else {"variance_noise": torch.zeros_like(x0)}
    for t in (0.8, 0.2):
        g, after = level(schedule, t), level(schedule, max(t - (1 + time_difference) / 10, 0))
        x_t = math.sqrt(g) * x0 + math.sqrt(1 - g) * epsilon
        if sampler == "ddim":
            expected = math.sqrt(after) * x0 + math.sqrt(1 - after) * epsilon
        else:
            a = g / after
            expected = math.sqrt(after) * (1 - a) / (1 - g) * x0 + math.sqrt(a) * (1 - after) / (1 - g) * x_t
        assert_close(scheduler.step(x0, t, x_t, **noise).prev_sample, expected, 1e-5)


# -- times, levels, inputs


@pytest.mark.parametrize("steps", [1, 3, 250])
def test_times_run_from_one_down_in_equal_steps(steps: int) -> None:
    scheduler = GammaDDPMScheduler()
    scheduler.set_timesteps(steps)
    assert scheduler.num_inference_steps == steps
    assert scheduler.timesteps.dtype == torch.float32
    expected = torch.tensor([1 - i / steps for i in range(steps)])
    torch.testing.assert_close(scheduler.timesteps, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: "-".join(str(value) for value in s.values()))
def test_gamma_is_the_schedule_for_numbers_and_tensors(schedule: dict[str, Any]) -> None:
    scheduler = GammaDDIMScheduler(schedule=schedule, prediction_type="v_prediction")
    t = torch.tensor([0.1, 0.6])
    torch.testing.assert_close(scheduler.gamma(t), torch.tensor([level(schedule, 0.1), level(schedule, 0.6)]))
    assert scheduler.gamma(0.1) == scheduler.gamma(t)[0]
    assert scheduler.gamma(torch.tensor(0.1, dtype=torch.bfloat16)).dtype == torch.float32


def test_add_noise_scales_the_data() -> None:
    scheduler = GammaDDPMScheduler(schedule={"type": "linear"}, input_scale=0.5)
    x0, epsilon = clean(2), draw(2, 3, 2, 4, 4)
    noisy = scheduler.add_noise(x0, epsilon, torch.tensor([0.75, 0.36]))
    torch.testing.assert_close(noisy[0], 0.25 * x0[0] + math.sqrt(0.75) * epsilon[0])
    torch.testing.assert_close(noisy[1], 0.4 * x0[1] + 0.6 * epsilon[1])
    torch.testing.assert_close(scheduler.add_noise(x0, epsilon, 0.36)[1], noisy[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_network_sees_unit_variance_if_asked(sampler: str) -> None:
    x = 0.3 * draw(2, 3, 2, 4, 4)
    x[1] *= 5
    assert make(sampler).scale_model_input(x, 0.5) is x
    seen = make(sampler, normalize_input=True).scale_model_input(x, 0.5)
    torch.testing.assert_close(seen, x / x.flatten(1).std(1, correction=0).reshape(2, 1, 1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_keeps_the_samples_type_and_may_give_a_tuple(sampler: str, dtype: torch.dtype) -> None:
    scheduler = make(sampler)
    scheduler.set_timesteps(4)
    x_t = draw(1, 3, 4, 4).to(dtype)
    noise = {} if sampler == "ddim" else {"variance_noise": draw(1, 3, 4, 4, seed=1)}
    result = scheduler.step(x_t, 0.5, x_t, **noise)
    assert result.prev_sample.dtype == result.pred_original_sample.dtype == dtype
    previous, original = scheduler.step(x_t, 0.5, x_t, return_dict=False, **noise)
    assert torch.equal(previous, result.prev_sample)
    assert torch.equal(original, result.pred_original_sample)


def test_noise_is_given_by_the_generator() -> None:
    scheduler = GammaDDPMScheduler()
    scheduler.set_timesteps(4)
    x_t = draw(2, 3, 4, 4)

    def step(generator: torch.Generator | list[torch.Generator]) -> Tensor:
        return scheduler.step(x_t, 0.5, x_t, generator=generator).prev_sample

    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    assert torch.equal(step(seeded(1)), step(seeded(1)))
    assert not torch.equal(step(seeded(1)), step(seeded(2)))
    each = step([seeded(1), seeded(2)])
    turned = step([seeded(3), seeded(2)])
    assert torch.equal(each[1], turned[1]), "a sample's noise hangs on its own generator"
    assert not torch.equal(each[0], turned[0])


# -- configuration


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_saved_scheduler_is_the_same_scheduler(sampler: str, tmp_path: Path) -> None:
    scheduler = make(
        sampler,
        schedule={"type": "sigmoid", "tau": 0.7},
        prediction_type="v_prediction",
        input_scale=0.4,
        normalize_input=True,
        time_difference=0.5,
        clip_sample=False,
    )
    scheduler.save_pretrained(tmp_path)
    loaded = type(scheduler).from_pretrained(tmp_path)
    own = {key: value for key, value in scheduler.config.items() if key[0] != "_"}
    assert {key: value for key, value in loaded.config.items() if key[0] != "_"} == own
    x_t, noise = draw(1, 3, 4, 4), {} if sampler == "ddim" else {"variance_noise": draw(1, 3, 4, 4, seed=1)}
    results = []
    for one in (scheduler, loaded):
        one.set_timesteps(4)
        results.append(one.step(x_t, 0.5, x_t, **noise).prev_sample)
    assert torch.equal(*results)


def test_schedulers_are_made_by_name() -> None:
    assert isinstance(schedulers.create("ddim"), GammaDDIMScheduler)
    made = schedulers.create({"type": "ddpm", "variance_type": "fixed_small"})
    assert made.config.variance_type == "fixed_small"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_epsilon_prediction_needs_a_schedule_above_zero(sampler: str) -> None:
    with pytest.raises(ValueError, match=r"Log\(.*\) reaches gamma = 0.*sample or v_prediction"):
        make(sampler, schedule={"type": "log"}, prediction_type="epsilon")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction_type": "noise"}, "'noise'; known: epsilon, sample, v_prediction"),
        ({"schedule": {"type": "quartic"}}, "'quartic'; known: cosine, linear"),
        ({"schedule": {"type": "sigmoid", "beta": 1}}, "'beta'.*start, end, tau"),
        ({"input_scale": 0.0}, r"input_scale must be in \(0, 1\], got 0.0"),
        ({"input_scale": 1.5}, "got 1.5"),
        ({"time_difference": -1.0}, "time_difference must be >= 0, got -1.0"),
    ],
)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_options_that_do_not_fit(sampler: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(sampler, **options)


def test_an_unknown_variance_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'learned'; known: fixed_large, fixed_small"):
        GammaDDPMScheduler(variance_type="learned")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("broken", ["model_output", "sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_numbers_that_are_not_finite_are_named(sampler: str, dtype: torch.dtype, broken: str, value: float) -> None:
    scheduler = make(sampler)
    scheduler.set_timesteps(4)
    inputs = {"model_output": draw(2, 3, 4, 4).to(dtype), "sample": draw(2, 3, 4, 4, seed=1).to(dtype)}
    inputs[broken][1, 2, 3, 0] = value
    with pytest.raises(ValueError, match=f"^{broken} holds 1 values that are not finite, such as {value}"):
        scheduler.step(timestep=0.5, **inputs)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 6, 4, 4), (2, 3, 4, 5), (2, 3, 1, 4, 4), ()])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_output_of_another_shape_is_refused(sampler: str, shape: tuple[int, ...]) -> None:
    scheduler = make(sampler)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"model_output has shape .*, the sample \(2, 3, 4, 4\)") as error:
        scheduler.step(torch.zeros(shape), 0.5, draw(2, 3, 4, 4))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("t", [1.001, -0.001, 250.0, math.nan])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_times_out_of_range_are_refused(sampler: str, t: float) -> None:
    scheduler, x = make(sampler), draw(2, 3, 4, 4)
    scheduler.set_timesteps(4)
    for call in (
        lambda: scheduler.gamma(t),
        lambda: scheduler.gamma(torch.tensor([0.5, t])),
        lambda: scheduler.step(x, t, x),
        lambda: scheduler.step(x, torch.tensor(t), x),
        lambda: scheduler.add_noise(x, x, t),
    ):
        with pytest.raises(ValueError, match=r"t must be in \[0, 1\], got "):
            call()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_steps_need_times(sampler: str) -> None:
    x = draw(1, 3, 4, 4)
    with pytest.raises(ValueError, match="call set_timesteps"):
        make(sampler).step(x, 1.0, x)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make(sampler).set_timesteps(0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sample_may_have_a_time_of_its_own(sampler: str) -> None:
    scheduler = make(sampler, schedule={"type": "linear"})
    scheduler.set_timesteps(4)
    x_t, output, noise = draw(3, 3, 4, 3), draw(3, 3, 4, 3, seed=1), draw(3, 3, 4, 3, seed=2)  # as wide as the batch
    times = torch.tensor([0.9, 0.5, 0.3])

    def step(t: Tensor, rows: slice) -> Tensor:
        extra = {} if sampler == "ddim" else {"variance_noise": noise[rows]}
        return scheduler.step(output[rows], t, x_t[rows], **extra).prev_sample

    together = step(times, slice(None))
    for i, t in enumerate(times):
        torch.testing.assert_close(together[i : i + 1], step(t, slice(i, i + 1)))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES[:4], ids=lambda spec: spec["type"])
def test_a_step_from_clean_data_stays_there(sampler: str, schedule: dict[str, Any]) -> None:
    scheduler = make(sampler, schedule=schedule, prediction_type="sample")
    scheduler.set_timesteps(4)
    x0 = clean(2)
    assert_close(scheduler.step(x0, 0.0, x0).prev_sample, x0, 1e-3)


def test_a_steps_noise_has_the_samples_shape() -> None:
    scheduler = make("ddpm")
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"variance_noise must have the sample's shape, \(2, 3, 2, 4, 4\)"):
        scheduler.step(clean(2), 0.5, clean(2), variance_noise=clean(1))
