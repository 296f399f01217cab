"""The recipe as a user runs it: from a command line to a run folder, with good and with bad input."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rinvid.data.encode import save_h264
from rinvid.pipelines.video import RINVideoPipeline
from rinvid.run import main
from rinvid.training import learning_rate
from rinvid.training.checkpoint import Checkpointer
from rinvid.training.progress import read_metrics

RECIPE = Path(__file__).parents[1] / "recipes" / "kinetics600.py"
PRESETS = runpy.run_path(str(RECIPE))["PRESETS"]
TINY = """
--preset smoke --max_steps 4 --batch_size 4 --log_every 1 --watch_every 2 --checkpoint_every 2
--model.sample_size 16 --model.num_layers [1] --model.latent_dim 32 --model.interface_dim 32 --model.num_latents 8
--model.latent_num_heads 2 --model.rw_num_heads 2 --sampling.num_inference_steps 2 --evaluation.num_clips 3
""".split()  # noqa: SIM905 (a command line reads best as one)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four short videos of moving bars, one of them too short, and one file that is not a video."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(4):
        clip = np.full((20, 32, 48, 3), 20, np.uint8)
        for f in range(len(clip)):
            clip[f, :, (2 * f + 9 * number) % 48] = 220
        save_h264(clip if number else clip[:9], root / f"bar{number}.mp4", fps=8, crf=20)
    (root / "broken.mp4").write_text("this is not a video")
    return root


@pytest.fixture(autouse=True)
def own_folder(home, tmp_path, monkeypatch):
    """Every test has its own working folder; the cache is the module's."""
    monkeypatch.setenv("RINVID_HOME", str(home))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> None:
    main(PRESETS, "digits", list(arguments))


@pytest.fixture(scope="module")
def finished(videos, home, tmp_path_factory):
    """A whole tiny run on the folder of videos, in a process of its own."""
    folder = tmp_path_factory.mktemp("run")
    command = [sys.executable, str(RECIPE), *TINY, "--data.root", str(videos)]
    environment = os.environ | {"RINVID_HOME": str(home)}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "smoke", done


def test_a_run_leaves_everything_that_was_promised(finished):
    folder, done = finished
    assert f"results are in {folder.relative_to(folder.parents[1])}" in done.stdout
    expected = {"config.yaml", "metrics.json", "metrics.jsonl", "pipeline", "checkpoints", "samples.gif", "samples.mp4"}
    assert expected | {"loss.png", "strips", "tensorboard"} == {path.name for path in folder.iterdir()}
    assert Image.open(folder / "samples.gif").n_frames == 16
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_00000002", "step_00000004"]


