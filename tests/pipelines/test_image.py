"""The image pipeline: labels, noise and guidance in, pictures out."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rinvid.models.rin import RINModel, RINOutput
from rinvid.pipelines.image import RINImagePipeline
from rinvid.schedulers.gamma import GammaDDIMScheduler, GammaDDPMScheduler
from rinvid.seeding import generator
from tests.helpers import Oracle, assert_close, randomised, small_model

SIDE, CLASSES, STEPS = 8, 4, 4
LABELS = [1, 3, 0]
DDIM = GammaDDIMScheduler(prediction_type="v_prediction")
# Other schedules begin with a trace of signal, out of which a few ancestral steps magnify rounding.
DDPM = GammaDDPMScheduler({"type": "log"}, "v_prediction")
SAMPLERS = pytest.mark.parametrize("scheduler", [DDIM, DDPM], ids=["ddim", "ddpm"])


def model(**changes: Any) -> RINModel:
    """A model of images whose every parameter matters."""
    images = {"sample_size": SIDE, "num_frames": None, "context_frames": 0, "num_classes": CLASSES}
    return randomised(small_model(**images | changes), std=0.05)


def pipeline(network: RINModel | None = None, scheduler: Any = DDIM) -> RINImagePipeline:
    pipe = RINImagePipeline(network or model(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> RINImagePipeline:
    """A pipeline with labels."""
    return pipeline()


@pytest.fixture(scope="module")
def unconditional() -> RINImagePipeline:
    """A pipeline without labels."""
    return pipeline(model(num_classes=None))


def sample(pipe: RINImagePipeline, labels: Any = LABELS, seed: int = 0, **options: Any) -> Any:
    """Images, as tensors (B, C, H, W) in [0, 1] unless asked for otherwise."""
    defaults: dict[str, Any] = {"num_inference_steps": STEPS, "generator": generator(seed), "output_type": "pt"}
    return pipe(labels, **defaults | options).images


def noise(batch: int, seed: int = 0) -> Tensor:
    """What a sampler starts from, given a generator of this seed."""
    return torch.randn(batch, 3, SIDE, SIDE, generator=generator(seed))


def each(count: int) -> list[torch.Generator]:
    """One generator an image."""
    return [generator(7, image) for image in range(count)]


def watched(pipe: RINImagePipeline) -> list[dict[str, Any]]:
    """The arguments of all passes of the network from now on."""
    passes: list[dict[str, Any]] = []
    pipe.model.register_forward_pre_hook(lambda _, args, kwargs: passes.append(kwargs), with_kwargs=True)
    return passes


def sizes(passes: list[dict[str, Any]]) -> list[int]:
    return [len(inputs["sample"]) for inputs in passes]


def differ(a: Tensor, b: Tensor) -> list[bool]:
    """Which images of two batches are visibly not the same."""
    return ((a - b).flatten(1).abs().amax(1) > 1e-3).tolist()


# -- labels


def test_labels_are_a_list_a_tensor_or_a_number(pipe: RINImagePipeline) -> None:
    images = sample(pipe)
    assert images.shape == (3, 3, SIDE, SIDE)
    assert torch.equal(sample(pipe, torch.tensor(LABELS)), images)
    assert torch.equal(sample(pipe, tuple(LABELS)), images)
    one = sample(pipe, 2)
    assert one.shape == (1, 3, SIDE, SIDE)
    assert torch.equal(sample(pipe, [2]), one)
    assert torch.equal(sample(pipe, torch.tensor(2)), one)


def test_each_image_follows_its_own_label(pipe: RINImagePipeline) -> None:
    assert differ(sample(pipe), sample(pipe, [1, 2, 0])) == [False, True, False]


def test_images_of_one_label_stand_together(pipe: RINImagePipeline) -> None:
    images = sample(pipe, [1, 3], num_images_per_label=2, generator=each(4))
    assert torch.equal(images, sample(pipe, [1, 1, 3, 3], generator=each(4)))
    assert differ(images[:2], images[2:]) == [True, True]
    assert all(differ(images[::2], images[1::2])), "images of one label are not copies"


def test_the_dropped_label_is_a_label(pipe: RINImagePipeline) -> None:
    assert differ(sample(pipe), sample(pipe, [1, -1, 0])) == [False, True, False]
    passes = watched(pipe)
    sample(pipe, [-1, 2], num_inference_steps=1)
    assert passes[0]["class_labels"].tolist() == [-1, 2]


def test_images_without_labels(unconditional: RINImagePipeline) -> None:
    images = sample(unconditional, None, batch_size=3)
    assert images.shape == (3, 3, SIDE, SIDE)
    assert all(differ(images, images.roll(1, 0)))
    assert torch.equal(sample(unconditional, None), sample(unconditional, None, batch_size=1))


# -- what it gives


def test_output_types(pipe: RINImagePipeline) -> None:
    tensor, array, pictures = (sample(pipe, output_type=kind) for kind in ("pt", "np", "pil"))
    assert (tensor.shape, tensor.dtype) == ((3, 3, SIDE, SIDE), torch.float32)
    assert 0 <= float(tensor.min()) < float(tensor.max()) <= 1
    assert (array.shape, array.dtype) == ((3, SIDE, SIDE, 3), np.float32)
    np.testing.assert_array_equal(tensor.movedim(1, -1).numpy(), array)
    assert [(picture.mode, picture.size) for picture in pictures] == [("RGB", (SIDE, SIDE))] * 3
    np.testing.assert_array_equal(np.stack([np.asarray(picture) for picture in pictures]), np.rint(array * 255))


def test_pictures_are_the_default(pipe: RINImagePipeline) -> None:
    images = pipe([1], num_inference_steps=1, generator=generator(0)).images
    assert [picture.size for picture in images] == [(SIDE, SIDE)]


def test_grey_pictures_that_are_not_square() -> None:
    pipe = pipeline(model(in_channels=1, sample_size=(8, 12)))
    pictures, array = (sample(pipe, output_type=kind) for kind in ("pil", "np"))
    assert array.shape == (3, 8, 12, 1)
    assert [(picture.mode, picture.size) for picture in pictures] == [("L", (12, 8))] * 3
    np.testing.assert_array_equal(np.asarray(pictures[1]), np.rint(array[1, :, :, 0] * 255))


class Knowing(RINModel):
    """A model that always predicts the one image that it knows."""

    oracle: Callable[[Tensor, Tensor], Tensor]

    def forward(self, sample: Tensor, gamma: Any, *inputs: Any, **carried: Any) -> RINOutput:
        output = super().forward(sample, gamma, *inputs, **carried)
        assert isinstance(output, RINOutput)
        return RINOutput(self.oracle(sample, gamma), output.latents, output.interface)


def knowing(pipe_options: dict[str, Any], kind: Any = GammaDDIMScheduler) -> tuple[RINImagePipeline, Tensor]:
    """A pipeline that samples one image, and that image in [0, 1]."""
    image = torch.rand(2, 3, SIDE, SIDE, generator=generator(5)) * 2 - 1
    known = model(num_classes=None)
    network = Knowing(**{key: value for key, value in known.config.items() if not key.startswith("_")})
    options = {"prediction_type": "v_prediction"} | pipe_options
    network.oracle = Oracle(image, options["prediction_type"], options.get("input_scale", 1.0))
    return pipeline(network, kind(**options)), image / 2 + 0.5


@pytest.mark.parametrize("kind", [GammaDDIMScheduler, GammaDDPMScheduler])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_input_scale_is_taken_out_of_the_images(kind: Any, scale: float) -> None:
    pipe, image = knowing({"input_scale": scale}, kind)
    assert_close(sample(pipe, None, batch_size=2, num_inference_steps=10), image, 1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_network_sees_unit_variance_if_it_was_trained_so(normalize: bool) -> None:
    options = {"prediction_type": "sample", "normalize_input": normalize, "input_scale": 0.3}
    pipe, image = knowing(options)
    passes = watched(pipe)
    assert_close(sample(pipe, None, batch_size=2), image, 1e-4)
    assert torch.equal(passes[0]["sample"], noise(2)) is not normalize
    spread = torch.stack([inputs["sample"].flatten(1).std(1, correction=0) for inputs in passes])  # (steps, images)
    assert bool((spread - 1).abs().max() < 1e-4) is normalize


def test_the_generator_decides_all_randomness() -> None:
    pipe = pipeline(scheduler=DDPM)
    images = sample(pipe)
    assert torch.equal(sample(pipe), images)
    assert all(differ(sample(pipe, seed=1), images))


# -- latents


def test_latents_are_carried_from_step_to_step() -> None:
    remembering, forgetting = pipeline(), pipeline()
    passes = watched(remembering)
    forgetting.model.register_forward_pre_hook(
        lambda _, args, kwargs: (args, kwargs | {"latents": None}), with_kwargs=True
    )
    after_one, after_four = (
        [sample(pipe, num_inference_steps=steps) for pipe in (remembering, forgetting)] for steps in (1, STEPS)
    )
    assert torch.equal(*after_one)  # nothing to remember yet
    assert all(differ(*after_four))
    assert [inputs["latents"] is None for inputs in passes[1:]] == [True, False, False, False]


def test_nothing_is_carried_from_call_to_call(pipe: RINImagePipeline) -> None:
    first = sample(pipe)
    sample(pipe, [2, 2, 2], seed=5)
    assert torch.equal(sample(pipe), first)


def test_both_branches_of_guidance_see_the_latents_of_the_one_with_labels() -> None:
    pipe = pipeline()
    passes, outputs = watched(pipe), []
    pipe.model.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    sample(pipe, guidance_scale=2.0)
    for before, after in zip(outputs, passes[1:], strict=False):
        assert torch.equal(after["latents"], before.latents[:3].repeat(2, 1, 1))
        assert not torch.equal(before.latents[:3], before.latents[3:])


# -- guidance


def by_hand(pipe: RINImagePipeline, labels: list[int], away: list[int], scale: float) -> Tensor:
    """Images in [0, 1] of a single guided step of a pipeline that predicts the sample itself, unclipped."""
    inputs = {"sample": noise(len(labels)), "gamma": pipe.scheduler.gamma(torch.ones(()))}
    with torch.no_grad():
        towards, from_ = (pipe.model(**inputs, class_labels=torch.tensor(which)).sample for which in (labels, away))
    assert all(differ(towards, from_))
    return (((1 + scale) * towards - scale * from_) / 2 + 0.5).clamp(0, 1)


@pytest.fixture(scope="module")
def plain() -> RINImagePipeline:
    """A pipeline whose single step is the network's own output."""
    return pipeline(scheduler=GammaDDIMScheduler(prediction_type="sample", clip_sample=False))


