"""The video pipeline: what it takes, what it gives, and what it says when it is given something else."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rinvid.conditioning import LatentCarry
from rinvid.data import VideoError, read_clip
from rinvid.data.clips import to_model_range
from rinvid.models.rin import RINModel, RINOutput
from rinvid.pipelines.video import RINVideoPipeline
from rinvid.schedulers.gamma import GammaDDIMScheduler, GammaDDPMScheduler
from rinvid.seeding import generator
from tests.helpers import randomised, relative_error, small_model
from tests.video.make import numbered, write_video

ROOT = Path(__file__).parents[2]
SIDE, FRAMES, GIVEN = 16, 8, 3
NEW = FRAMES - GIVEN
STEPS = 4

STOCK = [
    "DDIM",
    "DDPM",
    "DPMSolverMultistep",
    "UniPCMultistep",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "DEISMultistep",
]


def model(**changes: Any) -> RINModel:
    """A model whose every parameter matters."""
    config = {"sample_size": SIDE, "num_frames": FRAMES, "context_frames": GIVEN}
    return randomised(small_model(**config | changes), std=0.05)


def pipeline(network: RINModel | None = None, scheduler: Any = None) -> RINVideoPipeline:
    pipe = RINVideoPipeline(network or model(), scheduler or GammaDDIMScheduler(prediction_type="v_prediction"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> RINVideoPipeline:
    """A pipeline of a small random network."""
    return pipeline()


def context(batch: int = 2) -> np.ndarray:
    """Given frames (batch, 3, 16, 16, 3)."""
    return np.random.default_rng(0).integers(0, 256, (batch, GIVEN, SIDE, SIDE, 3), dtype=np.uint8)


def sample(pipe: RINVideoPipeline, given: Any = None, seed: int = 0, steps: int = STEPS, **options: Any) -> Any:
    return pipe(given, num_inference_steps=steps, generator=generator(seed), **options).frames


def stock(kind: str) -> Any:
    """A scheduler of diffusers in the place of ours."""
    ours = GammaDDIMScheduler(prediction_type="v_prediction")
    return getattr(diffusers, f"{kind}Scheduler").from_config(ours.config)


def watched(pipe: RINVideoPipeline) -> list[dict[str, Any]]:
    """The list to which each pass of the pipeline's network adds what it was given."""
    passes: list[dict[str, Any]] = []
    pipe.model.register_forward_pre_hook(lambda _, __, given: passes.append(given), with_kwargs=True)
    return passes


def noise(batch: int, seed: int = 0) -> Tensor:
    """What a sampler starts from, given a generator of this seed."""
    return torch.randn(batch, 3, FRAMES - GIVEN, SIDE, SIDE, generator=generator(seed))


def rebuilt(kind: type[RINModel], network: RINModel) -> RINModel:
    """The same network as an object of another class."""
    other = kind(**{key: value for key, value in network.config.items() if not key.startswith("_")})
    other.load_state_dict(network.state_dict())
    return other.eval()


# -- what it takes


def test_arrays_tensors_and_one_clip(pipe: RINVideoPipeline) -> None:
    given = context()
    frames = sample(pipe, given)
    assert (frames.shape, frames.dtype) == ((2, FRAMES, SIDE, SIDE, 3), np.float32)
    assert 0 <= frames.min() < frames.max() <= 1
    np.testing.assert_allclose(frames[:, :GIVEN], given / 255, atol=1e-6)
    assert frames[:, GIVEN:].std() > 0.02
    np.testing.assert_array_equal(sample(pipe, torch.from_numpy(given)), frames)
    np.testing.assert_array_equal(sample(pipe, to_model_range(torch.from_numpy(given))), frames)
    one = sample(pipe, given[:1])
    assert one.shape == (1, FRAMES, SIDE, SIDE, 3)
    np.testing.assert_array_equal(sample(pipe, given[0]), one)


def test_pictures(pipe: RINVideoPipeline) -> None:
    given = context()[0]
    pictures = [Image.fromarray(frame) for frame in given]
    np.testing.assert_array_equal(sample(pipe, pictures), sample(pipe, given))
    large = [Image.fromarray(frame).resize((SIDE * 3, SIDE * 2)).convert("L") for frame in given]
    frames = sample(pipe, large)
    assert frames.shape == (1, FRAMES, SIDE, SIDE, 3)
    assert np.ptp(frames[:, :GIVEN].astype(int), axis=-1).max() == 0  # grey frames stay grey as RGB


