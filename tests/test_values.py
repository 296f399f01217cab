"""When the values of a tensor are looked at, and what is refused then."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rinvid.values import readable, require_finite, require_labels, require_range

NAN, INF = float("nan"), float("inf")
# Each check with a tensor that it refuses where it may look.
CHECKS: dict[str, tuple[Callable[[Tensor], None], Tensor]] = {
    "finite": (lambda x: require_finite("x", x), torch.tensor([0.0, NAN])),
    "range": (lambda x: require_range("x", x), torch.tensor([0.0, 2.0])),
    "labels": (lambda x: require_labels(x, 3), torch.tensor([0, 3])),
}


def test_values_on_the_cpu_may_be_read_and_others_not() -> None:
    assert readable(torch.zeros(2))
    assert not readable(torch.zeros(2, device="meta"))


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_read_elsewhere(check: str) -> None:
    require, bad = CHECKS[check]
    with pytest.raises(ValueError, match=r"got|holds"):
        require(bad)
    require(bad.to("meta"))


@pytest.mark.parametrize("check", CHECKS)
def test_a_compiled_graph_checks_without_breaking(check: str) -> None:
    require, bad = CHECKS[check]

    def function(x: Tensor) -> Tensor:
        require(x)
        return x + x

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager")  # to read would break the graph
    good = torch.zeros_like(bad)
    assert torch.equal(compiled(good), good)
    with pytest.raises(RuntimeError, match=r"finite|must be"):
        compiled(bad)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, NAN, 2.0, NAN], "frames holds 2 values that are not finite, such as nan"),
        ([[0.0, -INF]], "frames holds 1 values that are not finite, such as -inf"),
        (INF, "frames holds 1 values that are not finite, such as inf"),
    ],
)
def test_values_that_are_not_finite_are_counted(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_finite("frames", torch.tensor(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_finite_values_pass(dtype: torch.dtype) -> None:
    require_finite("frames", torch.tensor([-3, 0, 60000]).to(dtype))
    require_finite("frames", torch.zeros(0, 3, dtype=dtype))


@pytest.mark.parametrize("values", [-1e-6, 1.001, NAN, INF, -INF, [0.5, 1.5], [[0.5], [NAN]]])
def test_values_out_of_range_are_named(values: object) -> None:
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\], got \S+"):
        require_range("gamma", torch.tensor(values))


@pytest.mark.parametrize("values", [0.0, 1.0, [0.0, 1.0], [[1e-9]], [], [0, 1]])
def test_values_in_range_pass(values: object) -> None:
    require_range("gamma", torch.tensor(values))


@pytest.mark.parametrize("labels", [[3], [-2], [0, 1, 10], [[0, -5]]])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_labels_out_of_range_are_named(labels: list[int], dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"whole numbers in \[0, 2\], or -1 for none, got \[.*(3|-2|10|-5)\]"):
        require_labels(torch.tensor(labels, dtype=dtype), 3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_labels_that_are_no_numbers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="class_labels must be whole numbers"):
        require_labels(torch.ones(2, dtype=dtype), 3)


def test_unsigned_labels_pass_where_they_are_in_range() -> None:
    require_labels(torch.tensor([0, 2], dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match=r"got \[0, 255\]"):
        require_labels(torch.tensor([0, 255], dtype=torch.uint8), 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8])
def test_labels_in_range_pass(dtype: torch.dtype) -> None:
    require_labels(torch.tensor([-1, 0, 2], dtype=dtype), 3)
    require_labels(torch.tensor([-1, 0], dtype=dtype), 1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_fractional_labels_are_refused_wherever_they_are(dtype: torch.dtype, device: str) -> None:
    with pytest.raises(ValueError, match=r"whole numbers in \[0, 2\].*got torch.float"):
        require_labels(torch.zeros(2, dtype=dtype, device=device), 3)
