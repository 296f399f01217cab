"""The command line, as called from a shell."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rinvid
from rinvid.cli import main
from rinvid.data.encode import save_h264
from tests.helpers import PARITY, parity, reference_model


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


# -- the authors' weights


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that ends with status 2, in one line."""
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("name", ["image_selfcond_both", "diffusion_video_5to11"])
def test_convert_writes_a_folder_that_is_loaded_like_any_model(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "model"
    main(["convert", str(PARITY / f"{name}.npz"), str(out)])
    expected = reference_model(name)
    count = sum(parameter.numel() for parameter in expected.parameters())
    said = capsys.readouterr().out
    assert said.startswith(f"wrote {out}: ")
    assert f"{count:,} parameters" in said
    loaded = rinvid.RINModel.from_pretrained(out)
    weights = loaded.state_dict()
    assert weights.keys() == expected.state_dict().keys()
    assert all(torch.equal(weights[key], value) for key, value in expected.state_dict().items())
    assert {path.suffix for path in out.iterdir()} == {".json", ".safetensors"}
    assert [path.name for path in out.parent.iterdir()] == ["model"], "nothing temporary is left beside it"


def test_convert_replaces_a_folder_only_if_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    command = ["convert", str(PARITY / "image_encln.npz"), str(out)]
    assert f"{out} exists; choose another folder" in refused(command, capsys)
    assert contents(tmp_path) == {"model/notes.txt": b"mine"}
    main([*command, "--overwrite"])
    assert rinvid.RINModel.from_pretrained(out).config.xattn_enc_ln
    assert "notes.txt" not in contents(out)


def test_convert_keeps_the_folder_if_the_new_one_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    main(["convert", str(PARITY / "image_encln.npz"), str(out)])
    before = contents(tmp_path)
    refused(["convert", str(tmp_path / "nowhere.npz"), str(out), "--overwrite"], capsys)
    assert contents(tmp_path) == before


def test_convert_takes_other_options_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(PARITY / "image_class_latent.npz")
    _, meta = parity("image_class_latent")
    options = tmp_path / "options.json"
    options.write_text(json.dumps({**meta, "config": {**meta["config"], "time_scaling": 500.0}}))
    main(["convert", source, str(tmp_path / "model"), "--meta", str(options)])
    assert rinvid.RINModel.from_pretrained(tmp_path / "model").config.time_scaling == 500
    options.write_text("{")
    said = refused(["convert", source, str(tmp_path / "other"), "--meta", str(options)], capsys)
    assert "options.json: not JSON" in said
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere.npz", "nowhere.npz: no such file"),
        ("text.npz", "text.npz: not an npz file"),
        ("empty.npz", "no arrays weights/NAME"),
        ("checkpoint", "checkpoint is a folder: a TensorFlow checkpoint needs its options, --meta FILE"),
    ],
)
def test_convert_leaves_nothing_behind_where_it_fails(
    source: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez(tmp_path / "empty.npz", meta=json.dumps(parity("image_class_latent")[1]))
    (tmp_path / "checkpoint").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert said in refused(["convert", str(tmp_path / source), str(tmp_path / "out" / "model")], capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_convert_says_how_to_get_tensorflow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "options.json").write_text(json.dumps(parity("image_class_latent")[1]))
    (tmp_path / "checkpoint").mkdir()
    out = tmp_path / "model"
    command = ["convert", str(tmp_path / "checkpoint"), str(out), "--meta", str(tmp_path / "options.json")]
    assert "pip install 'rinvid[convert]'" in refused(command, capsys)
    assert not out.exists()


def test_plugins_lists_every_group_without_torch() -> None:
    code = "import sys; from rinvid.cli import main; main(['plugins']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    groups = [line.split()[0] for line in done.stdout.splitlines()]
    assert groups == ["tokenizers", "schedules", "schedulers", "backbones", "datasets", "extractors"]
    assert "sigmoid" in done.stdout
