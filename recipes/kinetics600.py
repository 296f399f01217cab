"""Video prediction: 5 given frames, 11 predicted ones. Kinetics-600, any folder of videos, or the embedded digits.

accelerate launch recipes/kinetics600.py                                    moving digits, minutes on two cores
accelerate launch recipes/kinetics600.py --data.root DIR                    your own videos
accelerate launch recipes/kinetics600.py --preset kinetics600 --data.root DIR
accelerate launch recipes/kinetics600.py --help
"""

from typing import Any

from rinvid import presets
from rinvid.run import main

# A small RIN for 32x32 frames; docs/small-rin.md has the measurements behind each choice.
DIGITS: dict[str, Any] = {
    "model": {
        "sample_size": 32,
        "num_frames": 16,
        "context_frames": 5,
        "tokenizer": {"type": "patch3d", "patch_size": [2, 8, 8]},
        "num_latents": 32,
        "latent_dim": 128,
        "interface_dim": 128,
        "num_layers": [1, 1, 1, 1],
        "latent_num_heads": 4,
        "rw_num_heads": 4,
        "latent_mlp_ratio": 2,
        "interface_mlp_ratio": 2,
        "interface_position": "sin_cos_plus_learned",
        "temporal_position": True,
        "context_mode": "concat",
        "mixer_kernel": 3,
    },
    "diffusion": {
        "schedule": {"type": "cosine", "tau": 3.0},
        "prediction_type": "sample",
        "loss_type": "sample",
    },
    "optimizer": {"name": "muon", "lr": 3e-3, "warmup_steps": 100, "weight_decay": 0.1, "ema_decay": 0.995},
    "sampling": {"scheduler": {"type": "ddim", "schedule": {"type": "cosine"}}, "num_inference_steps": 20},
    "max_steps": 1000,
    "batch_size": 16,
}

PRESETS: dict[str, dict[str, Any]] = {
    "digits": DIGITS,
    # The same network for longer: its result is the pipeline that comes with the package.
    "digits-long": {
        **DIGITS,
        "optimizer": {**DIGITS["optimizer"], "ema_decay": 0.999},
        "max_steps": 6000,
    },
    "smoke": {
        **DIGITS,
        "data": {"source": {"type": "digits", "limit": 180}},
        "optimizer": {**DIGITS["optimizer"], "warmup_steps": 10, "ema_decay": 0.9},
        "sampling": {**DIGITS["sampling"], "num_inference_steps": 10},
        "evaluation": {"num_clips": 16, "num_examples": 6},
        "max_steps": 40,
        "watch_every": 20,
        "checkpoint_every": 20,
    },
    # The network of the RIN paper, section 4.3; at full length not yet measured here.
    "kinetics600": presets.PRESETS["kinetics600"].run(),
}

if __name__ == "__main__":
    main(PRESETS, default="digits")
