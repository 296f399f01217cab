"""Parts by name: discovery without imports, errors that help, plugins as separate distributions."""

import subprocess
import sys
from pathlib import Path

import pytest

from rinvid import registry
from rinvid.registry import Registry
from rinvid.schedules import Linear, Sigmoid

BUILT_IN = {
    "tokenizers": {"patch2d", "patch3d"},
    "schedules": {"cosine", "sigmoid", "linear", "log"},
    "schedulers": {"ddpm", "ddim"},
    "backbones": {"rin"},
    "datasets": {"digits"},
    "extractors": {"random3d"},
}


@pytest.fixture
def parts() -> Registry:
    """A registry of the schedules' group with nothing added by the running program."""
    return Registry("schedule", "rinvid.schedules")


def install(folder: Path, distribution: str, name: str, value: str) -> None:
    """Lay down a distribution's metadata with one schedule, as an installer would."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rinvid.schedules]\n{name} = {value}\n")


@pytest.mark.parametrize("kind", BUILT_IN)
def test_built_in_parts_are_found_and_import(kind: str) -> None:
    parts: Registry = getattr(registry, kind)
    assert set(parts.names()) >= BUILT_IN[kind]
    assert parts.names() == sorted(parts.names())
    for name in BUILT_IN[kind]:
        assert parts.name_of(parts.get(name)) == name


def test_names_import_no_part() -> None:
    code = (
        "import sys; from rinvid.registry import schedules, backbones; names = schedules.names() + backbones.names();"
        "assert {'cosine', 'rin'} <= set(names); assert not {'torch', 'rinvid.schedules'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("spec", ["sigmoid", {"type": "sigmoid"}])
def test_create_from_a_name_or_a_mapping(parts: Registry, spec: registry.Spec) -> None:
    assert parts.create(spec) == Sigmoid()
    assert parts.create(spec, tau=0.5) == Sigmoid(tau=0.5)


def test_parameters_win_over_the_mapping_which_stays_as_it_was(parts: Registry) -> None:
    spec = {"type": "sigmoid", "tau": 0.5, "end": 2.0}
    assert parts.create(spec, tau=0.7) == Sigmoid(tau=0.7, end=2.0)
    assert spec == {"type": "sigmoid", "tau": 0.5, "end": 2.0}


def test_an_unknown_name_lists_the_known_ones_and_where_plugins_go(parts: Registry) -> None:
    with pytest.raises(ValueError, match=r"'quartic'; known: cosine, linear, log, sigmoid.*rinvid\.schedules"):
        parts.create("quartic")


def test_an_unknown_parameter_lists_the_known_ones(parts: Registry) -> None:
    with pytest.raises(ValueError, match=r"'sigmoid'.*'beta'.*start, end, tau"):
        parts.create("sigmoid", beta=1)
    with pytest.raises(ValueError, match=r"'linear'.*parameters: none"):
        parts.create("linear", beta=1)


@pytest.mark.parametrize("spec", [{"tau": 0.9}, 3, None, ["sigmoid"]])
def test_a_spec_without_a_type_is_refused(parts: Registry, spec: object) -> None:
    with pytest.raises(TypeError, match="mapping with the key 'type'"):
        parts.create(spec)  # type: ignore[arg-type]


def test_register_adds_a_class_or_function_and_gives_it_back(parts: Registry) -> None:
    @parts.register("by_function")
    def make(size: int) -> list[int]:
        return [size]

    assert "by_function" in parts.names()
    assert parts.get("by_function") is make
    assert parts.create({"type": "by_function", "size": 3}) == [3]
    assert parts.name_of(make) == "by_function"


@pytest.mark.parametrize("name", ["linear", "mine"])
def test_a_taken_name_is_refused(parts: Registry, name: str) -> None:
    parts.register("mine")(Sigmoid)
    with pytest.raises(ValueError, match=f"'{name}' is already registered"):
        parts.register(name)(Linear)
    assert parts.get("mine") is Sigmoid


def test_a_part_that_is_not_registered_has_no_name(parts: Registry) -> None:
    with pytest.raises(ValueError, match="Registry is not registered as a schedule"):
        parts.name_of(Registry)


def test_an_installed_plugin_is_found_and_made(
    parts: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "steps-plugin", "steps", "steps_plugin_module:Steps")
    (tmp_path / "steps_plugin_module.py").write_text("class Steps:\n    def __init__(self, n=2):\n        self.n = n\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "steps" in parts.names()
    made = parts.create("steps", n=5)
    assert (type(made).__name__, made.n) == ("Steps", 5)


def test_a_plugin_that_cannot_be_imported_is_named(
    parts: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "torn-plugin", "torn", "module_that_is_not_there:Torn")
    monkeypatch.syspath_prepend(tmp_path)
    assert "torn" in parts.names()
    assert parts.create("linear") == Linear()
    with pytest.raises(ValueError, match=r"'torn' from torn-plugin .*cannot be imported.*module_that_is_not_there"):
        parts.get("torn")


@pytest.mark.parametrize(("second", "clash"), [("b:Curve", True), ("a:Curve", False)])
def test_one_name_from_two_distributions(
    parts: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str, clash: bool
) -> None:
    install(tmp_path, "first-plugin", "curve", "a:Curve")
    install(tmp_path, "second-plugin", "curve", second)
    monkeypatch.syspath_prepend(tmp_path)
    if clash:
        with pytest.raises(ValueError, match="'curve' is registered twice") as error:
            parts.names()
        assert all(origin in str(error.value) for origin in ("first-plugin (a:Curve)", "second-plugin (b:Curve)"))
    else:
        assert "curve" in parts.names()