def test_no_guidance_is_one_pass_and_the_default() -> None:
    pipe = pipeline()
    passes = watched(pipe)
    assert torch.equal(sample(pipe, guidance_scale=0.0), sample(pipe))
    assert sizes(passes) == [3] * 2 * STEPS


def test_guidance_changes_the_images(pipe: RINImagePipeline) -> None:
    images = [sample(pipe, guidance_scale=scale) for scale in (0.0, 1.0, 3.0)]
    assert all(differ(images[0], images[1]))
    assert all(differ(images[1], images[2]))


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_one_guided_step_is_two_passes(plain: RINImagePipeline, scale: float) -> None:
    images = sample(plain, num_inference_steps=1, guidance_scale=scale)
    assert_close(images, by_hand(plain, LABELS, [-1, -1, -1], scale), 1e-5)


@pytest.mark.parametrize(("negative", "away"), [([2, 0, 3], [2, 0, 3]), (2, [2, 2, 2]), ([2], [2, 2, 2])])
def test_negative_labels_take_the_place_of_no_label(plain: RINImagePipeline, negative: Any, away: list[int]) -> None:
    images = sample(plain, num_inference_steps=1, guidance_scale=1.5, negative_labels=negative)
    assert_close(images, by_hand(plain, LABELS, away, 1.5), 1e-5)
    assert any(differ(images, by_hand(plain, LABELS, [-1, -1, -1], 1.5)))


