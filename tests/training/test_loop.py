"""The training loop: exact resuming, stopping when asked, and learning."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from rinvid.data.clips import VideoClips
from rinvid.data.videos import open_videos
from rinvid.models.rin import RINModel
from rinvid.training.checkpoint import Checkpointer
from rinvid.training.config import DiffusionConfig, OptimizerConfig, RunConfig
from rinvid.training.loop import Interrupted, train, training_batches
from rinvid.training.progress import read_metrics
from tests.helpers import small_model
from tests.video.make import numbered, write_video

SIDE, FRAMES, GIVEN = 16, 8, 3
CONFIG = RunConfig(
    optimizer=OptimizerConfig(lr=3e-3, warmup_steps=1, ema_decay=0.6),
    seed=5,
    max_steps=4,
    batch_size=2,
    log_every=1,
    watch_every=0,
    checkpoint_every=2,
    keep_checkpoints=5,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> VideoClips:
    """Three short videos in a clip cache."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        write_video(folder / f"{number}.mp4", numbered(FRAMES + 2, SIDE, 40 * number), options={"crf": "8"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RINVID_HOME", str(tmp_path_factory.mktemp("home")))
        videos = open_videos(folder, FRAMES, SIDE, cache_mb=100, show_progress=False)
    return VideoClips(videos.parts["train"], FRAMES)


def network(**changes: Any) -> RINModel:
    return small_model(sample_size=SIDE, num_frames=FRAMES, context_frames=GIVEN, **changes)


def run(
    folder: Path, clips: VideoClips, config: RunConfig = CONFIG, model: RINModel | None = None, **more: Any
) -> RINModel:
    folder.mkdir(exist_ok=True)
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=folder)
    batches = training_batches(config, clips, accelerator, more.get("resume"))
    return train(config, model or network(), batches, folder, accelerator, {"seed": config.seed}, **more)


def history(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if key != "clips_per_second"}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


def checkpoint(folder: Path, step: int) -> dict[str, torch.Tensor]:
    path = folder / "checkpoints" / f"step_{step:08d}"
    return {
        f"{file.stem}/{name}": tensor
        for file in sorted(path.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert a
    for name in a:
        assert torch.equal(a[name], b[name]), name


def ask_to_stop(at: int, number: int = signal.SIGINT, times: int = 1) -> Callable[[int, RINModel], dict[str, float]]:
    """A watcher that sends this process a signal at a step."""

    def watch(step: int, model: RINModel) -> dict[str, float]:
        if step == at:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return {}

    return watch


def handlers() -> tuple[Any, Any]:
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


# -- going on


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_stopping_and_going_on_changes_nothing(tmp_path: Path, clips: VideoClips, optimizer: Any) -> None:
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, name=optimizer), checkpoint_every=0)
    straight = run(tmp_path / "straight", clips, config)
    before = handlers()
    with pytest.raises(Interrupted) as stop:
        run(tmp_path / "parts", clips, replace(config, watch_every=1), watch=ask_to_stop(at=2))
    assert handlers() == before
    assert stop.value.checkpoint == tmp_path / "parts" / "checkpoints" / "step_00000002"
    assert str(stop.value.checkpoint) in str(stop.value)
    assert [line["step"] for line in history(tmp_path / "parts")] == [1, 2]
    # Weights of the model given do not matter: all come from the checkpoint.
    torch.manual_seed(99)
    other = RINModel(**{key: value for key, value in network().config.items() if not key.startswith("_")})
    parts = run(tmp_path / "parts", clips, config, other, resume=stop.value.checkpoint)
    assert_equal(straight.state_dict(), parts.state_dict())
    assert_equal(checkpoint(tmp_path / "straight", 4), checkpoint(tmp_path / "parts", 4))
    assert history(tmp_path / "straight") == history(tmp_path / "parts")
    assert [line["step"] for line in history(tmp_path / "straight")] == [1, 2, 3, 4]