@pytest.mark.parametrize("as_text", [False, True])
def test_path_of_a_video(pipe: RINVideoPipeline, tmp_path: Path, as_text: bool) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(10, 32))
    given = read_clip(path, 0, GIVEN, size=SIDE)
    np.testing.assert_array_equal(sample(pipe, str(path) if as_text else path), sample(pipe, given))


def test_context_matters_and_so_does_the_seed(pipe: RINVideoPipeline) -> None:
    given = context(1)
    frames = sample(pipe, given)[:, GIVEN:]
    np.testing.assert_array_equal(sample(pipe, given)[:, GIVEN:], frames)
    assert (sample(pipe, given, seed=1)[:, GIVEN:] != frames).any()
    assert (sample(pipe, 255 - given)[:, GIVEN:] != frames).any()


# -- what it gives


def test_output_types(pipe: RINVideoPipeline) -> None:
    given = context()
    array, tensor, pictures = (sample(pipe, given, output_type=kind) for kind in ("np", "pt", "pil"))
    assert (tensor.shape, tensor.dtype) == ((2, 3, FRAMES, SIDE, SIDE), torch.float32)
    assert 0 <= float(tensor.min()) < float(tensor.max()) <= 1
    np.testing.assert_array_equal(tensor.movedim(1, -1).numpy(), array)
    assert [len(clip) for clip in pictures] == [FRAMES, FRAMES]
    assert pictures[0][0].size == (SIDE, SIDE)
    shown = np.stack([np.stack([np.asarray(frame) for frame in clip]) for clip in pictures])
    np.testing.assert_array_equal(shown[:, :GIVEN], given)
    np.testing.assert_array_equal(shown, np.rint(array * 255))