def test_the_dropped_label_is_the_default_negative_label(pipe: RINImagePipeline) -> None:
    images = sample(pipe, guidance_scale=2.0)
    assert torch.equal(sample(pipe, guidance_scale=2.0, negative_labels=-1), images)


def test_guidance_towards_no_label_changes_nothing(pipe: RINImagePipeline) -> None:
    images = [sample(pipe, [1, -1, 0], guidance_scale=scale) for scale in (0.0, 2.0)]
    assert_close(images[0][1], images[1][1], 1e-4)
    assert differ(*images) == [True, False, True]


@SAMPLERS
@pytest.mark.parametrize(
    ("interval", "guided"),
    [
        ((0.0, 1.0), [True, True, True, True]),  # times 1, 0.75, 0.5, 0.25
        ((0.5, 0.75), [False, True, True, False]),
        ((0.6, 1.0), [True, True, False, False]),
        ((0.0, 0.1), [False, False, False, False]),
    ],
)
def test_guidance_acts_inside_its_interval(scheduler: Any, interval: tuple[float, float], guided: list[bool]) -> None:
    pipe = pipeline(scheduler=scheduler)
    unguided = sample(pipe)
    passes = watched(pipe)
    images = sample(pipe, guidance_scale=3.0, guidance_interval=interval)
    assert sizes(passes) == [6 if now else 3 for now in guided]
    assert torch.equal(images, unguided) is not any(guided)