def test_going_on_with_dropout_changes_nothing(tmp_path: Path, clips: VideoClips) -> None:
    torch.manual_seed(0)
    straight = run(tmp_path / "straight", clips, model=network(dropout=0.5))
    parts = run(tmp_path / "parts", clips, model=network(dropout=0.5), resume=next(tmp_path.glob("*/*/step_00000002")))
    assert_equal(straight.state_dict(), parts.state_dict())


def test_the_seed_decides(tmp_path: Path, clips: VideoClips) -> None:
    config = replace(CONFIG, max_steps=2)
    run(tmp_path / "a", clips, config)
    torch.manual_seed(123)  # nothing in a run looks at the global generator
    run(tmp_path / "b", clips, config)
    run(tmp_path / "c", clips, replace(config, seed=6))
    a, b, c = (history(tmp_path / name) for name in "abc")
    assert a == b
    assert all(one["loss"] != other["loss"] for one, other in zip(a, c, strict=True))


def test_lines_beyond_the_checkpoint_are_dropped(tmp_path: Path, clips: VideoClips) -> None:
    run(tmp_path, clips)
    path = tmp_path / "metrics.jsonl"
    whole = history(tmp_path)
    run(tmp_path, clips, resume=tmp_path / "checkpoints" / "step_00000002")
    assert history(tmp_path) == whole
    run(tmp_path, clips, replace(CONFIG, max_steps=1))  # a run from the start begins the file anew
    assert len(path.read_text().splitlines()) == 1


# -- what is watched and saved


