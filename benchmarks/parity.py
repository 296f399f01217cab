"""How far the library is from arrays recorded from the authors' implementation: the largest error of each kind.

    python -m benchmarks.parity

The tests in ``tests/`` hold these errors below their tolerances; this prints what they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rinvid.conditioning import guided
from rinvid.convert import rename
from rinvid.report import versions, write_text
from rinvid.schedules import Schedule
from rinvid.training import Lamb, diffusion_loss, learning_rate
from tests.helpers import (
    PARITY,
    channels_first,
    parity,
    reference_data,
    reference_model,
    reference_options,
    reference_schedule,
    relative_error,
)
from tests.schedulers.test_gamma import SAMPLERS, TRAJECTORIES, trajectory
from tests.training.test_optim import CURVES

RESULTS = Path(__file__).parent / "results" / "parity.json"


def names(kind: str) -> list[str]:
    return sorted(path.stem for path in PARITY.glob(f"{kind}_*.npz"))


def network(name: str) -> float:
    """Largest difference of prediction, latents and interface, without and with the latents of a pass before."""
    arrays, _ = parity(name)
    model, errors = reference_model(name), []
    inputs: dict[str, Any] = {"sample": channels_first(arrays["x"]), "gamma": arrays["gamma"]}
    if "cond" in arrays:
        inputs["class_labels"] = arrays["cond"].argmax(1)
    if "cond_frames" in arrays:
        inputs["context"] = channels_first(arrays["cond_frames"])
    previous = {"latents": arrays["latent_prev"], "interface": arrays.get("tape_prev")}
    for kind, carried in (("cold", {}), ("warm", previous)):
        with torch.no_grad():
            output = model(**inputs, **carried)
        expected = (channels_first(arrays[f"{kind}_out"]), arrays[f"{kind}_latent"], arrays[f"{kind}_tape"])
        found = (output.sample, output.latents, output.interface)
        errors += [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    return max(errors)


def objective(name: str) -> tuple[float, float]:
    """Relative error of the loss, and the largest of the recorded gradients (L2)."""
    arrays, meta = parity(name)
    model, (x0, conditions) = reference_model(name), reference_data(name)
    loss = diffusion_loss(
        model,
        x0,
        reference_schedule(meta["model"]["train_schedule"]),
        **reference_options(name),
        **conditions,
        loss_type={"eps": "epsilon", "x": "sample"}[meta["model"]["loss_type"]],
        t=arrays["train_t"],
        noise=channels_first(arrays["train_noise"]),
        self_cond_rate=meta["self_cond_rate"],
        self_cond_mask=arrays["train_selfcond_uniform"] > 1 - meta["self_cond_rate"],
    )
    loss.backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    recorded = [rename(key[5:], array) for key, array in arrays.items() if key.startswith("grad/")]
    return (
        abs(float(loss.detach()) / float(arrays["loss"]) - 1),
        max(relative_error(gradients[ours], expected) for ours, expected in recorded),
    )


def sampler(name: str, kind: str, guidance: float) -> float:
    """Relative L2 error of a whole trajectory's result."""
    result = trajectory(name, kind, guidance, guided).pred_original_sample
    return relative_error(result, channels_first(parity(name)[0][f"sample/{kind}/g{guidance:.0f}/out"]))


def schedules() -> float:
    arrays, _ = parity("schedules")
    made: dict[str, Schedule] = {key: reference_schedule(key) for key in arrays if key != "t"}
    return max(float((schedule(arrays["t"]) - arrays[key]).abs().max()) for key, schedule in made.items())


def lamb() -> float:
    """Largest difference of any parameter over twelve steps."""
    arrays, meta = parity("lamb_lr")
    options, errors = meta["lamb"], []
    parameters = {key[5:]: torch.nn.Parameter(a.clone()) for key, a in arrays.items() if key.startswith("init/")}
    kept = [key for key in parameters if any(part in key for part in options["no_decay_if_name_contains"])]
    groups = [
        {"params": [p for key, p in parameters.items() if key not in kept], "weight_decay": options["weight_decay"]},
        {"params": [parameters[key] for key in kept], "weight_decay": 0.0},
    ]
    optimizer = Lamb(groups, betas=(options["beta1"], options["beta2"]), eps=options["eps"])
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = float(arrays["lr/cosine@0.8_w5_t20"][step])
        for key, p in parameters.items():
            p.grad = arrays[f"grad/{step}/{key}"].clone()
        optimizer.step()
        errors += [float((p.detach() - arrays[f"param/{step}/{key}"]).abs().max()) for key, p in parameters.items()]
    return max(errors)


def learning_rates() -> float:
    """Largest difference over the base rate, of all curves."""
    errors = []
    for key, options in CURVES.items():
        recorded = parity("lamb_lr")[0][f"lr/{key}"]
        made = torch.tensor([learning_rate(step, **options) for step in range(len(recorded))])
        errors.append(float((made - recorded).abs().max()) / options["base"])
    return max(errors)


def main() -> None:
    rows = [("network", name, "absolute", network(name)) for name in [*names("image"), *names("video")]]
    for name in names("diffusion"):
        loss, gradient = objective(name)
        rows += [("loss", name, "relative", loss), ("gradients", name, "relative L2", gradient)]
    for name, guidance in TRAJECTORIES:
        rows += [
            ("samples", f"{name}, {kind}, guidance {guidance:.0f}", "relative L2", sampler(name, kind, guidance))
            for kind in SAMPLERS
        ]
    rows += [
        ("schedules", "12 curves", "absolute", schedules()),
        ("LAMB", "12 steps", "absolute", lamb()),
        ("learning rates", "5 curves", "of the base rate", learning_rates()),
    ]
    print("| what | recorded | error | largest |\n|---|---|---|---|")
    for kind, name, error, value in rows:
        print(f"| {kind} | {name} | {error} | {value:.1e} |")
    results = [{"what": kind, "recorded": name, "error": error, "largest": value} for kind, name, error, value in rows]
    write_text(RESULTS, json.dumps({"machine": versions(), "rows": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
