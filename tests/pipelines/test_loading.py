"""A saved pipeline comes back whole, through every class and in every process, or not at all."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

import rinvid
from rinvid import GammaDDIMScheduler, GammaDDPMScheduler, RINImagePipeline, RINModel, RINVideoPipeline
from tests.helpers import randomised, small_model
from tests.pipelines.hub import cached, hub

ROOT = Path(__file__).parents[2]
WEIGHTS = Path("model", "diffusion_pytorch_model.safetensors")
OWN_CLASSES = {"image": RINImagePipeline, "video": RINVideoPipeline}
CONTEXT = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)

each_kind = pytest.mark.parametrize("kind", OWN_CLASSES)
each_loader = pytest.mark.parametrize("loader", ["own", "rinvid", "diffusers"])


def image_pipeline(scheduler: Any = None, kind: type[RINModel] = RINModel, **changes: Any) -> RINImagePipeline:
    images = {"num_frames": None, "context_frames": 0, "num_classes": 4}
    model = kind.from_config(small_model(**images | changes).config)
    default = GammaDDPMScheduler({"type": "sigmoid", "tau": 0.7}, "v_prediction", input_scale=0.7)
    return quiet(RINImagePipeline(randomised(model, 0.05), scheduler or default))


def video_pipeline() -> RINVideoPipeline:
    # Fixed codes and shares of context are not in the file: they are laid out anew.
    codes = {"interface_position": "sin_cos_plus_learned", "latent_position": "sin_cos", "context_embedding": True}
    scheduler = GammaDDIMScheduler({"type": "sigmoid"}, "v_prediction", time_difference=0.5)
    return quiet(RINVideoPipeline(randomised(small_model(**codes), 0.05), scheduler))


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: Any) -> Tensor:
    """Images or clips, in [0, 1]."""
    options = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    if isinstance(pipe, RINImagePipeline):
        return quiet(pipe)([1, 3], guidance_scale=1.0, **options).images
    return quiet(pipe)(CONTEXT, **options).frames


def load(loader: str, folder: str | Path, kind: str = "image", **options: Any) -> Any:
    classes = {"own": OWN_CLASSES[kind], "rinvid": rinvid.DiffusionPipeline, "diffusers": diffusers.DiffusionPipeline}
    pipe = classes[loader].from_pretrained(folder, **options)
    assert type(pipe) is OWN_CLASSES[kind]
    return pipe


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline of each kind, what it samples, and both as a hub's cache."""
    root = tmp_path_factory.mktemp("saved")
    for kind, pipe in (("image", image_pipeline()), ("video", video_pipeline())):
        pipe.save_pretrained(root / kind)
        np.save(root / f"{kind}.npy", sample(pipe).numpy())
        cached(root / "cache", root / kind, f"owner/{kind}")
    return root


def expected(saved: Path, kind: str) -> Tensor:
    return torch.from_numpy(np.load(saved / f"{kind}.npy"))


# -- what is saved


@each_kind
def test_the_index_names_every_part(saved: Path, kind: str) -> None:
    text = (saved / kind / "model_index.json").read_text()
    index = json.loads(text)
    assert index["_class_name"] == OWN_CLASSES[kind].__name__
    assert {name for name in index if not name.startswith("_")} == {"model", "scheduler"}
    assert "null" not in text
    assert {path.suffix for path in (saved / kind).rglob("*") if path.is_file()} == {".json", ".md", ".safetensors"}


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("image", ["images | 8x8", "classes | 4", "patch2d", "v_prediction", "GammaDDPMScheduler"]),
        ("video", ["7 frames of 8x8, 3 of them given", "classes | none", "patch3d", "v_prediction"]),
    ],
)
def test_the_card_tells_what_the_pipeline_is(saved: Path, kind: str, facts: list[str]) -> None:
    _, front, card = (saved / kind / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "diffusers"
    parameters = sum(tensor.numel() for tensor in load_file(saved / kind / WEIGHTS).values())
    facts = [*facts, OWN_CLASSES[kind].__name__, f"{parameters / 1e6:.2f}M", "rinvid.DiffusionPipeline.from_pretrained"]
    assert [fact for fact in facts if fact not in card] == []


# -- loaded in the same process


@each_loader
@each_kind
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"low_cpu_mem_usage": False},
        {"low_cpu_mem_usage": True},
        {"device_map": "cpu"},
        {"torch_dtype": torch.float32, "use_safetensors": True},
    ],
    ids=str,
)
def test_every_class_loads_the_same_pipeline(saved: Path, kind: str, loader: str, options: dict[str, Any]) -> None:
    pipe = load(loader, saved / kind, kind, **options)
    assert not pipe.model.training
    assert torch.equal(sample(pipe), expected(saved, kind))


