"""LAMB: the reference's steps, a slow implementation in float64, and what it is made of."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rinvid.models.layers import LayerNorm, Linear, Table
from rinvid.training import Lamb, parameter_groups
from rinvid.training.optim import Optimizers, create_optimizers
from tests.helpers import assert_close, parity

STEPS = range(12)
RATES = "lr/cosine@0.8_w5_t20"


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


# -- the reference


class Gain(nn.Module):
    """A gain that belongs to no layer."""

    no_decay = ("gamma",)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))


def module_tree(dense: nn.Module, norm: nn.Module, zero: nn.Module, gain: nn.Module) -> nn.ModuleDict:
    """Modules that hold the reference's seven parameters."""
    return nn.ModuleDict({"dense": dense, "ln": norm, "table": Table(3, 5), "gain": gain, "zero": zero})


TREES: dict[str, Callable[[], nn.ModuleDict]] = {
    "layers that say what they hold": lambda: module_tree(Linear(6, 5), LayerNorm(5), Linear(4, 4), Gain(5)),
    "layers that say nothing": lambda: module_tree(
        nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(4, 4, bias=False), nn.PReLU(5)
    ),
}


def reference_names(tree: nn.ModuleDict) -> dict[str, nn.Parameter]:
    (gain,) = tree["gain"].parameters()
    return {
        "dense/kernel": tree["dense"].weight,
        "dense/bias": tree["dense"].bias,
        "ln/gamma": tree["ln"].weight,
        "ln/beta": tree["ln"].bias,
        "latent_pos_emb/kernel/vis_pos_embedding": tree["table"].weight,
        "zero_init/gamma": gain,
        "zero/kernel": tree["zero"].weight,
    }


def follow_the_reference(optimizer: Lamb, parameters: dict[str, nn.Parameter]) -> None:
    """Start where the reference started and take its steps, comparing after each."""
    arrays, _ = parity("lamb_lr")

    def ours(name: str) -> Tensor:
        array = arrays[name]
        return array.T if name.endswith("dense/kernel") and len(parameters["dense/kernel"]) == 5 else array

    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(ours(f"init/{name}"))
    for step in STEPS:
        for group in optimizer.param_groups:
            group["lr"] = float(arrays[RATES][step])
        for name, p in parameters.items():
            p.grad = ours(f"grad/{step}/{name}").clone()
        optimizer.step()
        for name, p in parameters.items():
            assert_close(p.detach(), ours(f"param/{step}/{name}"), 1e-6)


def test_the_references_steps_with_groups_made_by_hand() -> None:
    arrays, meta = parity("lamb_lr")
    options = meta["lamb"]
    parameters = {name[5:]: nn.Parameter(array.clone()) for name, array in arrays.items() if name.startswith("init/")}
    assert len(parameters) == 7

    def plain(name: str) -> bool:
        return any(part in name for part in options["no_decay_if_name_contains"])

    groups = [
        {"params": [p for name, p in parameters.items() if not plain(name)], "weight_decay": options["weight_decay"]},
        {"params": [p for name, p in parameters.items() if plain(name)], "weight_decay": 0.0},
    ]
    lamb = Lamb(groups, betas=(options["beta1"], options["beta2"]), eps=options["eps"])
    follow_the_reference(lamb, parameters)


@pytest.mark.parametrize("kind", TREES)
def test_the_references_steps_with_groups_of_a_network(kind: str) -> None:
    tree = TREES[kind]()
    follow_the_reference(Lamb(parameter_groups(tree)), reference_names(tree))


def test_the_reference_would_tell_a_missing_ratio() -> None:
    tree = TREES["layers that say nothing"]()
    groups = [{**group, "trust_ratio": False} for group in parameter_groups(tree)]
    with pytest.raises(AssertionError, match="not close"):
        follow_the_reference(Lamb(groups), reference_names(tree))


def test_without_decay_groups_are_scaled_all_the_same() -> None:
    decayed, kept = parameter_groups(TREES["layers that say nothing"](), weight_decay=0.0)
    assert (decayed["trust_ratio"], kept["trust_ratio"]) == (True, False)


# -- the formula


