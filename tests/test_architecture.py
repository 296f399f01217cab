"""What the package loads, and which of its parts may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rinvid

PACKAGE = Path(rinvid.__file__).parent
# Sampling during training comes in as a callback, so neither of the last two needs the other.
FORBIDDEN = [
    ("rinvid", ("plugins", "recipes")),
    ("rinvid.models", ("rinvid.schedulers", "rinvid.pipelines", "rinvid.training")),
    ("rinvid.schedulers", ("rinvid.models",)),
    ("rinvid.metrics", ("rinvid.models",)),
    ("rinvid.pipelines", ("rinvid.training",)),
    ("rinvid.training", ("rinvid.pipelines",)),
]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """Every module that ``source`` imports anywhere, by its full name, lazy public names by where they live."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                anchor = parts[: len(parts) - node.level + is_package]
                base = ".".join([*anchor, *filter(None, [node.module])])
            found.add(base)
            for alias in node.names:
                lazy = rinvid._HOMES.get(alias.name) if base == "rinvid" else None
                found.add(lazy or f"{base}.{alias.name}")
    return found


def modules(package: str) -> dict[str, Path]:
    """Modules of a package or module of rinvid, by full name."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("rinvid", *path.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = path
    return {name: path for name, path in names.items() if within(name, package)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import rinvid.training.loop", "rinvid.training.loop"),
        ("from rinvid import training", "rinvid.training"),
        ("from rinvid.training import EMA", "rinvid.training"),
        ("def f():\n    from rinvid.training.ema import EMA", "rinvid.training.ema"),
        ("from rinvid import RINModel", "rinvid.models.rin"),
        ("from .layers import Linear", "rinvid.models.layers"),
        ("from . import layers", "rinvid.models.layers"),
        ("from ..training import ema", "rinvid.training.ema"),
        ("import recipes.kinetics600", "recipes.kinetics600"),
    ],
)
def test_imports_are_found_in_every_form(source: str, expected: str) -> None:
    assert expected in imported(source, "rinvid.models.rin")


def test_relative_imports_of_a_package_start_at_itself() -> None:
    assert "rinvid.models.layers" in imported("from . import layers", "rinvid.models", is_package=True)


@pytest.mark.parametrize(("package", "never"), FORBIDDEN)
def test_directions(package: str, never: tuple[str, ...]) -> None:
    sources = modules(package)
    assert len(sources) > 1, "the package has moved; this test looks at nothing"
    wrong = {
        f"{name} imports {target}"
        for name, path in sources.items()
        for target in imported(path.read_text(), name, is_package=path.name == "__init__.py")
        if any(within(target, package) for package in never)
    }
    assert wrong == set()


@pytest.mark.parametrize(
    "code", ["import rinvid", "import rinvid; dir(rinvid); from rinvid.registry import schedules; schedules.names()"]
)
def test_importing_the_package_loads_no_decoder_plotter_or_tracker(code: str) -> None:
    heavy = {"av", "decord", "matplotlib", "tensorboard", "torch.utils.tensorboard", "wandb"}
    check = f"{code}\nimport sys\nloaded = {heavy!r} & set(sys.modules)\nassert not loaded, loaded"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_every_public_name_is_where_the_package_says() -> None:
    assert set(rinvid.__all__) == set(rinvid._HOMES)
    for name in rinvid.__all__:
        assert getattr(rinvid, name).__module__ == rinvid._HOMES[name]
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = rinvid.nothing