@each_loader
@each_kind
def test_parts_are_spread_over_devices(saved: Path, kind: str, loader: str) -> None:
    pipe = load(loader, saved / kind, kind, device_map="balanced")
    torch.testing.assert_close(sample(pipe).cpu(), expected(saved, kind), atol=1e-3, rtol=0)


@each_loader
@each_kind
@pytest.mark.parametrize("option", ["torch_dtype", "dtype"])
def test_half_precision(saved: Path, kind: str, loader: str, option: str) -> None:
    pipe = load(loader, saved / kind, kind, **{option: torch.bfloat16})
    assert {parameter.dtype for parameter in pipe.model.parameters()} == {torch.bfloat16}
    difference = (sample(pipe) - expected(saved, kind)).abs().mean()
    assert 0 < float(difference) < 0.05


@each_loader
def test_variants_lie_side_by_side(saved: Path, tmp_path: Path, loader: str) -> None:
    folder = shutil.copytree(saved / "image", tmp_path / "both")
    half = image_pipeline().to(torch.float16)
    half.save_pretrained(folder, variant="fp16")
    assert (folder / "model" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert torch.equal(sample(load(loader, folder)), expected(saved, "image"))
    pipe = load(loader, folder, variant="fp16", torch_dtype=torch.float16)
    state = pipe.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in half.model.state_dict().items())
    with pytest.raises(ValueError, match="variant=ema"):
        load(loader, folder, variant="ema")


@each_loader
def test_weights_in_several_files(saved: Path, tmp_path: Path, loader: str) -> None:
    image_pipeline().save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    assert torch.equal(sample(load(loader, tmp_path)), expected(saved, "image"))


@each_loader
@each_kind
def test_from_the_cache_of_a_hub(saved: Path, kind: str, loader: str) -> None:
    pipe = load(loader, f"owner/{kind}", kind, cache_dir=saved / "cache", local_files_only=True)
    assert torch.equal(sample(pipe), expected(saved, kind))


def test_parts_alone(saved: Path) -> None:
    for place, options in (
        (saved / "image", {}),
        ("owner/image", {"cache_dir": saved / "cache", "local_files_only": True}),
    ):
        model = RINModel.from_pretrained(place, subfolder="model", **options)
        scheduler = GammaDDPMScheduler.from_pretrained(place, subfolder="scheduler", **options)
        assert torch.equal(sample(RINImagePipeline(model, scheduler)), expected(saved, "image"))


@each_loader
def test_a_part_may_be_given(saved: Path, loader: str) -> None:
    model, scheduler = small_model(num_frames=None, context_frames=0, num_classes=4), GammaDDIMScheduler()
    pipe = load(loader, saved / "image", model=model, scheduler=scheduler)
    assert pipe.model is model
    assert pipe.scheduler is scheduler


@each_loader
@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_schedulers_of_diffusers(tmp_path: Path, name: str, loader: str) -> None:
    pipe = image_pipeline()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    images = sample(pipe)
    pipe.save_pretrained(tmp_path)
    again = load(loader, tmp_path)
    assert type(again.scheduler).__name__ == name
    assert torch.equal(sample(again), images)


@each_loader
def test_a_compiled_model_is_saved_as_itself(saved: Path, tmp_path: Path, loader: str) -> None:
    pipe = image_pipeline()
    pipe.model = torch.compile(pipe.model, backend="eager")
    pipe.save_pretrained(tmp_path)
    assert torch.equal(sample(load(loader, tmp_path)), expected(saved, "image"))


# -- loaded in another process


