"""What diffusers' code expects of any scheduler, of ours: others may sample and add noise with them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from rinvid.schedulers.gamma import GammaDDIMScheduler, GammaDDPMScheduler
from rinvid.seeding import generator
from tests.helpers import assert_close

Kind = type[GammaDDIMScheduler] | type[GammaDDPMScheduler]
KINDS: list[Kind] = [GammaDDIMScheduler, GammaDDPMScheduler]
OPTIONS: dict[str, Any] = {
    "schedule": {"type": "sigmoid", "tau": 0.7},
    "prediction_type": "v_prediction",
    "input_scale": 0.5,
    "time_difference": 0.5,
}
HALVES = [torch.bfloat16, torch.float16]

each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def make(kind: Kind, steps: int | None = 4, **changes: Any) -> Any:
    scheduler = kind(**OPTIONS | changes)
    if steps is not None:
        scheduler.set_timesteps(steps)
    return scheduler


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape or (2, 3, 4, 4), generator=generator(seed))


def stepped(scheduler: Any, t: Any = 0.5, seed: int = 3, **options: Any) -> Any:
    """A step from given numbers."""
    return scheduler.step(draw(seed=1), t, draw(seed=2), generator=generator(seed), **options)


# -- times


@each
@pytest.mark.parametrize("steps", [1, 2, 3, 250, 1000, 4001])
def test_timesteps_fall_and_are_as_many_as_asked_for(kind: Kind, steps: int) -> None:
    scheduler = make(kind, steps)
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == steps
    assert scheduler.timesteps[0] == 1
    assert bool((scheduler.timesteps.diff() < 0).all())
    assert scheduler.timesteps[-1] > 0
    scheduler.set_timesteps(num_inference_steps=7)
    assert len(scheduler.timesteps) == 7


@each
@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "meta", torch.device("meta")])
def test_timesteps_are_on_the_device_asked_for(kind: Kind, device: str | torch.device) -> None:
    scheduler = make(kind, None)
    scheduler.set_timesteps(4, device=device)
    assert scheduler.timesteps.device == torch.device(device)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.device.type == "cpu"


@each
def test_samples_stay_on_their_device(kind: Kind) -> None:
    # The device "meta" has shapes alone, and no number from elsewhere can slip in.
    scheduler, x = make(kind), draw().to("meta")
    for t in (0.5, torch.tensor(0.5), torch.tensor([0.5, 0.25]), torch.tensor(0.5, device="meta")):
        result = scheduler.step(x, t, x)
        assert result.prev_sample.device.type == result.pred_original_sample.device.type == "meta"
        assert scheduler.add_noise(x, x, t).device.type == "meta"
    assert scheduler.scale_model_input(x, 0.5).device.type == "meta"


@each
def test_times_may_be_numbers_or_tensors(kind: Kind) -> None:
    scheduler = make(kind)
    expected = stepped(scheduler, 0.5).prev_sample
    for t in (torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64), scheduler.timesteps[2], torch.full((2,), 0.5)):
        assert torch.equal(stepped(scheduler, t).prev_sample, expected)
    assert torch.equal(stepped(scheduler, 1).prev_sample, stepped(scheduler, torch.tensor(1.0)).prev_sample)


# -- the noise at the start, and what the network sees


@each
def test_a_plain_start(kind: Kind) -> None:
    scheduler, x = make(kind), draw()
    assert scheduler.order == 1
    assert torch.equal(x * scheduler.init_noise_sigma, x)
    assert torch.equal(scheduler.scale_model_input(x), x)
    assert torch.equal(scheduler.scale_model_input(x, timestep=scheduler.timesteps[0]), x)


@each
def test_the_input_is_normalised_sample_by_sample(kind: Kind) -> None:
    x = 3 * draw() + 1
    seen = make(kind, normalize_input=True).scale_model_input(x, 0.5)
    assert_close(seen.flatten(1).std(1, correction=0), torch.ones(2), 1e-5)
    assert_close(seen[0] / seen[0].mean(), x[0] / x[0].mean(), 1e-4)  # scaled, not shifted


# -- a step


@each
def test_a_steps_output_is_that_of_diffusers(kind: Kind) -> None:
    result = stepped(make(kind))
    assert isinstance(result, BaseOutput)
    assert list(result.keys()) == ["prev_sample", "pred_original_sample"]
    assert torch.equal(result["prev_sample"], result.prev_sample)
    assert torch.equal(result[0], result.prev_sample)
    as_tuple = stepped(make(kind), return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == 2
    assert torch.equal(as_tuple[0], result.prev_sample)
    assert torch.equal(as_tuple[1], result.pred_original_sample)


@each
def test_a_step_takes_its_arguments_in_diffusers_order(kind: Kind) -> None:
    scheduler, output, x_t = make(kind), draw(seed=1), draw(seed=2)
    by_name = scheduler.step(model_output=output, timestep=0.5, sample=x_t, generator=generator(3)).prev_sample
    assert torch.equal(scheduler.step(output, 0.5, x_t, generator=generator(3)).prev_sample, by_name)
    assert torch.equal(stepped(scheduler).prev_sample, by_name)


@each
def test_what_is_given_is_not_changed(kind: Kind) -> None:
    scheduler = make(kind, normalize_input=True)
    given = [draw(seed=seed) for seed in range(3)]
    times = torch.tensor([0.5, 0.75])
    scheduler.step(given[0], times, given[1], generator=generator(0))
    scheduler.add_noise(given[0], given[2], times)
    scheduler.scale_model_input(given[1], times)
    assert all(torch.equal(tensor, draw(seed=seed)) for seed, tensor in enumerate(given))
    assert times.tolist() == [0.5, 0.75]


def test_noise_hangs_on_the_generator() -> None:
    scheduler = make(GammaDDPMScheduler)
    first, again, other = (stepped(scheduler, seed=seed).prev_sample for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(stepped(scheduler, seed=1).pred_original_sample, stepped(scheduler, seed=2).pred_original_sample)


def test_each_sample_may_have_a_generator_of_its_own() -> None:
    scheduler, output, x_t = make(GammaDDPMScheduler), draw(seed=1), draw(seed=2)
    together = scheduler.step(output, 0.5, x_t, generator=[generator(4), generator(5)]).prev_sample
    for i, seed in enumerate((4, 5)):
        alone = scheduler.step(output[i : i + 1], 0.5, x_t[i : i + 1], generator=generator(seed)).prev_sample
        assert torch.equal(alone[0], together[i])


def test_a_sampler_without_noise_takes_a_generator_and_draws_nothing() -> None:
    random = generator(1)
    before = random.get_state()
    result = make(GammaDDIMScheduler).step(draw(seed=1), 0.5, draw(seed=2), generator=random)
    assert torch.equal(random.get_state(), before)
    assert torch.equal(result.prev_sample, stepped(make(GammaDDIMScheduler)).prev_sample)


@each
@pytest.mark.parametrize("dtype", HALVES)
def test_a_step_in_half_precision_is_the_rounded_one(kind: Kind, dtype: torch.dtype) -> None:
    scheduler, output, x_t = make(kind), draw(seed=1).to(dtype), draw(seed=2).to(dtype)
    for t in scheduler.timesteps:
        half = scheduler.step(output, t, x_t, generator=generator(3))
        full = scheduler.step(output.float(), t, x_t.float(), generator=generator(3))
        assert half.prev_sample.dtype == half.pred_original_sample.dtype == dtype
        assert full.prev_sample.dtype == torch.float32
        assert torch.equal(half.prev_sample, full.prev_sample.to(dtype))
        assert torch.equal(half.pred_original_sample, full.pred_original_sample.to(dtype))


@each
def test_a_step_in_double_precision_is_one_in_single(kind: Kind) -> None:
    scheduler = make(kind)
    result = scheduler.step(draw(seed=1).double(), 0.5, draw(seed=2).double(), generator=generator(3)).prev_sample
    assert result.dtype == torch.float64
    assert_close(result, stepped(scheduler).prev_sample.double(), 1e-6)


# -- noise added to data


@each
def test_noise_is_added_at_any_time(kind: Kind) -> None:
    scheduler, x0, noise = make(kind, None), draw(4, 3, 4, 4).clamp(-1, 1), draw(4, 3, 4, 4, seed=1)
    times = torch.tensor([0.0, 0.123, 0.987, 1.0])
    together = scheduler.add_noise(x0, noise, times)
    for i, t in enumerate(times):
        gamma = scheduler.gamma(t)
        assert_close(together[i], gamma.sqrt() * 0.5 * x0[i] + (1 - gamma).sqrt() * noise[i], 1e-6)
        for same in (float(t), t, t.double(), t.reshape(1)):
            assert_close(scheduler.add_noise(x0, noise, same)[i], together[i], 1e-6)
    assert_close(scheduler.add_noise(x0, noise, 1), scheduler.add_noise(x0, noise, 1.0), 0)
    assert_close(scheduler.add_noise(original_samples=x0, noise=noise, timesteps=times), together, 0)
    assert_close(together[0], 0.5 * x0[0], 1e-6)
    assert_close(together[3], noise[3], 1e-3)


@each
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 2, 4, 4), (2, 7), (3, 3, 3)])
def test_samples_may_have_any_shape(kind: Kind, shape: tuple[int, ...]) -> None:
    scheduler, x0, noise = make(kind), draw(*shape), draw(*shape, seed=1)
    times = torch.linspace(0.2, 0.8, shape[0])
    noisy = scheduler.add_noise(x0, noise, times)
    assert noisy.shape == x0.shape
    assert_close(noisy[-1], scheduler.add_noise(x0[-1:], noise[-1:], times[-1])[0], 1e-6)
    assert scheduler.step(x0, 0.5, noise).prev_sample.shape == x0.shape


@each
@pytest.mark.parametrize("dtype", HALVES)
def test_noise_in_half_precision_is_the_rounded_one(kind: Kind, dtype: torch.dtype) -> None:
    scheduler, x0, noise = make(kind), draw().to(dtype), draw(seed=1).to(dtype)
    for t in (0.001, 0.3, 0.999):
        half = scheduler.add_noise(x0, noise, t)
        assert half.dtype == dtype
        assert torch.equal(half, scheduler.add_noise(x0.float(), noise.float(), t).to(dtype))
    # A time in half precision is the number it holds, no coarser schedule.
    t = torch.tensor([0.3, 0.7]).to(dtype)
    assert torch.equal(scheduler.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t.float()))


# -- saved, copied


def by_pretrained(scheduler: Any, folder: Path) -> Any:
    scheduler.save_pretrained(folder / "scheduler")
    return type(scheduler).from_pretrained(folder, subfolder="scheduler")


def by_config(scheduler: Any, folder: Path) -> Any:
    return type(scheduler).from_config(scheduler.config)


def by_pickle(scheduler: Any, folder: Path) -> Any:
    return pickle.loads(pickle.dumps(scheduler))


def by_deepcopy(scheduler: Any, folder: Path) -> Any:
    return copy.deepcopy(scheduler)


@each
@pytest.mark.parametrize("copied", [by_pretrained, by_config, by_pickle, by_deepcopy])
def test_a_copy_is_the_same_scheduler(kind: Kind, copied: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    changes = {"variance_type": "fixed_small"} if kind is GammaDDPMScheduler else {}
    scheduler = make(kind, normalize_input=True, clip_sample=False, **changes)
    other = copied(scheduler, tmp_path)
    assert isinstance(other, kind)
    assert other is not scheduler
    hidden = {"_diffusers_version", "_class_name", "_use_default_values"}
    assert other.config.keys() - hidden == scheduler.config.keys() - hidden
    assert all(other.config[key] == scheduler.config[key] for key in scheduler.config.keys() - hidden)
    other.set_timesteps(4)
    assert torch.equal(other.timesteps, scheduler.timesteps)
    assert torch.equal(stepped(other).prev_sample, stepped(scheduler).prev_sample)
    other.set_timesteps(9)
    assert len(scheduler.timesteps) == 4, "the one it was taken from is unchanged"


@each
@pytest.mark.parametrize("copied", [by_pickle, by_deepcopy])
def test_a_copy_goes_on_where_the_original_was(kind: Kind, copied: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    scheduler = make(kind)
    other = copied(scheduler, tmp_path)
    assert torch.equal(stepped(other, other.timesteps[1]).prev_sample, stepped(scheduler, 0.75).prev_sample)


@each
def test_options_may_be_changed_on_the_way(kind: Kind) -> None:
    scheduler = make(kind)
    other = kind.from_config(scheduler.config, prediction_type="sample", schedule={"type": "linear"})
    assert (other.config.prediction_type, other.config.schedule["type"]) == ("sample", "linear")
    assert other.config.input_scale == 0.5
    assert float(other.gamma(0.25)) == pytest.approx(0.75)
    assert scheduler.config.prediction_type == "v_prediction"


@each
def test_it_is_a_scheduler_to_diffusers(kind: Kind) -> None:
    scheduler = make(kind)
    assert isinstance(scheduler, SchedulerMixin)
    assert isinstance(scheduler, ConfigMixin)
    assert scheduler.config_name == "scheduler_config.json"
    with pytest.raises(Exception, match="cannot use ``update``"):
        scheduler.config.update(input_scale=1.0)
    assert kind.__name__ in repr(scheduler)