# -- an image does not depend on the others


@SAMPLERS
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_an_image_does_not_depend_on_its_batch(scheduler: Any, scale: float) -> None:
    pipe = pipeline(scheduler=scheduler)
    negative = [2, 0, 3]
    together = sample(pipe, generator=each(3), guidance_scale=scale, negative_labels=negative)
    for image, label in enumerate(LABELS):
        own: dict[str, Any] = {"generator": [each(3)[image]], "negative_labels": negative[image]}
        alone = sample(pipe, label, guidance_scale=scale, **own)
        assert_close(alone[0], together[image], 1e-5)
    assert all(differ(together, together.roll(1, 0)))


def test_as_many_generators_as_images(pipe: RINImagePipeline) -> None:
    for options, count in (({}, 3), ({"num_images_per_label": 2}, 6)):
        with pytest.raises(ValueError, match=f"generator is a list of 2 for {count} samples"):
            sample(pipe, generator=each(2), **options)


@SAMPLERS
@pytest.mark.parametrize("scale", [0.0, 2.0])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_the_network_takes_no_more_images_than_it_may(scheduler: Any, scale: float, most: int) -> None:
    pipe = pipeline(scheduler=scheduler)
    images = sample(pipe, guidance_scale=scale)
    passes = watched(pipe)
    assert_close(sample(pipe, guidance_scale=scale, max_batch_size=most), images, 1e-5)
    batch = 6 if scale else 3
    assert len(passes) == STEPS * math.ceil(batch / most)
    assert sum(sizes(passes)) == STEPS * batch
    assert max(sizes(passes)) == min(most, batch)


# -- while it samples


def test_a_callback_is_called_after_each_step(pipe: RINImagePipeline) -> None:
    seen: list[tuple[Any, int, float, Tensor]] = []

    def callback(pipeline: Any, step: int, timestep: Tensor, inputs: dict[str, Any]) -> None:
        seen.append((pipeline, step, float(timestep), inputs["sample"]))

    images = sample(pipe)
    assert torch.equal(sample(pipe, callback_on_step_end=callback), images), "one that looks changes nothing"
    assert all(pipeline is pipe for pipeline, *_ in seen)
    assert [(step, time) for _, step, time, _ in seen] == [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25)]
    assert all(x.shape == (3, 3, SIDE, SIDE) and x.dtype == torch.float32 for *_, x in seen)
    assert_close(seen[-1][3] / 2 + 0.5, images, 1e-2)  # by then hardly any noise is left


def test_a_callback_may_replace_the_sample() -> None:
    pipe = pipeline()
    images = sample(pipe)
    passes, given = watched(pipe), noise(3, seed=8)

    def callback(pipeline: Any, step: int, timestep: Tensor, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"sample": given} if step == 1 else {}

    assert all(differ(sample(pipe, callback_on_step_end=callback), images))
    assert [torch.equal(inputs["sample"], given) for inputs in passes] == [False, False, True, False]


def test_a_callback_may_end_sampling() -> None:
    pipe = pipeline()
    images = sample(pipe)
    passes = watched(pipe)

    def callback(pipeline: Any, step: int, timestep: Tensor, inputs: dict[str, Any]) -> None:
        pipeline._interrupt = step == 1

    ended = sample(pipe, callback_on_step_end=callback)
    assert len(passes) == 2
    assert pipe.interrupt
    assert ended.shape == images.shape
    assert 0 <= float(ended.min()) < float(ended.max()) <= 1
    assert torch.equal(sample(pipe), images), "the next call runs to its end"