def test_float_context_comes_back_unchanged(pipe: RINVideoPipeline) -> None:
    given = torch.rand(2, 3, GIVEN, SIDE, SIDE, generator=generator(3)) * 2 - 1
    torch.testing.assert_close(sample(pipe, given, output_type="pt")[:, :, :GIVEN] * 2 - 1, given, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_one_step_is_the_clean_sample_of_one_pass(scale: float) -> None:
    network = model()
    pipe = pipeline(network, GammaDDIMScheduler(prediction_type="sample", input_scale=scale))
    given = to_model_range(torch.from_numpy(context()))
    frames = sample(pipe, given, seed=1, steps=1, output_type="pt") * 2 - 1
    with torch.no_grad():
        output = network(noise(2, seed=1), pipe.scheduler.gamma(torch.ones(())), context=given * scale).sample
    torch.testing.assert_close(frames[:, :, GIVEN:], output.clamp(-scale, scale) / scale, atol=1e-5, rtol=0)


class Forgetful(RINModel):
    """A model that looks at no latents of the pass before."""

    def forward(
        self,
        sample: Tensor,
        gamma: Tensor,
        class_labels: Tensor | None = None,
        context: Tensor | None = None,
        **carried: Tensor | None,
    ) -> RINOutput:
        assert carried.keys() == {"latents", "interface"}
        return super().forward(sample, gamma, class_labels, context)


@pytest.mark.parametrize("self_cond", ["latent", "latent+interface"])
def test_latents_are_carried_from_step_to_step(self_cond: str) -> None:
    remembering = model(self_cond=self_cond)
    pipes = pipeline(remembering), pipeline(rebuilt(Forgetful, remembering))
    after_one, after_two = (
        [sample(pipe, context(), steps=steps, output_type="pt") for pipe in pipes] for steps in (1, 2)
    )
    assert torch.equal(*after_one)  # nothing to remember yet
    assert float((after_two[0] - after_two[1]).abs().max()) > 1e-3


def test_nothing_is_carried_from_call_to_call(pipe: RINVideoPipeline) -> None:
    first = sample(pipe, context())
    sample(pipe, 255 - context(), seed=5)
    np.testing.assert_array_equal(sample(pipe, context()), first)


def test_model_without_memory() -> None:
    frames = sample(pipeline(model(self_cond="none")), context())
    assert frames.shape == (2, FRAMES, SIDE, SIDE, 3)


@pytest.mark.parametrize(
    "scheduler",
    [
        GammaDDIMScheduler(prediction_type="v_prediction"),
        GammaDDPMScheduler(prediction_type="v_prediction"),
    ],
    ids=["ddim", "ddpm"],
)
def test_a_clip_does_not_depend_on_its_batch(scheduler: Any) -> None:
    pipe, given = pipeline(scheduler=scheduler), context(1).repeat(3, 0)
    options = {"num_inference_steps": STEPS, "output_type": "pt"}
    together = pipe(given, generator=[generator(9, clip) for clip in range(3)], **options).frames
    for clip in range(3):
        alone = pipe(given[clip], generator=[generator(9, clip)], **options).frames
        torch.testing.assert_close(alone[0], together[clip], atol=1e-4, rtol=0)
    assert float((together[0] - together[1])[:, GIVEN:].abs().max()) > 0.1


def test_the_generator_decides_a_stochastic_sampler_too() -> None:
    pipe = pipeline(scheduler=GammaDDPMScheduler(prediction_type="v_prediction"))
    np.testing.assert_array_equal(sample(pipe, context()), sample(pipe, context()))


def test_whole_clips_without_context() -> None:
    pipe = pipeline(model(context_frames=0))
    frames = sample(pipe, batch_size=3)
    assert frames.shape == (3, FRAMES, SIDE, SIDE, 3)
    assert (frames[0] != frames[1]).any()
    assert sample(pipe).shape == (1, FRAMES, SIDE, SIDE, 3)
    with pytest.raises(ValueError, match="this model takes no context frames"):
        pipe(context())


def test_labels() -> None:
    pipe = pipeline(model(num_classes=4))
    given = context(1).repeat(2, 0)
    frames = sample(pipe, given, class_labels=[1, 3])
    np.testing.assert_array_equal(sample(pipe, given, class_labels=torch.tensor([1, 3])), frames)
    other = sample(pipe, given, class_labels=[1, 2])
    np.testing.assert_array_equal(other[0], frames[0])
    assert (other[1] != frames[1]).any()
    with pytest.raises(ValueError, match="class_labels is missing"):
        sample(pipe, given)
    with pytest.raises(ValueError, match=r"there are 3 labels for 2 samples"):
        sample(pipe, given, class_labels=[1, 2, 3])


def test_one_label_is_for_all_clips() -> None:
    pipe, given = pipeline(model(num_classes=4)), context()
    frames = sample(pipe, given, class_labels=[2, 2])
    for label in (2, [2], torch.tensor(2), torch.tensor([2])):
        np.testing.assert_array_equal(sample(pipe, given, class_labels=label), frames)
    alone = pipeline(model(num_classes=4, context_frames=0))
    np.testing.assert_array_equal(
        sample(alone, batch_size=2, class_labels=2), sample(alone, batch_size=2, class_labels=[2, 2])
    )


@pytest.mark.parametrize("labels", [[0, 4], [-2, 1], [0.0, 1.0]])
def test_labels_that_are_not_classes(labels: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"class_labels must be whole numbers in \[0, 3\], or -1 for none, got"):
        sample(pipeline(model(num_classes=4)), context(), class_labels=labels)


# -- guidance


@pytest.mark.parametrize("given", [GIVEN, 0], ids=["class and frames", "class alone"])
def test_guidance_changes_the_clip_and_none_is_the_default(given: int) -> None:
    pipe = pipeline(model(num_classes=4, context_frames=given))
    frames = {"given": context()} if given else {"batch_size": 2}
    plain = sample(pipe, **frames, class_labels=[1, 3])
    np.testing.assert_array_equal(sample(pipe, **frames, class_labels=[1, 3], guidance_scale=0.0), plain)
    strong, stronger = (sample(pipe, **frames, class_labels=[1, 3], guidance_scale=w) for w in (1.0, 3.0))
    assert strong.shape == plain.shape
    for a, b in ((plain, strong), (strong, stronger), (plain, stronger)):
        np.testing.assert_array_equal(a[:, :given], b[:, :given])
        assert (np.abs(a - b)[:, given:].reshape(2, -1).max(1) > 1e-3).all()


def test_guidance_goes_away_from_what_no_label_gives() -> None:
    network = model(num_classes=4)
    pipe = pipeline(network, GammaDDIMScheduler(prediction_type="sample", clip_sample=False))
    given = to_model_range(torch.from_numpy(context()))
    frames = sample(pipe, given, steps=1, output_type="pt", class_labels=[1, 3], guidance_scale=0.5) * 2 - 1
    inputs = {"sample": noise(2), "gamma": pipe.scheduler.gamma(torch.ones(())), "context": given}
    with torch.no_grad():
        towards, away = (network(**inputs, class_labels=torch.tensor(labels)).sample for labels in ([1, 3], [-1, -1]))
    expected = (1.5 * towards - 0.5 * away).clamp(-1, 1)
    torch.testing.assert_close(frames[:, :, GIVEN:], expected, atol=1e-5, rtol=0)
    assert float((expected - towards.clamp(-1, 1)).abs().max()) > 1e-2


def test_guidance_towards_no_label_changes_nothing() -> None:
    pipe = pipeline(model(num_classes=4))
    plain, guided = (sample(pipe, context(), class_labels=[-1, 2], guidance_scale=w) for w in (0.0, 2.0))
    np.testing.assert_allclose(guided[0], plain[0], atol=1e-4)
    assert np.abs(guided[1] - plain[1]).max() > 1e-3


def test_guidance_away_from_labels_of_choice() -> None:
    pipe, given = pipeline(model(num_classes=4)), context()
    options = {"class_labels": [1, 3], "guidance_scale": 2.0}
    dropped = sample(pipe, given, **options)
    np.testing.assert_array_equal(sample(pipe, given, negative_labels=-1, **options), dropped)
    chosen = sample(pipe, given, negative_labels=[2, -1], **options)
    assert np.abs(chosen[0] - dropped[0]).max() > 1e-3
    np.testing.assert_allclose(chosen[1], dropped[1], atol=1e-5)
    # Away from where it goes: (1 + w) - w of the same is the plain clip.
    plain = sample(pipe, given, class_labels=[1, 3])
    np.testing.assert_allclose(sample(pipe, given, negative_labels=[1, 3], **options), plain, atol=1e-4)
    with pytest.raises(ValueError, match=r"there are 3 labels for 2 samples"):
        sample(pipe, given, negative_labels=[0, 1, 2], **options)


def test_guidance_acts_between_the_times_given() -> None:
    pipe, given = pipeline(model(num_classes=4)), context()
    passes = watched(pipe)
    options = {"class_labels": [1, 3], "guidance_scale": 2.0}
    # The four steps are at times 1, 0.75, 0.5 and 0.25.
    for interval, doubled in (
        ((0.0, 1.0), [True, True, True, True]),
        ((0.0, 0.1), [False, False, False, False]),
        ((0.5, 0.75), [False, True, True, False]),
        ((0.9, 1.0), [True, False, False, False]),
    ):
        passes.clear()
        frames = sample(pipe, given, guidance_interval=interval, **options)
        assert [len(given["sample"]) == 4 for given in passes] == doubled
        if not any(doubled):
            np.testing.assert_array_equal(frames, sample(pipe, given, class_labels=[1, 3]))
        if all(doubled):
            np.testing.assert_array_equal(frames, sample(pipe, given, **options))


def test_guidance_holds_in_every_window_of_a_longer_clip() -> None:
    pipe = pipeline(model(num_classes=4))
    options = {"class_labels": [1, 3], "guidance_scale": 2.0, "num_inference_steps": STEPS, "output_type": "pt"}
    random = generator(4)
    long = pipe(context(), num_frames=2 * FRAMES - GIVEN, generator=random, **options).frames
    random = generator(4)
    first = pipe(context(), generator=random, **options).frames
    second = pipe((first * 2 - 1)[:, :, -GIVEN:], generator=random, **options).frames
    torch.testing.assert_close(long, torch.cat([first, second[:, :, GIVEN:]], 2), atol=1e-4, rtol=0)


def test_guidance_without_labels(pipe: RINVideoPipeline) -> None:
    with pytest.raises(ValueError, match=r"guidance_scale=2\.0: a model without classes"):
        sample(pipe, context(), guidance_scale=2.0)
    with pytest.raises(ValueError, match="class_labels is missing"):
        sample(pipeline(model(num_classes=4)), context(), guidance_scale=2.0)


# -- clips of other lengths


def test_a_longer_clip_goes_on_from_its_own_end(pipe: RINVideoPipeline) -> None:
    given, new = context(), FRAMES - GIVEN
    random = generator(4)
    long = pipe(given, num_frames=16, num_inference_steps=STEPS, generator=random, output_type="pt").frames
    assert long.shape == (2, 3, 16, SIDE, SIDE)
    random = generator(4)
    last = to_model_range(torch.from_numpy(given))
    for first in range(GIVEN, 16, new):
        window = pipe(last, num_inference_steps=STEPS, generator=random, output_type="pt").frames
        shown = long[:, :, first : first + new]
        torch.testing.assert_close(shown, window[:, :, GIVEN:][:, :, : shown.shape[2]], atol=1e-4, rtol=0)
        last = (window * 2 - 1)[:, :, -GIVEN:]


def test_a_shorter_clip_is_the_beginning(pipe: RINVideoPipeline) -> None:
    whole = sample(pipe, context())
    np.testing.assert_array_equal(sample(pipe, context(), num_frames=GIVEN + 1), whole[:, : GIVEN + 1])
    np.testing.assert_array_equal(sample(pipe, context(), num_frames=FRAMES), whole)


@pytest.mark.parametrize("num_frames", [GIVEN, 1, -5])
def test_no_frame_to_predict(pipe: RINVideoPipeline, num_frames: int) -> None:
    with pytest.raises(ValueError, match=f"num_frames={num_frames} leaves no frame to predict"):
        sample(pipe, context(), num_frames=num_frames)


def test_only_context_can_be_rolled_out() -> None:
    with pytest.raises(ValueError, match=f"num_frames={FRAMES + 1}: a model without context"):
        sample(pipeline(model(context_frames=0)), num_frames=FRAMES + 1)


# -- rollouts: what is carried, what is held


def test_latents_go_from_window_to_window_if_asked(pipe: RINVideoPipeline) -> None:
    options = {"num_frames": GIVEN + 3 * NEW, "output_type": "pt"}
    plain, carried = (sample(pipe, context(), carry_latents=carry, **options) for carry in (False, True))
    np.testing.assert_array_equal(plain, sample(pipe, context(), **options), "not carried unless asked for")
    assert torch.equal(carried[:, :, :FRAMES], plain[:, :, :FRAMES]), "nothing to carry into the first window"
    for first in (FRAMES, FRAMES + NEW):
        assert float((carried - plain)[:, :, first : first + NEW].abs().amax(dim=(1, 2, 3, 4)).min()) > 1e-3


def test_a_rollout_is_a_chain_of_trajectories(pipe: RINVideoPipeline) -> None:
    long = sample(pipe, context(), seed=4, num_frames=GIVEN + 2 * NEW, carry_latents=True, output_type="pt") * 2 - 1
    given = to_model_range(torch.from_numpy(context()))
    random, carry = generator(4), LatentCarry()
    for first in (GIVEN, FRAMES):
        start = torch.randn(2, 3, NEW, SIDE, SIDE, generator=random)
        frames, carry = pipe.sample_trajectory(start, STEPS, context=given, carry=carry, generator=random)
        shown = frames.clamp(-1, 1)
        torch.testing.assert_close(long[:, :, first : first + NEW], shown, atol=1e-4, rtol=0)
        given = frames[:, :, -GIVEN:]


def test_a_trajectory_begins_with_the_latents_it_is_given(pipe: RINVideoPipeline) -> None:
    given = to_model_range(torch.from_numpy(context()))
    plain, carry = pipe.sample_trajectory(noise(2), STEPS, context=given)
    assert carry.latents is not None
    assert carry.latents.abs().max() > 0
    zeros = LatentCarry(torch.zeros_like(carry.latents), torch.zeros_like(carry.interface))
    assert torch.equal(pipe.sample_trajectory(noise(2), STEPS, context=given, carry=zeros)[0], plain)
    other, _ = pipe.sample_trajectory(noise(2), STEPS, context=given, carry=carry)
    assert float((other - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("carry_latents", [False, True])
def test_only_a_beginning_is_without_latents(carry_latents: bool) -> None:
    pipe = pipeline()
    passes = watched(pipe)
    sample(pipe, context(), num_frames=GIVEN + 3 * NEW, carry_latents=carry_latents)
    without = [i for i, given in enumerate(passes) if given["latents"] is None]
    assert len(passes) == 3 * STEPS
    assert without == ([0] if carry_latents else [0, STEPS, 2 * STEPS])


@pytest.fixture
def nothing_older() -> Iterator[None]:
    """What is there before a test is not looked at, which also makes the looking fast."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_bytes() -> int:
    """Memory that tensors of this test hold just now."""
    gc.collect()
    alive = [value.untyped_storage() for value in gc.get_objects() if issubclass(type(value), Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in alive}.values())


@pytest.mark.usefixtures("nothing_older")
def test_sixty_four_frames_from_five_in_memory_that_grows_by_the_frames_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline(model(sample_size=8, num_frames=16, context_frames=5))
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    held: list[int] = []
    moved: list[int] = []
    move, window = Tensor.cpu, (1, 3, 11, 8, 8)

    def note(_: Any, __: Any, given: dict[str, Tensor]) -> None:
        seen.append((tuple(given["sample"].shape), tuple(given["context"].shape)))

    def noted(tensor: Tensor) -> Tensor:
        if tensor.shape == window:
            moved.append(len(seen))
        return move(tensor)

    def measure(_: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 1:
            held.append(live_bytes())
        return tensors

    pipe.model.register_forward_pre_hook(note, with_kwargs=True)
    monkeypatch.setattr(Tensor, "cpu", noted)
    given = np.random.default_rng(0).integers(0, 256, (1, 5, 8, 8, 3), dtype=np.uint8)
    frames = sample(pipe, given, steps=2, num_frames=5 + 64, carry_latents=True, callback_on_step_end=measure)
    assert frames.shape == (1, 69, 8, 8, 3)
    assert np.isfinite(frames).all()
    # The network never sees more than one window ...
    assert seen == 6 * 2 * [(window, (1, 3, 5, 8, 8))]
    # ... each adds its own frames to what is held, and nothing else ...
    assert len(held) == 6
    assert np.diff(held[1:]).max() <= 4 * math.prod(window), held
    # ... and those leave the device before the next one begins.
    assert moved == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("kind", [None, "DDPM", "EulerAncestralDiscrete"])
def test_a_clip_of_a_rollout_does_not_depend_on_its_batch(kind: str | None) -> None:
    scheduler = GammaDDPMScheduler(prediction_type="v_prediction") if kind is None else stock(kind)
    pipe, given = pipeline(scheduler=scheduler), context()
    options = {"num_inference_steps": STEPS, "output_type": "pt", "num_frames": GIVEN + 2 * NEW, "carry_latents": True}
    together = pipe(given, generator=[generator(9, clip) for clip in range(2)], **options).frames
    for clip in range(2):
        alone = pipe(given[clip], generator=[generator(9, clip)], **options).frames
        torch.testing.assert_close(alone[0], together[clip], atol=1e-3, rtol=0)
        swapped = pipe(given[clip], generator=[generator(9, 1 - clip)], **options).frames
        assert float((swapped[0] - together[clip]).abs().max()) > 0.1


def test_generators_are_one_a_clip(pipe: RINVideoPipeline) -> None:
    with pytest.raises(ValueError, match="generator is a list of 3 for 2 samples"):
        pipe(context(), generator=[generator(i) for i in range(3)])


# -- batches split for memory


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_the_clips_are_the_same_however_few_go_through_at_once(size: int, guidance: float) -> None:
    pipe = pipeline(model(num_classes=4, self_cond="latent+interface"))
    options = {"class_labels": [0, 1, 2], "guidance_scale": guidance, "num_frames": GIVEN + 2 * NEW}
    options |= {"output_type": "pt", "carry_latents": True}
    expected = sample(pipe, context(3), **options)
    passes = watched(pipe)
    frames = sample(pipe, context(3), max_batch_size=size, **options)
    torch.testing.assert_close(frames, expected, atol=1e-4, rtol=0)
    rows = 6 if guidance else 3
    seen = [len(given["sample"]) for given in passes]
    assert max(seen) == min(size, rows)
    assert sum(seen) == rows * 2 * STEPS


@pytest.mark.parametrize("size", [0, -1])
def test_no_clip_at_once(pipe: RINVideoPipeline, size: int) -> None:
    with pytest.raises(ValueError, match=f"max_batch_size must be at least 1, got {size}"):
        sample(pipe, context(), max_batch_size=size)


# -- callbacks


def test_a_callback_sees_every_step_of_every_window(pipe: RINVideoPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def note(owner: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert owner is pipe
        assert tensors["sample"].shape == (2, 3, NEW, SIDE, SIDE)
        seen.append((step, float(t)))
        return tensors

    options = {"num_frames": GIVEN + 2 * NEW, "output_type": "pt"}
    frames = sample(pipe, context(), callback_on_step_end=note, **options)
    assert seen == 2 * [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25)]
    assert torch.equal(frames, sample(pipe, context(), **options)), "it changed nothing"
    nothing = sample(pipe, context(), callback_on_step_end=lambda *_: None, **options)
    assert torch.equal(frames, nothing)


def test_what_a_callback_gives_back_is_sampled_on(pipe: RINVideoPipeline) -> None:
    def still(_: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sample": tensors["sample"] if step else torch.zeros_like(tensors["sample"])}

    plain, changed, again = (
        sample(pipe, context(1), seed=seed, callback_on_step_end=callback)[:, GIVEN:]
        for seed, callback in ((0, None), (0, still), (1, still))
    )
    assert np.abs(changed - plain).max() > 0.05
    carried = np.abs(changed - again).max()  # all that is left of the start is in the latents
    assert carried < np.abs(changed - plain).max()


@pytest.mark.parametrize("stop", [(0, 0), (0, 2), (1, 0), (1, 3), (2, 1)])
def test_an_interrupted_rollout_gives_the_frames_it_has(pipe: RINVideoPipeline, stop: tuple[int, int]) -> None:
    calls: list[int] = []

    def interrupt(owner: RINVideoPipeline, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append(step)
        owner._interrupt = (calls.count(0) - 1, step) == stop
        return tensors

    options = {"num_frames": GIVEN + 4 * NEW, "output_type": "pt"}
    whole = sample(pipe, context(), **options)
    frames = sample(pipe, context(), callback_on_step_end=interrupt, **options)
    window, step = stop
    assert pipe.interrupt
    assert len(calls) == window * STEPS + step + 1, "sampling ends with the step that is running"
    assert frames.shape[2] == GIVEN + (window + 1) * NEW
    finished = GIVEN + (window + (step == STEPS - 1)) * NEW
    assert torch.equal(frames[:, :, :finished], whole[:, :, :finished])
    assert frames.isfinite().all()
    assert torch.equal(sample(pipe, context(), **options), whole), "the next call runs to its end"
    assert not pipe.interrupt


# -- diffusers' own schedulers


@pytest.mark.parametrize("kind", STOCK)
def test_stock_schedulers_continue_a_clip(kind: str) -> None:
    pipe, given = pipeline(scheduler=stock(kind)), context()
    frames = sample(pipe, given, num_frames=GIVEN + 2 * NEW)
    assert frames.shape == (2, GIVEN + 2 * NEW, SIDE, SIDE, 3)
    np.testing.assert_allclose(frames[:, :GIVEN], given / 255, atol=1e-6)
    assert 0 <= frames.min() < frames.max() <= 1
    np.testing.assert_array_equal(sample(pipe, given, num_frames=GIVEN + 2 * NEW), frames)
    np.testing.assert_array_equal(sample(pipe, given), frames[:, :FRAMES])
    assert np.abs(sample(pipe, 255 - given)[:, GIVEN:] - frames[:, GIVEN:FRAMES]).max() > 0.01


def test_stock_ddim_is_ours(pipe: RINVideoPipeline) -> None:
    for options in ({}, {"num_frames": GIVEN + 2 * NEW, "carry_latents": True}):
        ours, theirs = (
            sample(p, context(), output_type="pt", **options) for p in (pipe, pipeline(scheduler=stock("DDIM")))
        )
        assert relative_error(theirs * 2 - 1, ours * 2 - 1) < 1e-4


@pytest.mark.parametrize("self_cond", ["latent", "latent+interface"])
@pytest.mark.parametrize("kind", STOCK)
def test_stock_schedulers_carry_latents_from_pass_to_pass(kind: str, self_cond: str) -> None:
    remembering = model(self_cond=self_cond)
    pipes = pipeline(remembering, stock(kind)), pipeline(rebuilt(Forgetful, remembering), stock(kind))
    after_one, after_two = (
        [sample(pipe, context(), steps=steps, output_type="pt") for pipe in pipes] for steps in (1, 2)
    )
    assert torch.equal(*after_one)
    assert float((after_two[0] - after_two[1]).abs().max()) > 1e-3
    passes = watched(pipes[0])
    sample(pipes[0], context())
    assert [given["latents"] is None for given in passes] == [True] + (len(passes) - 1) * [False]
    assert len(passes) == (2 * STEPS - 1 if kind == "HeunDiscrete" else STEPS)


@pytest.mark.parametrize("kind", STOCK)
def test_stock_schedulers_take_guidance_and_make_whole_clips(kind: str) -> None:
    pipe = pipeline(model(num_classes=4, context_frames=0), stock(kind))
    plain, strong = (sample(pipe, batch_size=2, class_labels=[1, 3], guidance_scale=w) for w in (0.0, 2.0))
    assert plain.shape == (2, FRAMES, SIDE, SIDE, 3)
    assert np.isfinite(strong).all()
    assert np.abs(strong - plain).reshape(2, -1).max(1).min() > 1e-3
    split = sample(pipe, batch_size=2, class_labels=[1, 3], guidance_scale=2.0, max_batch_size=1)
    # (On the mean: of the rounding of a pixel, Heun's long first step can make much.)
    assert np.abs(split - strong).mean() < 1e-4


def test_more_steps_than_a_stock_scheduler_has() -> None:
    pipe = pipeline(scheduler=stock("DDIM"))
    with pytest.raises(ValueError, match="num_inference_steps must be 1 to 1000 with DDIMScheduler, got 1001"):
        sample(pipe, context(), steps=1001)


# -- saved and loaded

LOAD_AND_SAMPLE = """
import sys
import numpy as np
import torch
import rinvid

torch.set_num_threads(1)
folder, given, out = sys.argv[1:]
pipe = rinvid.RINVideoPipeline.from_pretrained(folder)
assert type(pipe.model) is rinvid.RINModel and not pipe.model.training
random = torch.Generator().manual_seed(3)
frames = pipe(np.load(given), num_inference_steps=4, generator=random, output_type="pt").frames
np.save(out, frames.numpy())
"""


def test_saved_and_loaded_in_another_process(tmp_path: Path) -> None:
    network = model(
        interface_position="sin_cos_plus_learned",
        temporal_position=True,
        latent_position="sin_cos",
        context_mode="inline",
        context_embedding=True,
        mixer_kernel=3,
    )
    scheduler = GammaDDIMScheduler(
        {"type": "sigmoid", "tau": 0.7}, "v_prediction", input_scale=0.8, time_difference=0.5
    )
    pipe = pipeline(network, scheduler)
    pipe.save_pretrained(tmp_path / "saved")
    random = torch.Generator().manual_seed(3)
    frames = pipe(context(), num_inference_steps=4, generator=random, output_type="pt").frames
    np.save(tmp_path / "given.npy", context())
    command = [sys.executable, "-c", LOAD_AND_SAMPLE, tmp_path / "saved", tmp_path / "given.npy", tmp_path / "out.npy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), frames.numpy())
    kinds = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert kinds == {".json", ".md", ".safetensors"}


# -- errors

SHAPE = rf"uint8 \(B, {GIVEN}, {SIDE}, {SIDE}, 3\), or float \(B, 3, {GIVEN}, {SIDE}, {SIDE}\) in \[-1, 1\]"


@pytest.mark.parametrize(
    "shape",
    [
        (2, GIVEN + 1, SIDE, SIDE, 3),  # frames
        (2, GIVEN, SIDE, SIDE + 2, 3),  # size
        (2, GIVEN, SIDE, SIDE, 1),  # channels
        (2, 3, GIVEN, SIDE, SIDE),  # channels first, which only floats are
        (SIDE, SIDE, 3),  # one picture
    ],
)
def test_arrays_that_do_not_fit(pipe: RINVideoPipeline, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=SHAPE) as error:
        pipe(np.zeros(shape, np.uint8))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(2, 3, GIVEN - 1, SIDE, SIDE), (2, 4, GIVEN, SIDE, SIDE), (3, GIVEN, SIDE, SIDE)])
def test_tensors_that_do_not_fit(pipe: RINVideoPipeline, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=SHAPE) as error:
        pipe(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_too_many_pictures(pipe: RINVideoPipeline) -> None:
    with pytest.raises(ValueError, match=SHAPE):
        pipe([Image.new("RGB", (SIDE, SIDE))] * (GIVEN + 1))


@pytest.mark.parametrize("value", [1.5, -2.0, float("nan")])
def test_floats_out_of_range(pipe: RINVideoPipeline, value: float) -> None:
    given = torch.zeros(1, 3, GIVEN, SIDE, SIDE)
    given[0, 0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"float context must lie in \[-1, 1\]"):
        pipe(given)


def test_arrays_of_another_type(pipe: RINVideoPipeline) -> None:
    with pytest.raises(ValueError, match=r"must be uint8, got torch\.int64"):
        pipe(context().astype(np.int64))


def test_missing_context(pipe: RINVideoPipeline) -> None:
    with pytest.raises(ValueError, match=f"context is missing; this model needs {GIVEN} frames of .*{SHAPE}"):
        pipe()


def test_videos_that_cannot_be_read(pipe: RINVideoPipeline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        pipe(tmp_path / "nowhere.mp4")
    short = write_video(tmp_path / "short.mp4", numbered(GIVEN - 1, 32))
    with pytest.raises(VideoError, match=rf"short\.mp4: has {GIVEN - 1} frames"):
        pipe(short)


def test_unknown_output_type(pipe: RINVideoPipeline) -> None:
    with pytest.raises(ValueError, match="output_type 'gif'; known: pil, np, pt"):
        pipe(context(), output_type="gif")  # type: ignore[arg-type]


def test_a_model_of_images() -> None:
    images = small_model(num_frames=None, context_frames=0)
    with pytest.raises(ValueError, match="needs a model with num_frames"):
        RINVideoPipeline(images, GammaDDIMScheduler())
