"""The authors' arrays as a RINModel: names and layouts in every shape, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rinvid.convert import from_reference
from rinvid.models.rin import RINModel
from tests.helpers import (
    NETWORKS,
    PARITY,
    assert_close,
    channels_first,
    model_inputs,
    parity,
    randomised,
    reference_model,
    small_model,
)
from tests.reference import meta_of, reference_arrays, reference_meta, weights_of, written_out

WITH_WEIGHTS = sorted(path.stem for kind in ("image", "video", "diffusion") for path in PARITY.glob(f"{kind}_*.npz"))

IMAGE: dict[str, Any] = {"num_frames": None, "context_frames": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "pixels, 17 classes": {
        **IMAGE,
        "sample_size": 4,
        "num_classes": 17,
        "tokenizer": {"type": "patch2d", "patch_size": 1},
    },
    "3x3 patches, 100 classes, all on the interface": {
        **IMAGE,
        "sample_size": 12,
        "num_classes": 100,
        "tokenizer": {"type": "patch2d", "patch_size": 3},
        "time_on_latent": False,
        "cond_on_latent": False,
    },
    "8x8 patches, both positions": {
        **IMAGE,
        "sample_size": 16,
        "tokenizer": {"type": "patch2d", "patch_size": 8},
        "latent_position": "sin_cos_plus_learned",
        "interface_position": "sin_cos_plus_learned",
    },
    "grey rectangle, label alone on the interface": {
        **IMAGE,
        "sample_size": [8, 12],
        "in_channels": 1,
        "num_classes": 5,
        "cond_on_latent": False,
        "tokenizer": {"type": "patch2d", "patch_size": 4},
    },
    "interface wider than latents": {
        **IMAGE,
        "num_classes": 3,
        "latent_dim": 16,
        "interface_dim": 40,
        "latent_num_heads": 2,
        "rw_num_heads": 8,
        "self_cond": "latent+interface",
        "tokenizer": {"type": "patch2d", "patch_size": 4},
    },
    "normalised keys, uneven depths": {
        **IMAGE,
        "num_layers": [3, 0, 1],
        "xattn_enc_ln": True,
        "latent_mlp_ratio": 3,
        "interface_mlp_ratio": 1,
        "time_scaling": 50.0,
        "tokenizer": {"type": "patch2d", "patch_size": 2},
    },
    "3 given, 6 predicted, patches of 4 frames": {
        "num_frames": 9,
        "tokenizer": {"type": "patch3d", "patch_size": [4, 4, 4]},
        "time_on_latent": False,
    },
    "4 given, 8 predicted, patches of 3 frames": {
        "num_frames": 12,
        "context_frames": 4,
        "sample_size": 6,
        "tokenizer": {"type": "patch3d", "patch_size": [3, 2, 2]},
        "interface_position": "sin_cos",
        "latent_position": "sin_cos",
    },
    "video without context or memory": {
        "context_frames": 0,
        "sample_size": 9,
        "tokenizer": {"type": "patch3d", "patch_size": [1, 3, 3]},
        "self_cond": "none",
        "num_layers": [1, 2, 1],
    },
    "video that carries both": {
        "self_cond": "latent+interface",
        "interface_position": "sin_cos_plus_learned",
        "tokenizer": {"type": "patch3d", "patch_size": [2, 4, 4]},
    },
}
# The options with a diffusion have one side only, so they cannot say a rectangle.
WAYS = [(variant, way) for variant in VARIANTS for way in (False, True) if not (way and "rectangle" in variant)]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_as_written_out_here_is_the_references(name: str) -> None:
    arrays, meta = parity(name)
    found = written_out(
        weights_of(name),
        meta["config"],
        arrays["x"],
        arrays["gamma"],
        arrays.get("cond"),
        arrays.get("cond_frames"),
        arrays["latent_prev"],
        arrays.get("tape_prev"),
    )
    for value, part in zip(found, ("out", "latent", "tape"), strict=True):
        assert_close(value, arrays[f"warm_{part}"], 1e-4)


# -- from_reference


def test_every_reference_file_is_looked_at() -> None:
    assert len(WITH_WEIGHTS) == 12
    assert set(NETWORKS) < set(WITH_WEIGHTS)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_every_number_of_a_reference_file_is_taken_over(name: str) -> None:
    model = reference_model(name)
    assert not model.training
    ours = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    theirs = torch.cat([array.flatten() for array in weights_of(name).values()])
    assert torch.equal(ours.sort().values, theirs.sort().values)
    with torch.no_grad():
        output = model(**model_inputs(model)).sample
    assert output.isfinite().all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("image_class_tape", {"num_classes": 10, "cond_on_latent": False, "time_on_latent": False, "num_frames": None}),
        ("image_selfcond_both", {"self_cond": "latent+interface", "num_layers": [2, 2], "interface_dim": 24}),
        ("image_uncond_sincos", {"num_classes": None, "interface_position": "sin_cos", "latent_position": "sin_cos"}),
        ("image_encln", {"xattn_enc_ln": True, "interface_position": "sin_cos_plus_learned", "sample_size": 16}),
        ("video_4to4", {"num_frames": 8, "context_frames": 4, "num_classes": None, "time_on_latent": True}),
        ("diffusion_image_v", {"num_classes": 10, "cond_on_latent": True, "num_latents": 10, "rw_num_heads": 2}),
        (
            "diffusion_video_5to11",
            {"num_frames": 16, "context_frames": 5, "tokenizer": {"type": "patch3d", "patch_size": [2, 4, 4]}},
        ),
    ],
)
def test_the_options_become_the_configuration(name: str, expected: dict[str, Any]) -> None:
    config = reference_model(name).config
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(("variant", "of_diffusion"), WAYS)
def test_networks_of_other_shapes_come_back(variant: str, of_diffusion: bool) -> None:
    model = randomised(small_model(**VARIANTS[variant]), std=0.1)
    arrays, meta = reference_arrays(model), reference_meta(model, of_diffusion)
    converted = from_reference(arrays, meta)
    c = model.config
    unlike = {key for key in c if key[0] != "_" and converted.config[key] != c[key]}
    assert unlike <= {"cond_on_latent"}  # which means nothing without labels
    inputs: dict[str, Any] = model_inputs(model)
    with torch.no_grad():
        first = model(**inputs)
        inputs |= {"latents": first.latents, "interface": first.interface}
        expected, found = model(**inputs, return_dict=False), converted(**inputs, return_dict=False)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    labels, context = inputs.get("class_labels"), inputs.get("context")
    out, latents, tape = written_out(
        arrays,
        meta["model" if of_diffusion else "config"],
        inputs["sample"].movedim(1, -1),
        inputs["gamma"],
        None if labels is None else F.one_hot(labels, c.num_classes).float(),
        None if context is None else context.movedim(1, -1),
        first.latents,
        first.interface,
    )
    for theirs, ours in zip((channels_first(out), latents, tape), found, strict=True):
        assert_close(theirs, ours, 1e-4)


@pytest.mark.parametrize(
    ("sample_size", "tokenizer", "frames"),
    [
        (4, {"type": "patch2d", "patch_size": 1}, None),
        (6, {"type": "patch2d", "patch_size": 3}, None),
        (16, {"type": "patch2d", "patch_size": 8}, None),
        (8, {"type": "patch3d", "patch_size": [4, 2, 2]}, 6),
        (6, {"type": "patch3d", "patch_size": [3, 3, 3]}, 8),
    ],
)
def test_the_stem_is_a_convolution_with_the_reference_kernel(
    sample_size: int, tokenizer: dict[str, Any], frames: int | None
) -> None:
    changes = {"num_frames": frames, "context_frames": 0, "sample_size": sample_size, "tokenizer": tokenizer}
    shape = small_model(**changes)
    generator = torch.Generator().manual_seed(3)
    arrays = {name: torch.randn(a.shape, generator=generator) for name, a in reference_arrays(shape).items()}
    model = from_reference(arrays, reference_meta(shape))
    kernel, bias = arrays["stem/kernel"], arrays["stem/bias"]  # ([frames,] height, width, in, out)
    sample = model_inputs(model)["sample"]
    if frames is None:
        expected = F.conv2d(sample, kernel.permute(3, 2, 0, 1), bias, stride=kernel.shape[:2])
    else:
        whole = F.pad(sample, (0, 0, 0, 0, 0, -frames % kernel.shape[0]))
        expected = F.conv3d(whole, kernel.permute(4, 3, 0, 1, 2), bias, stride=kernel.shape[:3])
    with torch.no_grad():
        assert_close(model.codec.encode(sample), expected.flatten(2).transpose(1, 2), 1e-4)


@pytest.mark.parametrize(
    "convert", [Tensor.numpy, lambda a: a, lambda a: a.double().numpy(), lambda a: np.asfortranarray(a.numpy())]
)
def test_arrays_may_be_of_numpy_or_torch(convert: Any) -> None:
    expected = reference_model("image_encln").state_dict()
    model = from_reference({n: convert(a) for n, a in weights_of("image_encln").items()}, meta_of("image_encln"))
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name]), name


def test_a_converted_network_is_saved_like_any_other(tmp_path: Path) -> None:
    model = reference_model("video_5to11")
    model.save_pretrained(tmp_path)
    loaded = RINModel.from_pretrained(tmp_path)
    inputs = model_inputs(model)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).sample, model(**inputs).sample)


def test_dropout_and_stochastic_depth_are_taken_over() -> None:
    meta = meta_of("image_class_latent")
    meta["config"] |= {"drop_units": 0.1, "drop_path": 0.2}
    config = from_reference(weights_of("image_class_latent"), meta).config
    assert (config.dropout, config.drop_path) == (0.1, 0.2)


@pytest.mark.parametrize("name", ["video_4to4", "diffusion_video_5to11"])
def test_a_video_must_say_how_many_frames_are_given(name: str) -> None:
    meta = meta_of(name)
    options = meta.get("config", meta.get("model"))
    options.pop("seq_cond", None)
    options.pop("conditional", None)
    with pytest.raises(ValueError, match="meta lacks the reference's option 'seq_cond'"):
        from_reference(weights_of(name), meta)


def test_layers_may_be_listed_as_numbers() -> None:
    meta = meta_of("image_class_latent")
    meta["config"]["num_layers"] = [2, 2]
    assert from_reference(weights_of("image_class_latent"), meta).config.num_layers == [2, 2]


# -- what from_reference refuses


def test_an_array_without_a_place_is_named() -> None:
    arrays = weights_of("image_class_latent") | {"output_linear_1/kernel": torch.zeros(24, 48)}
    with pytest.raises(ValueError, match="1 arrays of the reference fit nowhere in this network: output_linear_1/ker"):
        from_reference(arrays, meta_of("image_class_latent"))


@pytest.mark.parametrize(
    ("left_out", "named"),
    [
        ("output_ln/beta", r"output_norm\.bias"),
        ("stem/kernel", r"codec\.stem\.weight"),
        ("latent_processing_unit1/transformer_encoder_1/mha/key/bias", r"blocks\.1\.compute\.1\.attention\.key\.bias"),
    ],
)
def test_a_missing_array_is_named(left_out: str, named: str) -> None:
    arrays = weights_of("image_class_latent")
    del arrays[left_out]
    with pytest.raises(ValueError, match=f"no array for 1 parameters: {named}"):
        from_reference(arrays, meta_of("image_class_latent"))


@pytest.mark.parametrize(
    ("name", "shape", "needed"),
    [
        ("output_linear/kernel", (48, 24), (48, 24)),
        ("stem/kernel", (2, 2, 3, 24), "(4, 4, any, any)"),
        ("stem/kernel", (4, 4, 1, 24), (24, 48)),
        ("latent_pos_emb/kernel/vis_pos_embedding", (9, 32), (8, 32)),
        ("read_unit_0/transformer_decoder_layer/cross_mha/query/kernel", (24, 2, 12), (24, 32)),
        ("read_unit_0/transformer_decoder_layer/cross_mha/query/bias", (12, 2), "(2, any)"),
        ("cond_proj/kernel", (17, 32), (32, 10)),
        ("stem_ln/gamma", (48,), (24,)),
    ],
)
def test_an_array_of_the_wrong_shape_is_named(name: str, shape: tuple[int, ...], needed: object) -> None:
    arrays = weights_of("image_class_latent") | {name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=f"array '{name}' has shape ") as error:
        from_reference(arrays, meta_of("image_class_latent"))
    assert str(shape) in str(error.value)
    assert str(error.value).endswith(f"needs {needed}")


@pytest.mark.parametrize("option", ["latent_num_heads", "rw_num_heads"])
def test_another_number_of_heads_than_the_arrays_have_is_refused(option: str) -> None:
    meta = meta_of("image_class_latent")
    meta["config"][option] *= 2
    with pytest.raises(ValueError, match="query/kernel' has shape"):
        from_reference(weights_of("image_class_latent"), meta)


def test_two_arrays_for_one_place_are_both_named() -> None:
    arrays = weights_of("image_class_latent")
    arrays["latent_pos_emb_res/kernel"] = arrays["latent_pos_emb/kernel/vis_pos_embedding"]
    with pytest.raises(ValueError, match=r"vis_pos_embedding' and 'latent_pos_emb_res/kernel' .*'latent_rows\.weight'"):
        from_reference(arrays, meta_of("image_class_latent"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("conv_kernel_size", 3),
        ("cond_tape_writable", True),
        ("cond_dim", 16),
        ("cond_proj", False),
        ("cond_decoupled_read", True),
        ("drop_att", 0.1),
    ],
)
def test_an_option_without_a_counterpart_is_named(option: str, value: Any) -> None:
    meta = meta_of("diffusion_image_eps")
    meta["model"][option] = value
    with pytest.raises(ValueError, match=f"option {option}={value} has no counterpart; it must be "):
        from_reference(weights_of("diffusion_image_eps"), meta)


@pytest.mark.parametrize(
    "option",
    [
        "num_layers",
        "latent_slots",
        "latent_dim",
        "tape_dim",
        "latent_num_heads",
        "rw_num_heads",
        "latent_mlp_ratio",
        "tape_mlp_ratio",
        "self_cond",
        "time_scaling",
        "latent_pos_encoding",
        "tape_pos_encoding",
        "patch_size",
        "seq_stride",
        "seq_len",
        "image_size",
    ],
)
def test_a_missing_option_is_named(option: str) -> None:
    meta = meta_of("diffusion_video_5to11")
    meta.pop(option, None)
    meta["model"].pop(option, None)
    with pytest.raises(ValueError, match=f"lacks the reference's option '{option}'"):
        from_reference(weights_of("diffusion_video_5to11"), meta)


def test_a_missing_number_of_classes_is_named() -> None:
    meta = meta_of("image_class_latent")
    del meta["num_classes"]
    with pytest.raises(ValueError, match="lacks the reference's option 'num_classes'"):
        from_reference(weights_of("image_class_latent"), meta)


@pytest.mark.parametrize("change", [{"kind": None}, {"kind": "audio"}, {"config": None}, {"config": "2,2"}], ids=str)
def test_options_of_nothing_known_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"meta needs 'kind' \(image or video\) and .*'config' or 'model'"):
        from_reference(weights_of("image_class_latent"), meta_of("image_class_latent") | change)