def test_the_progress_bar_counts_steps() -> None:
    pipe, shown = pipeline(), io.StringIO()
    sample(pipe)
    pipe.set_progress_bar_config(file=shown)
    sample(pipe, num_inference_steps=3, guidance_scale=1.0, max_batch_size=1)
    assert "| 3/3 [" in shown.getvalue()


# -- other ways to run the network


def test_a_compiled_model_gives_the_same_images() -> None:
    pipe, compiled = pipeline(model(num_layers=[1])), []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    images = sample(pipe, num_inference_steps=2, guidance_scale=1.0)
    torch.compiler.reset()
    pipe.model = torch.compile(pipe.model, backend=backend)
    assert_close(sample(pipe, num_inference_steps=2, guidance_scale=1.0), images, 1e-5)
    assert compiled


def test_gradient_checkpointing_does_not_disturb_sampling() -> None:
    pipe = pipeline()
    images = sample(pipe)
    pipe.model.enable_gradient_checkpointing()
    assert pipe.model.is_gradient_checkpointing
    assert torch.equal(sample(pipe), images)
    pipe.model.train()
    assert torch.equal(sample(pipe), images)


def test_half_precision() -> None:
    pipe = pipeline()
    images = sample(pipe)
    pipe.to(torch.bfloat16)
    passes, between = watched(pipe), []

    def callback(pipeline: Any, step: int, timestep: Tensor, inputs: dict[str, Any]) -> None:
        between.append(inputs["sample"].dtype)

    half = sample(pipe, callback_on_step_end=callback)
    assert {inputs["sample"].dtype for inputs in passes} == {torch.bfloat16}
    assert {*between, half.dtype} == {torch.float32}, "only the network computes in half precision"
    assert 0 < float((half - images).abs().mean()) < 0.02
    assert len(sample(pipe, output_type="pil", guidance_scale=1.0)) == 3


# -- errors


@pytest.mark.parametrize("labels", [[0, CLASSES], [-2], [0.0, 1.0], [True]])
def test_labels_that_are_not_classes(pipe: RINImagePipeline, labels: list[Any]) -> None:
    message = r"class_labels must be whole numbers in \[0, 3\], or -1 for none, got"
    with pytest.raises(ValueError, match=message):
        sample(pipe, labels)
    with pytest.raises(ValueError, match=message):
        sample(pipe, [1] * len(labels), guidance_scale=1.0, negative_labels=labels)


def test_negative_labels_of_another_number(pipe: RINImagePipeline) -> None:
    with pytest.raises(ValueError, match="there are 2 labels for 3 samples"):
        sample(pipe, guidance_scale=1.0, negative_labels=[1, 2])


def test_labels_and_models_that_do_not_fit(pipe: RINImagePipeline, unconditional: RINImagePipeline) -> None:
    with pytest.raises(ValueError, match=r"class_labels is missing: whole numbers in \[0, 3\], or -1"):
        sample(pipe, None)
    with pytest.raises(ValueError, match="class_labels were given, but this model has no classes"):
        sample(unconditional, [1])
    with pytest.raises(ValueError, match=r"guidance_scale=1\.5: a model without classes"):
        sample(unconditional, None, guidance_scale=1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_type": "gif"}, "output_type 'gif'; known: pil, np, pt"),
        ({"num_inference_steps": 0}, "num_inference_steps must be .*at least 1, got 0"),
        ({"num_images_per_label": 0}, "num_images_per_label and batch_size must be at least 1"),
        ({"max_batch_size": 0}, "max_batch_size must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range(pipe: RINImagePipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(pipe, **options)


def test_no_images(unconditional: RINImagePipeline) -> None:
    with pytest.raises(ValueError, match="num_images_per_label and batch_size must be at least 1"):
        sample(unconditional, None, batch_size=0)


def test_a_model_of_videos() -> None:
    with pytest.raises(ValueError, match="needs a model without num_frames; this one makes videos"):
        RINImagePipeline(small_model(), DDIM)


@SAMPLERS
def test_weights_that_are_not_numbers_stop_at_the_first_step(scheduler: Any) -> None:
    network = model()
    with torch.no_grad():
        network.output_norm.weight[0] = torch.nan
    pipe = pipeline(network, scheduler)
    passes = watched(pipe)
    with pytest.raises(ValueError, match="output is not finite at the first step"):
        sample(pipe)
    assert len(passes) == 1
