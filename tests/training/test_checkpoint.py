"""Checkpoints: everything comes back, only whole ones count, and the oldest go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from rinvid.models.rin import RINModel
from rinvid.training.checkpoint import Checkpointer
from rinvid.training.ema import EMA
from rinvid.training.optim import Optimizers, create_optimizers
from tests.helpers import model_inputs, small_model


class Run(NamedTuple):
    """What a checkpoint is of."""

    model: RINModel
    ema: EMA
    optimizers: Optimizers


def fresh(name: Any = "adamw", **changes: Any) -> Run:
    model = small_model(**changes)
    return Run(model, EMA(model, 0.9), create_optimizers(model, name, 0.01))


def advance(run: Run, steps: int, seed: int = 0) -> Run:
    """Train on a fixed sequence of inputs."""
    run.optimizers.set_lr(0.01)
    for step in range(steps):
        run.model(**model_inputs(run.model, seed=seed + step)).sample.square().mean().backward()
        run.optimizers.step()
        run.optimizers.zero_grad()
        run.ema.update(run.model)
    return run


def assert_same(one: Run, two: Run) -> None:
    for a, b in (
        (one.model.state_dict(), two.model.state_dict()),
        (one.ema.state_dict(), two.ema.state_dict()),
        (one.optimizers.tensors(), two.optimizers.tensors()),
    ):
        assert a.keys() == b.keys()
        assert a
        for name in a:
            assert torch.equal(a[name], b[name]), name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_everything_comes_back(tmp_path: Path, optimizer: str) -> None:
    run = advance(fresh(optimizer), 3)
    path = Checkpointer(tmp_path).save(3, *run, config={"seed": 7})
    other = advance(fresh(optimizer), 1, seed=50)
    assert Checkpointer.load(path, *other) == 3
    assert_same(run, other)
    # And so does what comes after.
    assert_same(advance(run, 2, seed=9), advance(other, 2, seed=9))


def test_a_run_that_has_not_stepped(tmp_path: Path) -> None:
    path = Checkpointer(tmp_path).save(0, *fresh(), config={})
    other = fresh()
    assert Checkpointer.load(path, *other) == 0
    advance(other, 1)


def test_saving_does_not_change_the_run(tmp_path: Path) -> None:
    saved, other = advance(fresh(), 2), advance(fresh(), 2)
    Checkpointer(tmp_path).save(2, *saved, config={})
    assert_same(advance(saved, 2, seed=5), advance(other, 2, seed=5))


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    run = advance(fresh(), 1)
    path = Checkpointer(tmp_path / "deep" / "checkpoints").save(1000, *run, config={"model": {"num_frames": 7}})
    assert path == tmp_path / "deep" / "checkpoints" / "step_00001000"
    assert names(path) == ["ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert json.loads((path / "state.json").read_text()) == {"step": 1000, "config": {"model": {"num_frames": 7}}}
    assert load_file(path / "ema.safetensors").keys() == run.model.state_dict().keys()
    assert load_file(path / "model.safetensors").keys() == run.model.state_dict().keys()
    assert load_file(path / "optimizer.safetensors").keys() == run.optimizers.tensors().keys()


def test_latest_goes_by_number(tmp_path: Path) -> None:
    checkpointer, run = Checkpointer(tmp_path, keep=10), fresh()
    assert checkpointer.latest() is None
    assert checkpointer.steps() == []
    saved = checkpointer.save(100, *run, config={})
    for name in ("step_00000009", "step_00000020"):
        shutil.copytree(saved, tmp_path / name)
    assert [step for step, _ in checkpointer.steps()] == [9, 20, 100]
    assert checkpointer.latest() == saved
    assert Checkpointer(tmp_path / "nowhere").latest() is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay(tmp_path: Path, keep: int) -> None:
    checkpointer, run = Checkpointer(tmp_path, keep), fresh()
    for step in range(1, 6):
        assert checkpointer.save(step, *run, config={}).is_dir()
        assert [found for found, _ in checkpointer.steps()] == list(range(1, 6))[max(0, step - keep) : step]
    assert len(names(tmp_path)) == keep


def test_unfinished_and_foreign_folders_are_no_checkpoints(tmp_path: Path) -> None:
    checkpointer, run = Checkpointer(tmp_path, keep=1), fresh()
    for name in (".step_00000009-abc123", "step_9", "step_00000009.bak", "step_latest"):
        (tmp_path / name).mkdir()
    assert checkpointer.latest() is None
    checkpointer.save(1, *run, config={})
    assert checkpointer.latest() == tmp_path / "step_00000001"
    assert len(names(tmp_path)) == 5  # what is not ours stays


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    checkpointer, run = Checkpointer(tmp_path), fresh()
    with pytest.raises(TypeError):
        checkpointer.save(1, *run, config={"path": object()})  # not JSON, found after the tensors are written
    assert names(tmp_path) == []
    assert checkpointer.latest() is None


def test_not_a_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="not a checkpoint"):
            Checkpointer.load(path, *fresh())


@pytest.mark.parametrize(
    "changes", [{"latent_dim": 40}, {"num_layers": [1, 1, 1]}, {"num_layers": [1]}, {"num_latents": 7}]
)
def test_a_checkpoint_of_another_network(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = Checkpointer(tmp_path).save(1, *fresh(), config={})
    with pytest.raises(ValueError, match="step_00000001: is of another network than this run's") as error:
        Checkpointer.load(path, *fresh(**changes))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_optimizer(tmp_path: Path) -> None:
    path = Checkpointer(tmp_path).save(1, *advance(fresh("adamw"), 1), config={})
    with pytest.raises(ValueError, match="optimiser state is for"):
        Checkpointer.load(path, *fresh("muon"))


def test_a_checkpoint_saved_again_is_the_new_one(tmp_path: Path) -> None:
    """A run that goes on from an earlier checkpoint comes to the later ones' steps a second time."""
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(2, *advance(fresh(), 1), config={})
    second = advance(fresh(), 1, seed=70)
    loaded = fresh()
    Checkpointer.load(checkpointer.save(2, *second, config={}), *loaded)
    assert_same(second, loaded)


def test_going_on_from_an_earlier_checkpoint(tmp_path: Path) -> None:
    """What is saved last is there, and is what is found, although the folder holds later steps of before."""
    checkpointer, run = Checkpointer(tmp_path, keep=2), fresh()
    for step in (10, 20, 30):
        checkpointer.save(step, *run, config={})
    saved = checkpointer.save(15, *run, config={})
    assert saved.is_dir()
    assert checkpointer.latest() == saved