def test_what_a_run_leaves(tmp_path: Path, clips: VideoClips) -> None:
    seen = {}

    def watch(step: int, model: RINModel) -> Mapping[str, float]:
        assert not model.training
        seen[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return {"gain": step / 10}

    given = network()
    config = replace(CONFIG, max_steps=5, watch_every=2, keep_checkpoints=2)
    model = run(tmp_path, clips, config, given, watch=watch)
    assert model is given
    assert not model.training
    assert list(seen) == [2, 4, 5]
    assert_equal(seen[5], model.state_dict())  # the averaged weights, in both places
    steps = [step for step, _ in Checkpointer(tmp_path / "checkpoints").steps()]
    assert steps == [4, 5]
    saved = checkpoint(tmp_path, 4)
    assert_equal(seen[4], {name[4:]: tensor for name, tensor in saved.items() if name.startswith("ema/")})
    assert any(not torch.equal(saved[f"model/{name}"], tensor) for name, tensor in seen[4].items())
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert {line["step"]: line["gain"] for line in lines if "gain" in line} == {2: 0.2, 4: 0.4, 5: 0.5}
    for line in lines:
        assert all(math.isfinite(value) for value in line.values())
        if "loss" in line:
            assert line.keys() == {"step", "loss", "lr", "grad_norm", "clips_per_second"}
            assert line["clips_per_second"] > 0
    assert next((tmp_path).rglob("events.out.tfevents*"), None)


def test_lines_are_means_over_their_steps(tmp_path: Path, clips: VideoClips) -> None:
    run(tmp_path / "each", clips)
    run(tmp_path / "some", clips, replace(CONFIG, log_every=3))
    each = [line["loss"] for line in history(tmp_path / "each")]
    some = {line["step"]: line["loss"] for line in history(tmp_path / "some")}
    assert some == pytest.approx({3: sum(each[:3]) / 3, 4: each[3]}, rel=1e-5)


def test_a_model_without_context(tmp_path: Path, clips: VideoClips) -> None:
    model = small_model(sample_size=SIDE, num_frames=FRAMES, context_frames=0)
    run(tmp_path, clips, replace(CONFIG, max_steps=1), model)
    assert len(history(tmp_path)) == 1


@pytest.mark.slow
def test_learns_what_can_be_memorised(tmp_path: Path, clips: VideoClips) -> None:
    config = replace(
        CONFIG,
        optimizer=OptimizerConfig(lr=5e-3, warmup_steps=20, ema_decay=0.9),
        diffusion=DiffusionConfig(prediction_type="sample", loss_type="sample"),
        max_steps=300,
        batch_size=4,
        checkpoint_every=0,
    )
    run(tmp_path, clips, config, network(context_mode="concat"))
    losses = [line["loss"] for line in history(tmp_path)]
    first, last = sum(losses[:10]) / 10, sum(losses[-50:]) / 50
    assert last < 0.2 * first


def test_the_loss_falls(tmp_path: Path, clips: VideoClips) -> None:
    config = replace(
        CONFIG,
        optimizer=OptimizerConfig(lr=5e-3, warmup_steps=5, ema_decay=0.9),
        diffusion=DiffusionConfig(prediction_type="sample", loss_type="sample"),
        max_steps=60,
        batch_size=4,
        checkpoint_every=0,
    )
    run(tmp_path, clips, config, network(context_mode="concat"))
    losses = [line["loss"] for line in history(tmp_path)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


# -- stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_saves_first(tmp_path: Path, clips: VideoClips, number: int) -> None:
    before = handlers()
    with pytest.raises(Interrupted) as stop:
        run(tmp_path, clips, replace(CONFIG, watch_every=1, checkpoint_every=0), watch=ask_to_stop(3, number))
    assert handlers() == before
    assert Checkpointer(tmp_path / "checkpoints").steps() == [(3, stop.value.checkpoint)]


def test_a_second_request_stops_at_once(tmp_path: Path, clips: VideoClips) -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, clips, replace(CONFIG, watch_every=1, checkpoint_every=0), watch=ask_to_stop(2, times=2))
    assert handlers() == before
    assert Checkpointer(tmp_path / "checkpoints").latest() is None


def test_a_request_at_the_last_step_changes_nothing(tmp_path: Path, clips: VideoClips) -> None:
    run(tmp_path, clips, watch=ask_to_stop(4))
    assert [step for step, _ in Checkpointer(tmp_path / "checkpoints").steps()] == [2, 4]


def test_handlers_come_back_after_any_end(tmp_path: Path, clips: VideoClips) -> None:
    def fail(step: int, model: RINModel) -> Mapping[str, float]:
        raise RuntimeError

    before = handlers()
    with pytest.raises(RuntimeError):
        run(tmp_path / "a", clips, replace(CONFIG, watch_every=1), watch=fail)
    assert handlers() == before
    run(tmp_path / "b", clips, replace(CONFIG, max_steps=1))
    assert handlers() == before


# -- a loss that is no number


def spoilt() -> RINModel:
    model = network()
    torch.nn.init.constant_(model.output_norm.weight, math.nan)
    return model


def test_a_loss_that_is_not_finite(tmp_path: Path, clips: VideoClips) -> None:
    with pytest.raises(FloatingPointError, match=r"not finite at step 2; try a smaller optimizer\.lr"):
        run(tmp_path, clips, replace(CONFIG, log_every=2), spoilt())
    assert history(tmp_path) == []
    assert Checkpointer(tmp_path / "checkpoints").latest() is None


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, clips: VideoClips) -> None:
    with pytest.raises(FloatingPointError):
        run(tmp_path, clips, replace(CONFIG, log_every=4, checkpoint_every=1), spoilt())
    assert Checkpointer(tmp_path / "checkpoints").latest() is None


def test_a_checkpoint_of_another_network(tmp_path: Path, clips: VideoClips) -> None:
    run(tmp_path / "a", clips, replace(CONFIG, max_steps=1))
    with pytest.raises(ValueError, match="is of another network than this run's"):
        run(
            tmp_path / "b",
            clips,
            model=network(mixer_kernel=3),
            resume=tmp_path / "a" / "checkpoints" / "step_00000001",
        )