def run(code: str, *arguments: object, **environment: str) -> None:
    """Run a program that fails unless it exits with 0, on one thread like this process."""
    done = subprocess.run(
        [sys.executable, "-c", f"import torch\ntorch.set_num_threads(1)\n{code}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr


LOAD = """
import sys
from pathlib import Path

name, root = sys.argv[1], Path(sys.argv[2])
from_hub = {"cache_dir": root / "cache", "local_files_only": True}
loaded = []
for kind, own in (("image", "RINImagePipeline"), ("video", "RINVideoPipeline")):
    for place, options in ((root / kind, {}), (f"owner/{kind}", from_hub)):
        module, loader = {"own": (rinvid, own)}.get(name, (globals().get(name), "DiffusionPipeline"))
        pipe = getattr(module, loader).from_pretrained(place, **options)
        assert type(pipe).__name__ == own and type(pipe.model) is rinvid.RINModel, type(pipe)
        loaded.append((kind, pipe))

from tests.pipelines.test_loading import expected, sample

for kind, pipe in loaded:
    assert torch.equal(sample(pipe), expected(root, kind)), kind
"""


@pytest.mark.parametrize("order", ["rinvid, diffusers", "diffusers, rinvid"])
@pytest.mark.parametrize(
    "loader", ["diffusers", pytest.param("rinvid", marks=pytest.mark.slow), pytest.param("own", marks=pytest.mark.slow)]
)
def test_another_process_samples_the_same(saved: Path, order: str, loader: str) -> None:
    run(f"import {order}\n{LOAD}", loader, saved)


LOAD_FROM_HUB = """
import sys
from pathlib import Path

import diffusers
import rinvid

root = Path(sys.argv[1])
loaders = (diffusers.DiffusionPipeline, rinvid.DiffusionPipeline, rinvid.RINImagePipeline)
loaded = [c.from_pretrained("owner/image", local_files_only=local) for local in (False, True) for c in loaders]

from tests.pipelines.test_loading import expected, sample

assert len({type(pipe) for pipe in loaded}) == 1
assert all(torch.equal(sample(pipe), expected(root, "image")) for pipe in loaded)
"""


@pytest.mark.slow
def test_from_a_hub(saved: Path, tmp_path: Path) -> None:
    with hub(saved / "image", "owner/image") as address:
        run(LOAD_FROM_HUB, saved, HF_ENDPOINT=address, HF_HOME=str(tmp_path))


# -- parts of plugins

PLUGIN = {
    "odd_schedule.py": """
from dataclasses import dataclass

from rinvid.schedules import Schedule


@dataclass(frozen=True)
class Poly(Schedule):
    power: float = 2.0

    def gamma(self, t):
        return (1 - t**self.power).clamp(1e-9, 1)
""",
    "odd_tokenizer.py": """
from rinvid.tokenizers.patch import Patch2D


class Mirrored(Patch2D):
    def encode(self, sample):
        return super().encode(sample.flip(-1))
""",
    "odd_scheduler.py": """
from rinvid.schedulers.gamma import GammaDDIMScheduler


class Damped(GammaDDIMScheduler):
    def step(self, *arguments, **options):
        result = super().step(*arguments, **options)
        result.prev_sample = result.prev_sample * 0.9
        return result
""",
    "odd_backbone.py": """
from rinvid.models.rin import RINModel


class Louder(RINModel):
    def forward(self, *arguments, **options):
        output = super().forward(*arguments, **options)
        output.sample = output.sample * 1.1
        return output
""",
    "odd_parts-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: odd-parts\nVersion: 1.0\n",
    "odd_parts-1.0.dist-info/entry_points.txt": """
[rinvid.schedules]
poly = odd_schedule:Poly
[rinvid.tokenizers]
mirrored = odd_tokenizer:Mirrored
[rinvid.schedulers]
damped = odd_scheduler:Damped
[rinvid.backbones]
louder = odd_backbone:Louder
""",
}

REGISTER = """
from dataclasses import dataclass

import rinvid
from rinvid.registry import schedules


@schedules.register("mine")
@dataclass(frozen=True)
class Mine(rinvid.Schedule):
    def gamma(self, t):
        return (1 - t).sqrt().clamp(1e-9, 1)
"""

SAVE_PARTS = """
import sys
from pathlib import Path

import numpy as np
from rinvid import GammaDDIMScheduler
from rinvid.registry import backbones, schedulers
from tests.pipelines.test_loading import image_pipeline, sample

root = Path(sys.argv[1])
pipes = {
    "scheduler": image_pipeline(schedulers.create("damped", prediction_type="v_prediction")),
    "tokenizer": image_pipeline(tokenizer={"type": "mirrored"}),
    "schedule": image_pipeline(GammaDDIMScheduler({"type": "poly", "power": 1.5}, "v_prediction")),
    "backbone": image_pipeline(kind=backbones.get("louder")),
    "program": image_pipeline(GammaDDIMScheduler("mine", "v_prediction")),
}
for name, pipe in pipes.items():
    pipe.save_pretrained(root / name)
    np.save(root / f"{name}.npy", sample(pipe).numpy())
without = pipes["schedule"]
without.scheduler = GammaDDIMScheduler(prediction_type="v_prediction")
without.save_pretrained(root / "without")
np.save(root / "without.npy", sample(without).numpy())
"""

LOAD_PARTS = """
import json
import sys
from pathlib import Path

import rinvid

# The classes of components first, which nothing has imported yet.
root, pipes, outcome = Path(sys.argv[1]), {}, {}
for name in ("scheduler", "backbone", "tokenizer", "schedule", "program"):
    try:
        pipes[name] = rinvid.DiffusionPipeline.from_pretrained(root / name)
    except Exception as error:
        outcome[name] = repr(error)

from tests.pipelines.test_loading import expected, sample

for name, pipe in pipes.items():
    outcome[name] = "the same" if torch.equal(sample(pipe), expected(root, name)) else "other images"
(root / "outcome.json").write_text(json.dumps(outcome))
"""


@pytest.fixture(scope="module")
def with_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plugin, and pipelines that a process with that plugin saved."""
    root = tmp_path_factory.mktemp("parts")
    for name, text in PLUGIN.items():
        path = root / "plugin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run(REGISTER + SAVE_PARTS, root, PYTHONPATH=str(root / "plugin"))
    return root


@pytest.fixture(scope="module")
def loaded_parts(with_parts: Path) -> dict[str, str]:
    """What came of each of those pipelines in another process with the plugin."""
    run(REGISTER + LOAD_PARTS, with_parts, PYTHONPATH=str(with_parts / "plugin"))
    return json.loads((with_parts / "outcome.json").read_text())


@pytest.mark.parametrize("part", ["schedule", "tokenizer", "program", "scheduler", "backbone"])
def test_parts_of_plugins_are_loaded_where_they_are_installed(loaded_parts: dict[str, str], part: str) -> None:
    assert loaded_parts[part] == "the same"


@each_loader
@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("schedule", "schedule 'poly' of odd-parts 1.0, which is not installed: pip install odd-parts"),
        ("tokenizer", "tokenizer 'mirrored' of odd-parts 1.0, which is not installed: pip install odd-parts"),
        ("scheduler", "scheduler 'damped' of odd-parts 1.0, which is not installed: pip install odd-parts"),
        ("backbone", "backbone 'louder' of odd-parts 1.0, which is not installed: pip install odd-parts"),
        ("program", "schedule 'mine' of the program that saved it"),
    ],
)
def test_parts_that_are_not_installed_are_asked_for(with_parts: Path, loader: str, part: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(loader, with_parts / part)


def test_a_part_of_a_program_cannot_be_installed(with_parts: Path) -> None:
    with pytest.raises(ValueError, match="schedule 'mine'") as error:
        load("own", with_parts / "program")
    assert "pip install" not in str(error.value)


def test_a_pipeline_is_saved_without_the_part_that_was_taken_out(with_parts: Path) -> None:
    assert torch.equal(sample(load("own", with_parts / "without")), expected(with_parts, "without"))


# -- no code of a checkpoint is run


def index_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model_index.json").read_text())


def change(name: str, **changes: Any) -> Callable[[Path], None]:
    """Set keys of a JSON file of a pipeline's folder."""

    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


PLANTS = {
    "root": ["pipeline.py", "RINImagePipeline.py", "rinvid.py", "__init__.py", "diffusers.py"],
    "model": ["rinvid.models.rin.py", "rin.py", "RINModel.py", "model.py", "diffusers.py", "__init__.py"],
    "scheduler": ["rinvid.schedulers.gamma.py", "gamma.py", "GammaDDPMScheduler.py", "diffusers.py"],
}


@pytest.fixture
def planted(saved: Path, tmp_path: Path) -> tuple[Path, str]:
    """A copy of a pipeline, and code that leaves a mark beside it and defines all that could be asked of it."""
    code = f"from pathlib import Path\nPath({str(tmp_path / 'mark')!r}).touch()\nfrom rinvid import *\n"
    (tmp_path / "code.py").write_text(code)
    runpy.run_path(str(tmp_path / "code.py"))
    (tmp_path / "mark").unlink()  # so it would have been left
    return shutil.copytree(saved / "image", tmp_path / "image"), code


@each_loader
@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in PLANTS.items() for name in names])
def test_planted_code_is_not_run(planted: tuple[Path, str], loader: str, part: str, name: str) -> None:
    folder, code = planted
    place = folder if part == "root" else folder / part
    (place / name).write_text(code)
    try:
        load(loader, folder)
    except ValueError as error:
        assert "custom code" in str(error)  # noqa: PT017
        assert name in str(error)  # noqa: PT017
    assert not (folder.parent / "mark").exists()


