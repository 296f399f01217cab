"""The published networks: their sizes, the recipes that go with them, and the page that shows them."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from rinvid.cli import main
from rinvid.models.rin import RINModel
from rinvid.options import parse
from rinvid.presets import PRESETS, measure, table
from rinvid.schedules import create_schedule
from rinvid.training.config import DiffusionConfig, OptimizerConfig, RunConfig

ROOT = Path(__file__).parents[1]
# Sizes from the design of the networks: parameters in millions, interface tokens.
SIZES = {
    "cifar10": (31.0, 256),
    "imagenet64-released": (158, 64),
    "imagenet64": (253, 256),
    "imagenet128": (396, 1024),
    "imagenet256": (396, 1024),
    "imagenet512": (321, 4096),
    "imagenet1024": (412, 16384),
    "kinetics600": (395, 2304),
}


def test_every_preset_is_checked() -> None:
    assert set(PRESETS) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_networks_have_the_published_sizes(name: str) -> None:
    millions, tokens = SIZES[name]
    size = measure(PRESETS[name].model)
    digits = 1 if isinstance(millions, float) else 0
    assert round(size.parameters / 1e6, digits) == millions
    assert size.tokens == tokens


def test_operations_are_counted_as_by_hand() -> None:
    # One token per image, one latent beside the noise level, no heads to speak of: every product can be listed.
    config: dict[str, Any] = {
        "sample_size": 4,
        "num_latents": 2,
        "latent_dim": 8,
        "interface_dim": 8,
        "num_layers": [0],
        "latent_num_heads": 1,
        "rw_num_heads": 1,
        "latent_mlp_ratio": 1,
        "interface_mlp_ratio": 1,
        "self_cond": "none",
    }
    stem, readout, time = 48 * 8, 8 * 48, 2 * 8 + 8 * 8
    read = 2 * 8 * 8 + 2 * 8 * 8 + 2 * (2 * 1 * 8) + 2 * 8 * 8 + 2 * (2 * 8 * 8)
    assert measure(config).flops == 2 * (stem + readout + time + read)


# lr, curve, batch, steps, noise schedule trained with, dropout and stochastic depth.
RECIPES: dict[str, tuple[Any, ...]] = {
    "cifar10": (3e-3, "cosine@0.8", 256, 150_000, {"type": "sigmoid", "start": -3.0, "end": 3.0, "tau": 0.9}, 0.1, 0.1),
    "imagenet64-released": (2e-3, "cosine@0.7", 1024, 150_000, {"type": "linear"}, 0.0, 0.0),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_released_recipes_are_the_authors(name: str) -> None:
    lr, curve, batch, steps, schedule, dropout, drop_path = RECIPES[name]
    config = parse({name: PRESETS[name].run()}, name, [])
    assert config.optimizer == OptimizerConfig(
        name="lamb",
        lr=lr,
        schedule=curve,
        warmup_steps=10_000,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        max_grad_norm=1.0,
        ema_decay=0.9999,
    )
    assert (config.batch_size, config.max_steps) == (batch, steps)
    assert config.diffusion == DiffusionConfig(schedule, "epsilon", "epsilon", input_scale=1.0, self_cond_rate=0.9)
    assert config.sampling.scheduler == {"type": "ddpm", "schedule": {"type": "cosine"}}
    assert config.sampling.num_inference_steps == 1000
    assert (config.model["dropout"], config.model["drop_path"]) == (dropout, drop_path)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_run_that_parses(name: str) -> None:
    config = parse({name: PRESETS[name].run()}, name, [])
    assert isinstance(config, RunConfig)
    create_schedule(config.diffusion.schedule)
    with torch.device("meta"):
        model = RINModel(**config.model)
    assert {key: model.config[key] for key in PRESETS[name].model} == dict(PRESETS[name].model)
    for group, values in PRESETS[name].training.items():
        if isinstance(values, dict):
            assert {key: getattr(getattr(config, group), key) for key in values} == values
        else:
            assert getattr(config, group) == values


def test_the_recipe_takes_the_preset() -> None:
    presets = runpy.run_path(str(ROOT / "recipes" / "kinetics600.py"))["PRESETS"]
    assert presets["kinetics600"] == PRESETS["kinetics600"].run()


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main(["presets"])
    printed = capsys.readouterr().out.strip()
    assert printed == table()
    assert printed in (ROOT / "docs" / "presets.md").read_text()