def slow_lamb(
    p: list[float], gradients: list[list[float]], lr: float, betas: tuple[float, float], eps: float, decay: float
) -> list[float]:
    """The formula, number by number; scaled where decayed."""
    m, v = [0.0] * len(p), [0.0] * len(p)
    for step, gradient in enumerate(gradients, start=1):
        u = []
        for i, g in enumerate(gradient):
            m[i] = betas[0] * m[i] + (1 - betas[0]) * g
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g * g
            m_hat, v_hat = m[i] / (1 - betas[0] ** step), v[i] / (1 - betas[1] ** step)
            u.append(m_hat / (math.sqrt(v_hat) + eps) + decay * p[i])
        size, length = math.hypot(*p), math.hypot(*u)
        ratio = size / length if decay and size and length else 1.0
        p = [x - lr * ratio * d for x, d in zip(p, u, strict=True)]
    return p


def test_a_slow_implementation_agrees() -> None:
    settings: list[dict[str, Any]] = [
        {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
        {"lr": 0.03, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.5},
        {"lr": 0.1, "betas": (0.0, 0.95), "eps": 1e-6, "weight_decay": 0.0},
    ]
    shapes = [(4, 3), (5,), (2, 3, 2), (1, 1), ()]
    groups = [[parameter(*shape, seed=i) for i, shape in enumerate(shapes)] for _ in settings]
    starts = [[p.detach().flatten().tolist() for p in group] for group in groups]
    everything = [p for group in groups for p in group]
    gradients: list[list[list[float]]] = [[] for _ in everything]
    lamb = Lamb([{"params": group, **options} for group, options in zip(groups, settings, strict=True)])
    for step in range(10):
        give_gradients(everything, step)
        for kept, p in zip(gradients, everything, strict=True):
            assert p.grad is not None
            kept.append(p.grad.flatten().tolist())
        lamb.step()
    for i, (group, options) in enumerate(zip(groups, settings, strict=True)):
        for j, p in enumerate(group):
            expected = slow_lamb(
                starts[i][j],
                gradients[i * len(shapes) + j],
                options["lr"],
                options["betas"],
                options["eps"],
                options["weight_decay"],
            )
            assert_close(p.detach().flatten(), torch.tensor(expected, dtype=torch.float64), 1e-12)


def test_without_the_ratio_it_is_adamw() -> None:
    ours, theirs = ([parameter(4, 3), parameter(5, seed=1)] for _ in range(2))
    options: dict[str, Any] = {"lr": 0.05, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    lamb, adamw = Lamb(ours, trust_ratio=False, **options), torch.optim.AdamW(theirs, **options)
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        lamb.step()
        adamw.step()
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a.detach(), b.detach(), 1e-12)


@pytest.mark.parametrize(
    ("trust_ratio", "weight_decay", "scaled"),
    [(True, 0.1, True), (True, 0.0, True), (False, 0.1, False), (None, 0.1, True), (None, 0.0, False)],
)
def test_a_scaled_step_is_as_long_as_the_rate_times_the_tensor(
    trust_ratio: bool | None, weight_decay: float, scaled: bool
) -> None:
    p = parameter(4, 3)
    lamb = Lamb([p], lr=0.25, weight_decay=weight_decay, trust_ratio=trust_ratio)
    for step in range(3):
        before = p.detach().clone()
        give_gradients([p], step)
        lamb.step()
        length = float((p.detach() - before).norm() / before.norm())
        assert (length == pytest.approx(0.25, rel=1e-9)) == scaled


def test_the_ratio_is_by_tensor_and_has_no_bounds() -> None:
    sizes = [1e-6, 1.0, 1e6]
    parameters = [nn.Parameter(torch.full((3,), size, dtype=torch.float64)) for size in sizes]
    lamb = Lamb(parameters, lr=0.5, weight_decay=0.0, trust_ratio=True)
    for p in parameters:
        p.grad = torch.ones_like(p)
    lamb.step()
    for p, size in zip(parameters, sizes, strict=True):
        torch.testing.assert_close(p.detach(), torch.full_like(p, 0.5 * size), rtol=1e-6, atol=0)


def test_a_tensor_of_zeros_moves_as_under_adam() -> None:
    p = nn.Parameter(torch.zeros(3, 2))
    lamb = Lamb([p], lr=0.1, weight_decay=0.01, trust_ratio=True)
    p.grad = torch.full_like(p, 5.0)
    lamb.step()
    assert_close(p.detach(), torch.full_like(p, -0.1), 1e-6)


def test_an_update_of_zeros_moves_nothing() -> None:
    p = parameter(3, 2)
    before = p.detach().clone()
    lamb = Lamb([p], lr=0.1, weight_decay=0.0, trust_ratio=True)
    p.grad = torch.zeros_like(p)
    lamb.step()
    assert torch.equal(p, before)


# -- as an optimiser


def test_what_gets_no_gradient_is_left_alone_and_has_no_state() -> None:
    used, unused = parameter(3, 2), parameter(3, 2)
    lamb = Lamb([used, unused], lr=0.1)
    before = unused.detach().clone()
    lamb.step()
    assert not lamb.state
    give_gradients([used], 0)
    lamb.step()
    assert torch.equal(unused, before)
    assert set(lamb.state) == {used}


def test_steps_are_counted_by_parameter() -> None:
    early, late, alone = (parameter(3, 2, seed=seed) for seed in (0, 1, 1))
    together, separate = Lamb([early, late], lr=0.1), Lamb([alone], lr=0.1)
    for step in range(6):
        give_gradients([early], step)
        if step >= 3 and step != 4:
            give_gradients([late], step)
            give_gradients([alone], step)
        together.step()
        separate.step()
        together.zero_grad()
        separate.zero_grad()
    assert_close(late.detach(), alone.detach(), 1e-14)
    assert [int(together.state[p]["step"]) for p in (early, late)] == [6, 2]


def test_a_closure_computes_the_loss_with_gradients() -> None:
    p = parameter(3)
    lamb = Lamb([p], lr=0.1)
    before = p.detach().clone()

    def closure() -> float:
        lamb.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return float(loss.detach())

    assert lamb.step(closure) == pytest.approx(float(before.square().sum()))
    assert p.detach().norm() < before.norm()
    assert lamb.step() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "lr=-0.1"),
        ({"weight_decay": -0.01}, "weight_decay=-0.01"),
        ({"eps": 0.0}, "eps=0.0"),
        ({"eps": -1e-8}, "eps=-1e-08"),
        ({"betas": (1.0, 0.9)}, r"betas in \[0, 1\), got \(1.0, 0.9\)"),
        ({"betas": (0.9, -0.1)}, r"betas in \[0, 1\), got \(0.9, -0.1\)"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"LAMB needs .*{message}"):
        Lamb([parameter(2)], **options)


