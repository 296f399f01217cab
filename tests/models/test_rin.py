"""The network: the reference's outputs, every option, what it refuses, saving and loading."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rinvid
from rinvid.conditioning import LatentCarry
from rinvid.models.layers import ComputeLayer, Recall
from rinvid.models.rin import RINModel, RINOutput
from tests.helpers import (
    NETWORKS,
    PARITY,
    assert_close,
    channels_first,
    model_inputs,
    parity,
    randomised,
    reference_model,
    relative_error,
    small_model,
)

IMAGE: dict[str, Any] = {"num_frames": None, "context_frames": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "append": {},
    "inline": {"context_mode": "inline"},
    "concat": {"context_mode": "concat"},
    "even frames": {"num_frames": 8, "context_frames": 4},
    "odd frames given and predicted": {"num_frames": 8, "context_frames": 3},
    "one context frame": {"context_frames": 1, "context_mode": "inline"},
    "one predicted frame": {"context_frames": 6},
    "no context": {"context_frames": 0},
    "no context, inline": {"context_frames": 0, "context_mode": "inline"},
    "video with labels": {"num_classes": 4},
    "video with labels, no context": {"num_classes": 4, "context_frames": 0},
    "video with labels on the interface": {"num_classes": 4, "cond_on_latent": False, "context_mode": "inline"},
    "context embedding": {"context_embedding": True},
    "context embedding, inline": {"context_embedding": True, "context_mode": "inline"},
    "small patches": {"tokenizer": {"type": "patch3d", "patch_size": [1, 2, 4]}},
    "patches of one pixel": {"sample_size": [2, 3], "tokenizer": {"type": "patch3d", "patch_size": [1, 1, 1]}},
    "patches as large as a frame": {"tokenizer": {"type": "patch3d", "patch_size": [4, 8, 8]}},
    "long patches": {"tokenizer": {"type": "patch3d", "patch_size": [3, 4, 4]}, "context_mode": "inline"},
    "rectangle": {"sample_size": [8, 12]},
    "image": IMAGE,
    "image with labels": {**IMAGE, "num_classes": 4},
    "labels and noise level on the interface": {
        **IMAGE,
        "num_classes": 4,
        "cond_on_latent": False,
        "time_on_latent": False,
    },
    "grey image, 2x2 patches": {**IMAGE, "in_channels": 1, "tokenizer": {"type": "patch2d", "patch_size": 2}},
    "image of one-pixel patches": {**IMAGE, "sample_size": [2, 3], "tokenizer": {"type": "patch2d", "patch_size": 1}},
    "no self-conditioning": {"self_cond": "none"},
    "self-conditioning on both": {"self_cond": "latent+interface"},
    "fixed positions": {"latent_position": "sin_cos", "interface_position": "sin_cos"},
    "both positions": {"latent_position": "sin_cos_plus_learned", "interface_position": "sin_cos_plus_learned"},
    "temporal position": {"interface_position": "sin_cos", "temporal_position": True},
    "mixer": {"mixer_kernel": 3},
    "mixer, inline": {"mixer_kernel": 3, "context_mode": "inline"},
    "mixer, image": {**IMAGE, "mixer_kernel": 5},
    "noise level by token": {"token_noise_level": True},
    "noise level by token, inline": {"token_noise_level": True, "context_mode": "inline"},
    "noise level by token, concat": {"token_noise_level": True, "context_mode": "concat"},
    "noise level by token, image": {**IMAGE, "token_noise_level": True},
    "normalised keys": {"xattn_enc_ln": True},
    "a block that only reads": {"num_layers": [1, 0, 2]},
    "latents narrower than interface": {"latent_dim": 16, "interface_dim": 32},
}
CONTEXT_MODES = ["append", "inline", "concat"]


def carried(model: RINModel, batch: int = 2) -> dict[str, Tensor]:
    """Random state of a pass before, in the shapes the model takes."""
    generator = torch.Generator().manual_seed(7)
    state = {}
    if model.config.self_cond != "none":
        state["latents"] = torch.randn(batch, model.config.num_latents, model.config.latent_dim, generator=generator)
    if model.config.self_cond == "latent+interface":
        tokens = model.grid[0] * model.grid[1] * model.grid[2]
        state["interface"] = torch.randn(batch, tokens, model.config.interface_dim, generator=generator)
    return state


def run(model: RINModel, inputs: dict[str, Tensor], **changes: Any) -> Tensor:
    with torch.no_grad():
        return model(**inputs | changes).sample


# -- the reference


def test_every_recorded_network_is_checked() -> None:
    recorded = [path.stem for kind in ("image", "video") for path in PARITY.glob(f"{kind}_*.npz")]
    assert sorted(recorded) == NETWORKS


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", NETWORKS)
def test_reference_outputs(name: str, warm: bool) -> None:
    arrays, _ = parity(name)
    inputs = {"sample": channels_first(arrays["x"]), "gamma": arrays["gamma"]}
    if "cond_frames" in arrays:
        inputs["context"] = channels_first(arrays["cond_frames"])
    if "cond" in arrays:  # one-hot, where all zeros is the dropped label
        one_hot = arrays["cond"]
        inputs["class_labels"] = torch.where(one_hot.any(1), one_hot.argmax(1), -1)
    if warm:
        inputs["latents"] = arrays["latent_prev"]
        if "tape_prev" in arrays:
            inputs["interface"] = arrays["tape_prev"]
    with torch.no_grad():
        output = reference_model(name)(**inputs)
    kind = "warm" if warm else "cold"
    assert_close(output.sample, channels_first(arrays[f"{kind}_out"]), 1e-4)
    assert_close(output.latents, arrays[f"{kind}_latent"], 1e-4)
    assert_close(output.interface, arrays[f"{kind}_tape"], 1e-4)


def test_the_kinetics_model_has_the_published_size() -> None:
    with torch.device("meta"):
        model = rinvid.RINModel(num_frames=16, context_frames=5)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(395e6, abs=1e6)
    assert model.grid == (9, 16, 16)


# -- shapes and gradients of every variant


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes(variant: str) -> None:
    model = small_model(**VARIANTS[variant]).eval()
    inputs = model_inputs(model)
    with torch.no_grad():
        output = model(**inputs, **carried(model))
        as_tuple = model(**inputs, **carried(model), return_dict=False)
    assert isinstance(output, RINOutput)
    assert output.sample.shape == inputs["sample"].shape
    assert output.latents.shape == (2, model.config.num_latents, model.config.latent_dim)
    t, h, w = model.grid
    assert output.interface.shape == (2, t * h * w, model.config.interface_dim)
    assert isinstance(as_tuple, tuple)
    assert all(
        torch.equal(a, b) for a, b in zip(as_tuple, (output.sample, output.latents, output.interface), strict=True)
    )


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"num_frames": 16, "context_frames": 5}, 6 + 3),
        ({}, 2 + 2),
        ({"context_mode": "inline"}, 4),
        ({"context_mode": "concat"}, 2),
        ({"context_frames": 0}, 4),
        ({"num_frames": 8}, 3 + 2),
        ({"num_frames": 8, "context_mode": "inline"}, 4),
        ({"num_frames": 1, "context_frames": 0}, 1),
        (IMAGE, 1),
    ],
)
def test_steps_of_the_token_grid(changes: dict[str, Any], steps: int) -> None:
    assert small_model(**changes).grid == (steps, 2, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter(variant: str) -> None:
    model = randomised(small_model(**VARIANTS[variant]))
    output = model(**model_inputs(model), **carried(model)).sample
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    # A bias of keys adds the same number to all logits of a query, so its gradient is zero in exact arithmetic.
    silent = [
        name
        for name, parameter in model.named_parameters()
        if not name.endswith("key.bias") and (parameter.grad is None or parameter.grad.abs().max() < 1e-6)
    ]
    assert silent == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_of_a_batch_do_not_meet(variant: str) -> None:
    model = randomised(small_model(**VARIANTS[variant]))
    inputs = {**model_inputs(model), **carried(model)}
    both = run(model, inputs)
    for i in range(2):
        assert_close(run(model, {name: value[i : i + 1] for name, value in inputs.items()}), both[i : i + 1], 1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pass_changes_nothing_in_the_model(variant: str) -> None:
    model = randomised(small_model(**VARIANTS[variant]))
    inputs = model_inputs(model)
    before = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    first = run(model, inputs)
    assert torch.equal(run(model, inputs), first)
    assert all(torch.equal(v, before[n]) for n, v in [*model.named_parameters(), *model.named_buffers()])


# -- what the output depends on


def test_a_scalar_noise_level_serves_the_whole_batch() -> None:
    model = randomised(small_model())
    inputs = model_inputs(model)
    one = run(model, inputs, gamma=torch.tensor(0.3))
    assert torch.equal(one, run(model, inputs, gamma=torch.tensor([0.3, 0.3])))
    assert torch.equal(one, run(model, inputs, gamma=0.3))
    assert (one - run(model, inputs, gamma=torch.tensor(0.4))).abs().max() > 1e-3


@pytest.mark.parametrize("on_latent", [True, False])
def test_the_noise_level_is_heard_in_both_places(on_latent: bool) -> None:
    model = randomised(small_model(time_on_latent=on_latent))
    inputs = model_inputs(model)
    assert (run(model, inputs) - run(model, inputs, gamma=1 - inputs["gamma"])).abs().max() > 1e-3


@pytest.mark.parametrize("mode", CONTEXT_MODES)
@pytest.mark.parametrize("frame", [0, 1, 2])
def test_every_context_frame_matters(mode: str, frame: int) -> None:
    model = randomised(small_model(context_mode=mode))
    inputs = model_inputs(model)
    context = inputs["context"].clone()
    context[:, :, frame] = -context[:, :, frame]
    moved = (run(model, inputs) - run(model, inputs, context=context)).abs().amax(dim=(0, 1, 3, 4))
    assert (moved > 1e-4).all(), "each predicted frame hears of each context frame"


@pytest.mark.parametrize("mode", CONTEXT_MODES)
def test_context_frames_have_an_order(mode: str) -> None:
    model = randomised(small_model(context_mode=mode))
    inputs = model_inputs(model)
    assert (run(model, inputs) - run(model, inputs, context=inputs["context"].flip(2))).abs().max() > 1e-3


@pytest.mark.parametrize("mode", CONTEXT_MODES)
@pytest.mark.parametrize("frame", [0, 1, 3])
def test_a_frame_is_read_out_where_it_stood(mode: str, frame: int) -> None:
    # Without writes, a token holds nothing but its own patch.
    tokenizer = {"type": "patch3d", "patch_size": [1, 4, 4]}
    model = randomised(small_model(context_mode=mode, num_layers=[0], tokenizer=tokenizer))
    inputs = model_inputs(model)
    sample = inputs["sample"].clone()
    sample[:, :, frame] += 1
    moved = (run(model, inputs) - run(model, inputs, sample=sample)).abs().amax(dim=(0, 1, 3, 4))
    assert [k for k in range(4) if moved[k] > 0] == [frame]


def test_context_modes_are_different_networks() -> None:
    outputs = []
    for mode in CONTEXT_MODES:
        model = randomised(small_model(num_frames=8, context_frames=4, context_mode=mode))
        outputs.append(run(model, model_inputs(model)))
    assert all((outputs[i] - outputs[j]).abs().max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({"context_mode": "append"}, [0, 0, 1, 1]),
        ({"context_mode": "inline"}, [1, 0.5, 0, 0]),
        # The last patch of three frames holds two, one of them given.
        (
            {
                "context_mode": "inline",
                "num_frames": 8,
                "context_frames": 7,
                "tokenizer": {"type": "patch3d", "patch_size": [3, 4, 4]},
            },
            [1, 1, 0.5],
        ),
    ],
)
def test_the_context_vector_is_added_by_share_of_context(changes: dict[str, Any], shares: list[float]) -> None:
    model = small_model(**changes, context_embedding=True)
    inputs = model_inputs(model)
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    for value in (0.0, 1.0):
        torch.nn.init.constant_(model.context_vector.weight, value)
        run(model, inputs)
    by_step = (seen[1] - seen[0]).unflatten(1, (len(shares), 4))
    assert_close(by_step, torch.tensor(shares, dtype=torch.float32).reshape(1, -1, 1, 1).expand_as(by_step), 1e-6)


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({"context_mode": "append"}, [0, 0, 1, 1]),
        ({"context_mode": "inline"}, [1, 0.5, 0, 0]),
        ({"context_mode": "concat"}, [0, 0]),
        ({"context_frames": 0}, [0, 0, 0, 0]),
        (IMAGE, [0]),
        # The last patch of three frames holds two, one of them given.
        (
            {
                "context_mode": "inline",
                "num_frames": 8,
                "context_frames": 7,
                "tokenizer": {"type": "patch3d", "patch_size": [3, 4, 4]},
            },
            [1, 1, 0.5],
        ),
    ],
)
def test_a_token_hears_of_its_own_noise_level(changes: dict[str, Any], shares: list[float]) -> None:
    # A block without layers leaves the interface as it starts.
    model = randomised(small_model(**changes, num_layers=[0], token_noise_level=True))
    plain = small_model(**changes, num_layers=[0]).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    inputs = {**model_inputs(model), "gamma": torch.tensor([0.3, 0.8])}
    with torch.no_grad():
        added = model(**inputs).interface - plain(**inputs).interface
        noisy, clean = model.token_level(inputs["gamma"]), model.token_level(torch.ones(2))
    share = torch.tensor(shares).repeat_interleave(added.shape[1] // len(shares)).reshape(1, -1, 1)
    assert_close(added, share * clean + (1 - share) * noisy, 1e-5)
    assert (noisy - clean).abs().amax(dim=(1, 2)).min() > 0.1


@pytest.mark.parametrize("base", [IMAGE, {}], ids=["image", "video"])
def test_only_tokens_that_know_their_noise_level_hear_of_it_without_latents(base: dict[str, Any]) -> None:
    for by_token in (False, True):
        model = randomised(small_model(**base, num_layers=[0], token_noise_level=by_token))
        inputs = model_inputs(model)
        heard = (run(model, inputs, gamma=0.2) - run(model, inputs, gamma=0.7)).abs().max() > 1e-3
        assert heard == by_token


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mixer_kernel": 3},
        {"mixer_kernel": 5, "num_frames": 10},
        {"token_noise_level": True, "context_embedding": True},
    ],
    ids=["plain", "mixer", "wide mixer", "marked context"],
)
def test_appended_context_stands_first_in_time(changes: dict[str, Any]) -> None:
    # With codes of time instead of learned rows and with whole patches, the order of tokens must make no difference.
    options = {"num_frames": 8, "context_frames": 4, "interface_position": "sin_cos", "temporal_position": True}
    append = randomised(small_model(**options | changes))
    inline = small_model(**options | changes, context_mode="inline").eval()
    inline.load_state_dict(append.state_dict())
    inputs = {**model_inputs(append), **carried(append)}
    assert_close(run(inline, inputs), run(append, inputs), 1e-4)
    steps = append.grid[0]
    with torch.no_grad():
        given_last, given_first = (model(**inputs).interface.unflatten(1, (steps, -1)) for model in (append, inline))
    assert_close(given_last.roll(2, dims=1), given_first, 1e-4)


@pytest.mark.parametrize("on_latent", [True, False])
@pytest.mark.parametrize("base", [IMAGE, {}], ids=["image", "video"])
def test_labels_are_heard_and_dropped(base: dict[str, Any], on_latent: bool) -> None:
    model = randomised(small_model(**base, num_classes=3, cond_on_latent=on_latent))
    inputs = model_inputs(model)
    outputs = [run(model, inputs, class_labels=torch.full((2,), label)) for label in (-1, 0, 1, 2)]
    for i in range(4):
        for j in range(i):
            assert (outputs[i] - outputs[j]).abs().max() > 1e-4
    # The dropped label is the all-zero vector: the dense layer's bias alone is left.
    torch.nn.init.zeros_(model.label_embedding.weight)
    assert_close(run(model, inputs, class_labels=torch.tensor([0, 2])), outputs[0], 1e-6)


def test_labels_become_one_hot_and_the_dropped_one_all_zero() -> None:
    model = small_model(num_classes=3)
    inputs = model_inputs(model, batch=4)
    seen: list[Tensor] = []
    model.label_embedding.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    run(model, inputs, class_labels=torch.tensor([-1, 2, 0, 1]))
    assert torch.equal(seen[0], torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
def test_labels_may_be_short_integers(dtype: torch.dtype) -> None:
    model = randomised(small_model(num_classes=3))
    inputs = model_inputs(model)
    labels = torch.tensor([2, -1])
    short = run(model, inputs, class_labels=labels.to(dtype))
    assert torch.equal(short, run(model, inputs, class_labels=labels))


@pytest.mark.parametrize("self_cond", ["latent", "latent+interface"])
def test_self_conditioning_starts_silent_and_then_matters(self_cond: str) -> None:
    model = small_model(self_cond=self_cond).eval()
    inputs, state = model_inputs(model), carried(model)
    cold = run(model, inputs)
    assert torch.equal(run(model, inputs, **state), cold)
    for module in model.modules():
        if isinstance(module, Recall):
            torch.nn.init.ones_(module.norm.weight)
    for name, value in state.items():
        zeros = torch.zeros_like(value)
        assert torch.equal(run(model, inputs, **{name: zeros}), run(model, inputs))
        assert (run(model, inputs, **{name: value}) - run(model, inputs)).abs().max() > 1e-3, name


@pytest.mark.parametrize("self_cond", ["none", "latent", "latent+interface"])
def test_one_carry_serves_every_variant(self_cond: str) -> None:
    model = randomised(small_model(self_cond=self_cond))
    inputs = model_inputs(model)
    with torch.no_grad():
        first = model(**inputs)
        second = model(**inputs, **LatentCarry.of(first).inputs())
    assert torch.equal(first.sample, second.sample) == (self_cond == "none")


def test_latent_self_conditioning_ignores_a_carried_interface() -> None:
    model = randomised(small_model())
    inputs = model_inputs(model)
    assert torch.equal(run(model, inputs, interface=torch.randn(2, 16, 24)), run(model, inputs))


@pytest.mark.parametrize("table", ["latent", "interface"])
def test_learned_positions_beside_a_fixed_code_start_at_zero(table: str) -> None:
    fixed = small_model(**{f"{table}_position": "sin_cos"}).eval()
    both = small_model(**{f"{table}_position": "sin_cos_plus_learned"}).eval()
    missing = both.load_state_dict(fixed.state_dict(), strict=False)
    assert missing.missing_keys == [f"{table}_rows.weight"]
    assert missing.unexpected_keys == []
    inputs = model_inputs(both)
    assert torch.equal(run(both, inputs), run(fixed, inputs))
    learned = small_model(**{f"{table}_position": "learned"}).eval()
    learned.load_state_dict(both.state_dict())  # the fixed code is not saved
    assert (run(learned, inputs) - run(both, inputs)).abs().max() > 1e-4


def test_a_temporal_position_tells_frames_apart() -> None:
    # With positions that repeat over time and no context, frames are a set: swapping them swaps the output.
    for temporal in (False, True):
        model = randomised(
            small_model(
                context_frames=0,
                num_frames=3,
                tokenizer={"type": "patch3d", "patch_size": [1, 4, 4]},
                interface_position="sin_cos",
                temporal_position=temporal,
            )
        )
        inputs = model_inputs(model)
        flipped = run(model, inputs, sample=inputs["sample"].flip(2)).flip(2)
        assert ((flipped - run(model, inputs)).abs().max() > 1e-3) == temporal


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer_kernel": 3},
        {"xattn_enc_ln": True},
        {"time_scaling": 10.0},
        {"num_layers": [1, 0]},
        {"token_noise_level": True},
    ],
)
def test_options_change_the_network(changes: dict[str, Any]) -> None:
    plain, other = small_model().eval(), small_model(**changes).eval()
    other.load_state_dict(plain.state_dict(), strict=False)
    inputs = model_inputs(plain)
    assert (run(plain, inputs) - run(other, inputs)).abs().max() > 1e-4


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"drop_path": 0.5}])
def test_dropping_acts_in_training_only(changes: dict[str, Any]) -> None:
    model = randomised(small_model(**changes))
    inputs = model_inputs(model)
    plain = randomised(small_model())
    assert torch.equal(run(model, inputs), run(plain, inputs))
    model.train()
    passes = torch.stack([run(model, inputs) for _ in range(8)])
    assert passes.std(0).max() > 1e-3


def test_nothing_is_dropped_but_in_compute_layers() -> None:
    model = randomised(small_model(dropout=0.5, drop_path=0.5, self_cond="latent+interface", mixer_kernel=3))
    inputs = {**model_inputs(model), **carried(model)}
    expected = run(model, inputs)
    model.train()
    for layer in model.modules():
        if isinstance(layer, ComputeLayer):
            layer.eval()
    assert torch.equal(run(model, inputs), expected)


def test_either_branch_of_a_compute_layer_may_be_dropped() -> None:
    torch.manual_seed(0)
    layer = ComputeLayer(dim=8, heads=2, mlp_ratio=2, dropout=0.0, drop_path=0.5)
    z = torch.randn(1, 3, 8).expand(200, -1, -1)
    with torch.no_grad():
        out = layer(z)
    kinds = torch.unique((out.flatten(1) * 1e4).round(), dim=0)
    assert len(kinds) == 4
    assert (out == z).flatten(1).all(1).any(), "both dropped"


def test_a_block_of_depth_zero_only_reads() -> None:
    model = small_model(num_layers=[1, 0])
    assert not [name for name, _ in model.blocks[1].named_parameters() if not name.startswith("read.")]
    inputs = model_inputs(model)
    seen: list[tuple[Tensor, Tensor]] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, arguments, output: seen.append(output))
    run(model, inputs)
    assert torch.equal(seen[1][1], seen[0][1])
    assert not torch.equal(seen[1][0], seen[0][0])


@pytest.mark.parametrize("changes", [{}, {"time_on_latent": False, "mixer_kernel": 3}])
def test_gradient_checkpointing_gives_equal_gradients(changes: dict[str, Any]) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = randomised(small_model(**changes)).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        passes: list[int] = []
        model.blocks[0].read.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        model(**model_inputs(model), **carried(model)).sample.square().mean().backward()
        assert len(passes) == 1 + checkpointing, "a checkpointed block runs again for its gradient"
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


# -- compiled


def compiled(model: RINModel, backend: Any = "eager") -> Any:
    """The model as one graph; a break in it is an error."""
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend=backend)


@pytest.mark.parametrize(
    "variant",
    [
        "image with labels",
        "labels and noise level on the interface",
        "concat",
        "self-conditioning on both",
        "mixer",
        "noise level by token, inline",
    ],
)
def test_a_compiled_model_is_one_graph_and_the_same_model(variant: str) -> None:
    model = randomised(small_model(**VARIANTS[variant] | {"num_layers": [1]}))
    inputs = {**model_inputs(model), **carried(model)}
    with torch.no_grad():
        output, expected = compiled(model)(**inputs), model(**inputs)
    assert isinstance(output, RINOutput)
    assert_close(output.sample, expected.sample, 1e-6)
    assert_close(output.latents, expected.latents, 1e-6)
    assert_close(output.interface, expected.interface, 1e-6)


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_noise_levels_do_not_compile_a_model_again_and_again(kind: Any) -> None:
    model = randomised(small_model(num_layers=[1]))
    inputs = model_inputs(model)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    network = compiled(model, backend)
    for gamma in (0.9, 0.5, 0.2, 0.1):
        assert_close(run(network, inputs, gamma=kind(gamma)), run(model, inputs, gamma=gamma), 1e-6)
    # A number is a constant of the first graph and an input of the second.
    assert 1 <= len(graphs) <= 2


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_compiled_model_with_gradient_checkpointing_gives_equal_gradients() -> None:
    gradients = []
    for compiling in (False, True):
        model = randomised(small_model(num_layers=[1], mixer_kernel=3, dropout=0.2, drop_path=0.2)).train()
        model.enable_gradient_checkpointing()
        inputs = {**model_inputs(model), **carried(model)}
        network = compiled(model, "aot_eager") if compiling else model
        torch.manual_seed(0)
        network(**inputs).sample.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, 1e-6)


# -- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"self_cond": "both"}, "self_cond 'both'; known: none, latent, latent\\+interface"),
        ({"latent_position": "rotary"}, "latent_position 'rotary'; known: learned, sin_cos, sin_cos_plus_learned"),
        ({"interface_position": "fixed"}, "interface_position 'fixed'; known: learned"),
        ({"context_mode": "cross"}, "context_mode 'cross'; known: append, inline, concat"),
        ({"latent_num_heads": 5}, "latent_num_heads=5 does not divide the attention width 32"),
        ({"rw_num_heads": 7}, "rw_num_heads=7 does not divide the attention width 24"),
        ({"latent_dim": 36}, "multiples of 8, got 36, 24"),
        ({"context_frames": 7}, "context_frames=7 must leave frames to predict; num_frames is 7"),
        ({"context_frames": -1}, "context_frames=-1"),
        ({**IMAGE, "context_frames": 1}, "context_frames=1 must leave frames to predict; num_frames is None"),
        ({"mixer_kernel": 2}, "mixer_kernel must be odd, or 0 for none, got 2"),
        ({"num_latents": 1}, "leave a latent beside noise level and label, got 1"),
        ({"num_latents": 2, "num_classes": 3}, "leave a latent beside noise level and label, got 2"),
        ({"sample_size": 10}, "10x10 do not divide into patches of 4x4"),
        ({"tokenizer": {"type": "patch4d"}}, "unknown tokenizer 'patch4d'; known: patch2d, patch3d"),
        ({"tokenizer": {"type": "patch3d", "size": 4}}, "'size'.*patch_size"),
    ],
)
def test_configurations_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(**changes)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({}, {"sample": torch.zeros(2, 3, 7, 8, 8)}, r"sample has shape \(2, 3, 7, 8, 8\).*\(2, 3, 4, 8, 8\)"),
        ({}, {"sample": torch.zeros(2, 1, 4, 8, 8)}, r"sample has shape .*\(2, 3, 4, 8, 8\)"),
        (IMAGE, {"sample": torch.zeros(2, 3, 1, 8, 8)}, r"sample has shape .*\(2, 3, 8, 8\)"),
        ({}, {"context": None}, r"context is missing.*\(2, 3, 3, 8, 8\)"),
        ({}, {"context": torch.zeros(2, 3, 2, 8, 8)}, r"context has shape \(2, 3, 2, 8, 8\)"),
        ({}, {"context": torch.zeros(1, 3, 3, 8, 8)}, r"context has shape \(1, 3, 3, 8, 8\)"),
        ({"context_frames": 0}, {"context": torch.zeros(2, 3, 3, 8, 8)}, "context was given, but"),
        ({"num_classes": 3}, {"class_labels": None}, r"class_labels is missing.*\(2,\)"),
        ({"num_classes": 3}, {"class_labels": torch.zeros(2, 3)}, r"class_labels has shape \(2, 3\)"),
        ({}, {"class_labels": torch.zeros(2, dtype=torch.long)}, "class_labels was given, but"),
        ({}, {"latents": torch.zeros(2, 5, 32)}, r"latents has shape \(2, 5, 32\).*\(2, 6, 32\)"),
        (
            {"self_cond": "latent+interface"},
            {"interface": torch.zeros(2, 12, 24)},
            r"interface has shape \(2, 12, 24\).*\(2, 16, 24\)",
        ),
    ],
)
def test_inputs_that_do_not_fit(model: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    network = small_model(**model)
    with pytest.raises(ValueError, match=message):
        run(network, model_inputs(network), **changes)


@pytest.mark.parametrize(
    ("gamma", "named"),
    [
        (-0.5, r"-0\.5"),
        (1.5, r"1\.5"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (torch.tensor(1.25), r"1\.25"),
        (torch.tensor([0.5, -0.25]), r"\[0\.5, -0\.25\]"),
        (torch.tensor([0.5, float("nan")]), r"\[0\.5, nan\]"),
    ],
)
def test_noise_levels_out_of_range_are_named(gamma: Any, named: str) -> None:
    model = small_model()
    with pytest.raises(ValueError, match=rf"gamma must be in \[0, 1\], got {named}"):
        run(model, model_inputs(model), gamma=gamma)


@pytest.mark.parametrize("gamma", [0, 1, 0.0, 1.0, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]).double()])
def test_both_ends_of_the_noise_level_are_finite(gamma: Any) -> None:
    model = randomised(small_model(token_noise_level=True))
    assert run(model, model_inputs(model), gamma=gamma).isfinite().all()


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_noise_levels_of_another_batch_are_refused(shape: tuple[int, ...]) -> None:
    model = small_model()
    with pytest.raises(ValueError, match=r"gamma has shape \(\d.*; it must be a scalar or \(2,\)"):
        run(model, model_inputs(model), gamma=torch.full(shape, 0.5))


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (torch.tensor([0, 3]), r"\[0, 3\]"),
        (torch.tensor([-2, 0]), r"\[-2, 0\]"),
        (torch.tensor([0, 7], dtype=torch.int32), r"\[0, 7\]"),
        (torch.tensor([0.0, 1.0]), "torch.float32"),
    ],
)
def test_labels_that_do_not_exist_are_named(labels: Tensor, named: str) -> None:
    model = small_model(num_classes=3)
    with pytest.raises(ValueError, match=rf"class_labels must be whole numbers in \[0, 2\], or -1.*got {named}"):
        run(model, model_inputs(model), class_labels=labels)


# -- saving and loading


@pytest.mark.parametrize("variant", ["append", "temporal position", "both positions", "context embedding, inline"])
def test_a_saved_model_is_the_same_model(variant: str, tmp_path: Path) -> None:
    model = randomised(small_model(**VARIANTS[variant]))
    model.save_pretrained(tmp_path)
    loaded = RINModel.from_pretrained(tmp_path)
    assert not loaded.training
    assert {k: v for k, v in loaded.config.items() if k[0] != "_"} == {
        k: v for k, v in model.config.items() if k[0] != "_"
    }
    inputs = {**model_inputs(model), **carried(model)}
    assert torch.equal(run(loaded, inputs), run(model, inputs))


@pytest.mark.parametrize(
    "variant", ["append", "fixed positions", "context embedding, inline", "noise level by token, inline", "mixer"]
)
def test_a_saved_model_loads_in_half_precision(variant: str, tmp_path: Path) -> None:
    model = small_model(**VARIANTS[variant]).eval()
    model.save_pretrained(tmp_path)
    half = RINModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    inputs = model_inputs(model)
    cast = {name: value if name == "gamma" else value.bfloat16() for name, value in inputs.items()}
    output = run(half, cast)
    assert output.dtype == torch.bfloat16
    assert relative_error(output.float(), run(model, inputs)) < 0.03


def test_a_saved_model_loads_in_a_fresh_process(tmp_path: Path) -> None:
    model = randomised(small_model(interface_position="sin_cos_plus_learned", temporal_position=True, mixer_kernel=3))
    model.save_pretrained(tmp_path)
    inputs = {**model_inputs(model), **carried(model)}
    np.savez(tmp_path / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    code = (
        "import sys, numpy as np, torch, rinvid\n"
        "torch.set_num_threads(1)\n"
        "model = rinvid.RINModel.from_pretrained(sys.argv[1])\n"
        "inputs = {k: torch.from_numpy(v) for k, v in np.load(sys.argv[1] + '/inputs.npz').items()}\n"
        "with torch.no_grad():\n"
        "    np.save(sys.argv[1] + '/output.npy', model(**inputs).sample.numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "output.npy")), run(model, inputs))