@each_loader
@pytest.mark.parametrize("part", ["_class_name", "model", "scheduler"])
def test_an_index_that_names_planted_code_is_refused(planted: tuple[Path, str], loader: str, part: str) -> None:
    folder, code = planted
    own = {"_class_name": "RINImagePipeline", "model": "RINModel", "scheduler": "GammaDDPMScheduler"}[part]
    ((folder if part == "_class_name" else folder / part) / "planted.py").write_text(code)
    change("model_index.json", **{part: ["planted", own]})(folder)
    with pytest.raises(ValueError, match=r"contains custom code in planted\.py"):
        load(loader, folder)
    assert not (folder.parent / "mark").exists()


class Malicious:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@each_loader
def test_a_pickle_in_the_place_of_weights_is_not_run(planted: tuple[Path, str], loader: str) -> None:
    folder, _ = planted
    (folder / WEIGHTS).unlink()
    torch.save({"weight": Malicious(folder.parent / "mark")}, (folder / WEIGHTS).with_suffix(".bin"))
    with pytest.raises(OSError, match=r"diffusion_pytorch_model\.bin"):
        load(loader, folder)
    assert not (folder.parent / "mark").exists()


# -- whole or not at all

TENSOR = "output_norm.weight"


def tensors(edit: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """Change the saved weights of a pipeline's folder."""

    def rewrite(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        edit(weights)
        save_file(weights, folder / WEIGHTS)

    return rewrite


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing tensor": (tensors(lambda weights: weights.pop(TENSOR)), TENSOR),
    "extra tensor": (tensors(lambda weights: weights.update(odd=torch.zeros(3))), "'odd'"),
    "wrong shape": (tensors(lambda weights: weights.update({TENSOR: torch.zeros(3)})), TENSOR),
    "nan": (tensors(lambda weights: weights[TENSOR][-1:].fill_(torch.nan)), TENSOR),
    "infinity": (tensors(lambda weights: weights[TENSOR][:1].fill_(torch.inf)), TENSOR),
    "model's key": (change("model/config.json", num_latentz=6), "'num_latentz' .*RINModel; did you mean 'num_latents'"),
    "scheduler's key": (
        change("scheduler/scheduler_config.json", input_scal=0.5),
        "'input_scal' .*GammaDDPMScheduler; did you mean 'input_scale'",
    ),
    "index's key": (change("model_index.json", modell=["diffusers", "UNet2DModel"]), "'modell' .*RINImagePipeline"),
    "index's value": (change("model_index.json", speed=3), "'speed' .*RINImagePipeline"),
    "model's value": (change("model/config.json", self_cond="both"), "self_cond 'both'; known: none, latent"),
    "scheduler's value": (change("scheduler/scheduler_config.json", schedule="poly"), "unknown schedule 'poly'"),
}


@each_loader
@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(saved: Path, tmp_path: Path, loader: str, damage: str, low_cpu_mem_usage: bool) -> None:
    folder = shutil.copytree(saved / "image", tmp_path / "damaged")
    edit, message = DAMAGE[damage]
    edit(folder)
    with pytest.raises(ValueError, match=message):
        load(loader, folder, low_cpu_mem_usage=low_cpu_mem_usage)


@each_loader
@pytest.mark.parametrize("what", ["model/config.json", "scheduler/scheduler_config.json", str(WEIGHTS)])
def test_a_missing_file_is_named(saved: Path, tmp_path: Path, loader: str, what: str) -> None:
    folder = shutil.copytree(saved / "image", tmp_path / "incomplete")
    (folder / what).unlink()
    with pytest.raises(OSError, match=f"no file named {Path(what).stem}"):
        load(loader, folder)


@pytest.mark.parametrize(("folder", "kind"), [("image", "video"), ("video", "image")])
def test_a_pipeline_of_the_other_kind(saved: Path, folder: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"{OWN_CLASSES[kind].__name__} needs a model with"):
        load("own", saved / folder, kind)
