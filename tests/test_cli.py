"""The command line, as called from a shell."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rinvid
from rinvid.cli import main
from rinvid.data.encode import save_h264


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of a tiny network."""
    model = rinvid.RINModel(
        sample_size=16,
        num_frames=8,
        context_frames=3,
        num_latents=8,
        latent_dim=32,
        interface_dim=32,
        num_layers=[1],
        latent_num_heads=2,
        rw_num_heads=2,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    rinvid.RINVideoPipeline(model, rinvid.GammaDDIMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path / "home"))
    root = tmp_path / "videos"
    root.mkdir()
    for number in range(2):
        clip = np.zeros((10, 32, 32, 3), np.uint8)
        for f in range(10):
            clip[f, :, 3 * f : 3 * f + 8] = 200 - 50 * number
        save_h264(clip, root / f"{number}.mp4", fps=8, crf=20)
    return root


def test_sample_predicts_a_folder_of_videos(
    pipeline: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["sample", str(pipeline), "--root", str(videos), "--out", str(out), "--steps", "2"]
    main(command)
    assert Image.open(out / "samples.gif").n_frames == 8
    assert "copy last frame" in capsys.readouterr().out

    before = (out / "samples.gif").read_bytes()
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert "samples.gif exists; choose another folder" in capsys.readouterr().err
    assert (out / "samples.gif").read_bytes() == before
    main([*command, "--overwrite"])
    assert (out / "samples.gif").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--root", "nowhere"], "nowhere: no such folder of videos"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--root", "{videos}", "--stride", "9"], "none of 2 videos can be used"),
    ],
)
def test_bad_input_ends_in_one_line(
    pipeline: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        main(["sample", str(pipeline), "--out", str(out), *(o.replace("{videos}", str(videos)) for o in options)])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_plugins_lists_every_group_without_torch() -> None:
    code = "import sys; from rinvid.cli import main; main(['plugins']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    groups = [line.split()[0] for line in done.stdout.splitlines()]
    assert groups == ["tokenizers", "schedules", "schedulers", "backbones", "datasets", "extractors"]
    assert "sigmoid" in done.stdout