def test_saved_state_continues_bit_for_bit_where_steps_are_uneven() -> None:
    def start() -> tuple[list[nn.Parameter], Optimizers]:
        parameters = [parameter(3, 2), parameter(4, seed=1), parameter(2, 2, seed=2)]
        return parameters, Optimizers([Lamb([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=0.1)])

    def train(parameters: list[nn.Parameter], optimizers: Optimizers, steps: range) -> None:
        for step in steps:
            optimizers.zero_grad()
            give_gradients(parameters[: 1 + min(step, 1)], step)  # the second from the second step, the last never
            optimizers.step()

    parameters, optimizers = start()
    train(parameters, optimizers, range(2))
    weights = [p.detach().clone() for p in parameters]
    state = {name: tensor.clone() for name, tensor in optimizers.tensors().items()}
    assert set(state) == {f"0.{i}.{name}" for i in (0, 1) for name in ("step", "m", "v")}
    train(parameters, optimizers, range(2, 4))

    resumed, fresh = start()
    with torch.no_grad():
        for p, weight in zip(resumed, weights, strict=True):
            p.copy_(weight)
    fresh.load_tensors(state)
    train(resumed, fresh, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(parameters, resumed, strict=True))
    assert all(torch.equal(tensor, fresh.tensors()[name]) for name, tensor in optimizers.tensors().items())


def test_half_precision_follows_full_precision() -> None:
    full, half = parameter(16, 8), nn.Parameter(parameter(16, 8).detach().bfloat16())
    start = full.detach().clone()
    precise, coarse = Lamb([full], lr=0.1), Lamb([half], lr=0.1)
    for step in range(4):
        give_gradients([full], step)
        give_gradients([half], step)
        precise.step()
        coarse.step()
    assert half.dtype == coarse.state[half]["m"].dtype == torch.bfloat16
    assert (half.detach().double() - full.detach()).norm() < 0.05 * (full.detach() - start).norm()


def test_a_network_learns() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Linear(8, 32), LayerNorm(32), nn.GELU(), Linear(32, 1))
    x = torch.randn(64, 8)
    y = x[:, :1] * x[:, 1:2]
    optimizers = create_optimizers(model, "lamb", weight_decay=0.01)
    optimizers.set_lr(0.03)
    losses = []
    for _ in range(100):
        optimizers.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizers.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
