"""Noise schedules: the reference's curves, specs, errors, number types."""

import math
from dataclasses import FrozenInstanceError, asdict, dataclass

import pytest
import torch
from torch import Tensor

from rinvid import registry
from rinvid.schedules import GAMMA_MIN, Cosine, Linear, Log, Schedule, Sigmoid, create_schedule
from tests.helpers import parity, reference_schedule

CURVES = [name for name in parity("schedules")[0] if name != "t"]

ALL = [
    Cosine(),
    Cosine(start=0.2),
    Cosine(end=0.8, tau=2.0),
    Cosine(tau=0.7),
    Sigmoid(),
    Sigmoid(0.0, 3.0, 0.3),
    Linear(),
    Log(),
    Log(1.0, 10.0, True),
]


@registry.schedules.register("power_for_tests")
@dataclass(frozen=True)
class Power(Schedule):
    """A schedule of the running program."""

    power: float = 2.0

    def gamma(self, t: Tensor) -> Tensor:
        return (1 - t**self.power).clamp(GAMMA_MIN, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CURVES)
def test_reference_curves(name: str, dtype: torch.dtype) -> None:
    arrays, _ = parity("schedules")
    gamma = reference_schedule(name)(arrays["t"].to(dtype))
    assert gamma.dtype == dtype
    torch.testing.assert_close(gamma, arrays[name].to(dtype), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("schedule", "at_quarter"),
    [
        (Cosine(start=0.0), math.cos(math.pi / 8) ** 2),
        (Cosine(end=0.5), 2 * math.cos(math.pi / 16) ** 2 - 1),
        (Cosine(tau=2.0), math.cos(math.pi / 8) ** 4),
        (Linear(), 0.75),
        (Log(1.0, 16.0), 1 - math.log(4.75) / math.log(16)),
        (Log(1.0, 16.0, reverse=True), math.log(12.25) / math.log(16)),
    ],
)
def test_values_worked_out_by_hand(schedule: Schedule, at_quarter: float) -> None:
    assert float(schedule(torch.tensor(0.25, dtype=torch.float64))) == pytest.approx(at_quarter, rel=1e-12)


@pytest.mark.parametrize("schedule", [*ALL, Power()], ids=repr)
def test_curves_fall_from_one_to_zero(schedule: Schedule) -> None:
    gamma = schedule(torch.linspace(0, 1, 201, dtype=torch.float64))
    assert gamma[0] == pytest.approx(1, abs=1e-6)
    assert gamma[-1] == pytest.approx(0, abs=1e-6)
    assert (gamma.diff() < 0).all()
    assert gamma.min() >= 0
    assert gamma.max() <= 1


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_only_the_logarithm_reaches_zero(schedule: Schedule) -> None:
    last = float(schedule(torch.ones(())))
    assert last == 0 if isinstance(schedule, Log) else 0 < last < 1e-6


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", [*ALL, Power()], ids=repr)
def test_shape_and_type_are_those_of_t(schedule: Schedule, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    gamma = schedule(torch.full(shape, 0.5, dtype=dtype))
    assert (gamma.shape, gamma.dtype) == (shape, dtype)


@pytest.mark.parametrize("t", [0.5, torch.tensor(1), torch.tensor(0.5, dtype=torch.float16), None])
def test_other_types_of_t_are_refused(t: object) -> None:
    with pytest.raises(TypeError, match="float32 or float64"):
        Linear()(t)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [*ALL, Power(3.0)], ids=repr)
def test_config_and_create_are_inverses(schedule: Schedule) -> None:
    config = schedule.config
    assert config["type"] in registry.schedules.names()
    assert create_schedule(config) == schedule
    assert {**asdict(schedule), "type": config["type"]} == config  # type: ignore[call-overload]


def test_create_by_name_spec_and_object() -> None:
    assert create_schedule("sigmoid", tau=0.5) == create_schedule({"type": "sigmoid", "tau": 0.5}) == Sigmoid(tau=0.5)
    assert create_schedule("power_for_tests", power=4.0)(torch.tensor(0.5)) == pytest.approx(1 - 0.5**4)
    schedule = Linear()
    assert create_schedule(schedule) is schedule


def test_schedules_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Sigmoid().tau = 1.0  # type: ignore[misc]


def test_errors_list_what_is_known() -> None:
    with pytest.raises(ValueError, match=r"'polynomial'; known: cosine, linear, log"):
        create_schedule("polynomial")
    with pytest.raises(ValueError, match=r"'cosine'.*'temperature'.*start, end, tau"):
        create_schedule("cosine", temperature=1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "cosine", "start": 0.5, "end": 0.5}, "0 <= start < end <= 1, got 0.5, 0.5"),
        ({"type": "cosine", "start": -0.1}, "got -0.1, 1.0"),
        ({"type": "cosine", "end": 1.5}, "got 0.0, 1.5"),
        ({"type": "cosine", "tau": 0.0}, "tau > 0, got 0.0"),
        ({"type": "sigmoid", "start": 3.0, "end": -3.0}, "start < end, got 3.0, -3.0"),
        ({"type": "sigmoid", "tau": -1.0}, "tau > 0, got -1.0"),
        ({"type": "log", "start": 0.0}, "0 < start < end, got 0.0, 100.0"),
        ({"type": "log", "start": 2.0, "end": 1.0}, "got 2.0, 1.0"),
    ],
)
def test_parameters_out_of_range_are_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_schedule(spec)


def test_a_registered_part_that_is_no_schedule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.schedules._parts, "no_schedule", lambda: {})
    with pytest.raises(TypeError, match=r"made a dict, not a rinvid\.schedules\.Schedule"):
        create_schedule("no_schedule")
