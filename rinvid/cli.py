"""The command ``rinvid``. Heavy imports wait until a command needs them, so that --help is quick."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rinvid.data.commands import add_data_commands


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script; bad input ends in one line and exit status 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rinvid", description="Image and video diffusion with RIN.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sample = commands.add_parser(
        "sample",
        help="predict videos with a saved pipeline",
        description="Predict the frames that follow the first ones of each clip, and show them beside the truth.",
        epilog="examples:\n  rinvid sample\n  rinvid sample runs/digits/pipeline --root my/videos --out predictions",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sample.add_argument(
        "pipeline", nargs="?", help="folder or hub id; without it, the small one that comes with rinvid"
    )
    sample.add_argument("--root", type=Path, help="folder of videos (default: the embedded moving digits)")
    sample.add_argument("--out", type=Path, default=Path("samples"), help="folder to write (default: %(default)s)")
    sample.add_argument("--clips", type=int, default=8, metavar="N", help="how many clips (default: %(default)s)")
    sample.add_argument("--steps", type=int, default=50, metavar="N", help="sampling steps (default: %(default)s)")
    sample.add_argument("--stride", type=int, default=1, metavar="N", help="distance between frames (default: 1)")
    sample.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise (default: %(default)s)")
    sample.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
    sample.set_defaults(run=_sample)

    add_data_commands(commands)

    convert = commands.add_parser(
        "convert",
        help="turn the authors' weights into a RINModel",
        description="Turn weights of the authors' TensorFlow code into a folder for RINModel.from_pretrained.",
        epilog="examples:\n  rinvid convert weights.npz model\n  rinvid convert checkpoint/ model --meta options.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument(
        "source", type=Path, help="npz file with arrays weights/NAME and meta, or TensorFlow checkpoint folder"
    )
    convert.add_argument("out", type=Path, help="folder to make")
    convert.add_argument(
        "--meta", type=Path, help="JSON file of the reference's options, which a checkpoint folder needs"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    convert.set_defaults(run=_convert)

    plugins = commands.add_parser(
        "plugins", help="list all registered parts", description="List all registered parts by group."
    )
    plugins.set_defaults(run=_plugins)
    presets = commands.add_parser(
        "presets",
        help="list the published networks",
        description="List the published networks as a Markdown table: our counts of parameters and GFLOPs, and theirs.",
    )
    presets.set_defaults(run=_presets)
    return parser


def _sample(options: argparse.Namespace) -> None:
    target: Path = options.out / "samples.gif"
    if target.exists() and not options.overwrite:
        raise ValueError(f"{target} exists; choose another folder with --out, or replace it with --overwrite")
    for name in ("clips", "steps", "stride"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}")

    import torch

    from rinvid.data.clips import VideoClips
    from rinvid.data.digits import digits_root
    from rinvid.data.loader import held_out
    from rinvid.data.videos import open_videos
    from rinvid.evaluation import predict_clips, score_clips
    from rinvid.pipelines.video import RINVideoPipeline
    from rinvid.pretrained import pretrained_folder
    from rinvid.report import print_scores, save_comparison

    source = options.pipeline or pretrained_folder("digits")
    if not Path(source).is_dir() and str(source).count("/") != 1:
        raise FileNotFoundError(f"{source}: no such folder of a pipeline, nor a hub id (owner/name)")
    pipeline = RINVideoPipeline.from_pretrained(source).to("cuda" if torch.cuda.is_available() else "cpu")
    config = pipeline.model.config
    root = options.root or digits_root()
    videos = open_videos(root, config.num_frames, pipeline.model.frame_size[0], options.stride)
    truth, labels, _ = held_out(VideoClips(videos.parts["val"], config.num_frames), options.clips)
    options.out.mkdir(parents=True, exist_ok=True)
    known = labels if config.num_classes else None
    predicted = predict_clips(pipeline, truth, options.steps, options.seed, labels=known)
    save_comparison(truth, predicted, config.context_frames, len(truth), options.out)
    print_scores(score_clips(truth, predicted, config.context_frames), len(truth))
    print(f"wrote {options.out / 'samples.gif'} and {options.out / 'samples.mp4'}")


def _convert(options: argparse.Namespace) -> None:
    if options.out.exists() and not (options.overwrite and options.out.is_dir()):
        raise ValueError(f"{options.out} exists; choose another folder, or replace a folder with --overwrite")

    from rinvid.convert import from_reference, read_arrays, read_checkpoint, read_meta
    from rinvid.data.home import whole_folder

    if options.source.is_dir():
        if options.meta is None:
            raise ValueError(f"{options.source} is a folder: a TensorFlow checkpoint needs its options, --meta FILE")
        meta = read_meta(options.meta)
        weights = read_checkpoint(options.source)
    else:
        weights, meta = read_arrays(options.source)
        meta = read_meta(options.meta) if options.meta else meta
        if not (weights and meta):
            raise ValueError(f"{options.source}: no arrays weights/NAME, or neither meta in it nor --meta FILE")
    model = from_reference(weights, meta)
    with whole_folder(options.out, replace=options.overwrite) as temporary:
        model.save_pretrained(temporary)
    print(f"wrote {options.out}: {len(weights)} arrays, {sum(p.numel() for p in model.parameters()):,} parameters")


def _plugins(options: argparse.Namespace) -> None:
    from rinvid import registry

    groups = ("tokenizers", "schedules", "schedulers", "backbones", "datasets", "extractors")
    for group in groups:
        print(f"{group:<12} {', '.join(getattr(registry, group).names())}")


def _presets(options: argparse.Namespace) -> None:
    from rinvid.presets import table

    print(table())