def test_scores_are_those_of_the_right_frames(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    assert metrics["protocol"]["context_frames"] == 5
    assert len(metrics["psnr_by_frame"]) == 11
    assert {"psnr", "ssim"} == metrics["prediction"].keys() == metrics["copy_last_frame"].keys()
    assert metrics["data"]["videos"] == {"train": 2, "val": 1}
    assert metrics["protocol"]["clips"] == 1  # one val video of 20 frames has room for one clip of 16


def test_what_was_left_out_is_named_and_counted(finished):
    folder, done = finished
    assert "broken.mp4" in done.stderr
    assert "bar0.mp4: has 9 frames, a clip needs 16" in done.stderr
    assert "2 left out" in done.stdout
    left_out = json.loads((folder / "metrics.json").read_text())["data"]["left_out"]
    assert (left_out["count"], sorted(path for path, _ in left_out["first"])) == (2, ["bar0.mp4", "broken.mp4"])


def test_the_learning_rate_is_that_of_the_steps_done(finished):
    lines = [line for line in read_metrics(finished[0] / "metrics.jsonl") if "lr" in line]
    options = PRESETS["smoke"]["optimizer"]
    expected = [learning_rate(step, options["lr"], options["warmup_steps"], 4) for step in range(4)]
    assert [line["lr"] for line in lines] == expected


def test_samples_on_the_way_are_scored(finished):
    lines = [line for line in read_metrics(finished[0] / "metrics.jsonl") if "psnr" in line]
    assert [line["step"] for line in lines] == [2]
    assert 0 < lines[0]["psnr"] < 60


def test_context_gain_is_logged(finished):
    lines = read_metrics(finished[0] / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    # One val clip has no other clip's context to compare with.
    assert not any("context_gain/t=1.0" in line for line in lines)


def test_the_saved_pipeline_loads(finished, videos):
    pipeline = RINVideoPipeline.from_pretrained(finished[0] / "pipeline")
    frames = pipeline(videos / "bar1.mp4", num_inference_steps=1).frames
    assert frames.shape == (1, 16, 16, 16, 3)
    assert 0 <= frames.min() <= frames.max() <= 1


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def test_the_saved_configuration_repeats_the_run(finished, tmp_path):
    folder, _ = finished
    run("--config", str(folder / "config.yaml"), "--output_dir", "again")
    assert losses(tmp_path / "again") == losses(folder)
    first, again = (yaml.safe_load((run / "config.yaml").read_text()) for run in (folder, tmp_path / "again"))
    assert first == again


def test_ctrl_c_saves_and_says_how_to_go_on(videos, tmp_path, capsys):
    options = [*TINY, "--data.root", str(videos), "--output_dir", "run", "--watch_every", "0"]
    command = [sys.executable, str(RECIPE), *options, "--max_steps", "100000"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.is_file() and log.read_text().count("\n") > 3):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--output_dir run --resume auto" in out
    step = Checkpointer(tmp_path / "run" / "checkpoints").steps()[-1][0]

    run(*options, "--max_steps", str(step + 2), "--resume", "auto")
    assert f"going on from run/checkpoints/step_{step:08d}" in capsys.readouterr().out
    steps = [line["step"] for line in read_metrics(log) if "loss" in line]
    assert steps == list(range(1, step + 3))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.root", "nowhere"], "nowhere: no such folder of videos"),
        (["--data.root", "."], "holds no videos"),
        (["--data.root", "{videos}", "--data.stride", "9"], "none of 5 videos can be used"),
        (["--data.source", "{type: digits, limit: 1}"], "digits need a limit of at least 2"),
        (["--preset", "tiny"], "unknown preset 'tiny'; known: digits, digits-long, smoke, kinetics600"),
        (["--model.num_latent", "8"], "--model.num_latent 8 (did you mean --model.num_latents?)"),
        (["--model.in_channels", "1"], "model.in_channels must be 3"),
        (["--optimizer.betas", "[1.5, 0.9]"], "betas must be two numbers in [0, 1)"),
        (["--model.num_layers", "[-1]"], "num_layers needs a number of layers >= 0"),
        (["--max_steps", "many"], "max_steps"),
        (["--max_steps", "0"], "max_steps must be at least 1, got 0"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--model.rw_num_heads", "5"], "rw_num_heads=5 does not divide the attention width 128"),
        (["--model.sample_size", "30"], "frames of 30x30 do not divide into patches of 8x8"),
        (["--model.context_mode", "front"], "context_mode"),
        (["--diffusion.schedule", "{type: sine}"], "unknown schedule 'sine'; known: cosine, "),
        (["--data.root", "{videos}", "--output_dir", "/dev/null/run"], "output_dir /dev/null/run cannot be written"),
        (["--data.root", "{videos}", "--resume", "there"], "there: not a checkpoint"),
        (["--data.backend", "vlc"], "backend"),
        (["--optimizer.ema_decay", "1.5"], "ema_decay must be in [0, 1), got 1.5"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(videos, tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as end:
        run("--preset", "smoke", *(option.replace("{videos}", str(videos)) for option in options))
    assert end.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_breaks_off_is_left_out_by_name(videos, tmp_path, capsys):
    root = tmp_path / "cut"
    shutil.copytree(videos, root)
    cut = root / "cut1.mp4"
    save_h264(np.random.default_rng(0).integers(0, 255, (40, 32, 48, 3), dtype=np.uint8), cut, fps=8, crf=20)
    whole = cut.read_bytes()
    middle = len(whole) // 2
    cut.write_bytes(whole[: middle // 2] + bytes(middle) + whole[middle // 2 + middle :])
    run(*TINY, "--data.root", str(root), "--output_dir", "run", "--watch_every", "0")
    assert "3 left out" in capsys.readouterr().out
    left_out = json.loads((tmp_path / "run" / "metrics.json").read_text())["data"]["left_out"]
    assert [path for path, reason in left_out["first"] if reason.startswith("broken at")] == ["cut1.mp4"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.latent_dim", "64"], "is of a run with other settings of model"),
        (["--seed", "3"], "is of a run with other settings of seed"),
        (["--max_steps", "3"], "is at step 4, beyond max_steps=3"),
    ],
)
def test_a_run_goes_on_only_as_what_it_was(finished, videos, capsys, options, said):
    folder, _ = finished
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(SystemExit):
        run(*TINY, "--data.root", str(videos), "--output_dir", str(folder), "--resume", "auto", *options)
    assert said in capsys.readouterr().err
    assert (folder / "config.yaml").read_bytes() == before


def test_a_named_checkpoint_goes_on_in_its_own_run(finished, videos, tmp_path):
    folder, _ = finished
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    checkpoint = own / "checkpoints" / "step_00000002"
    run(*TINY, "--data.root", str(videos), "--resume", str(checkpoint))
    assert losses(own) == losses(folder)
    assert not (tmp_path / "runs").exists()


def test_an_output_folder_in_use_is_kept(finished, videos, capsys):
    folder, _ = finished
    before = (folder / "metrics.json").read_bytes()
    with pytest.raises(SystemExit):
        run(*TINY, "--data.root", str(videos), "--output_dir", str(folder))
    assert "holds something already; --resume auto goes on" in capsys.readouterr().err
    assert (folder / "metrics.json").read_bytes() == before


def test_a_run_without_a_name_never_meets_another(finished, videos, monkeypatch):
    folder, _ = finished
    monkeypatch.chdir(folder.parents[1])
    run(*TINY, "--data.root", str(videos), "--max_steps", "1", "--watch_every", "0")
    assert (folder.with_name("smoke-2") / "metrics.json").is_file()
