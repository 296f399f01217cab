"""The commands ``rinvid data scan`` and ``rinvid data prepare``. Heavy imports wait until they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_SCAN = """examples:
  rinvid data scan k600
  rinvid data scan k600 --out k600.parquet --list k600/annotations/val.csv
  accelerate launch recipes/kinetics600.py --data.root k600 --data.index k600.parquet"""
_PREPARE = """examples:
  rinvid data prepare k600 --out k600-64
  rinvid data prepare k600 --out k600-64 --num-shards 8 --shard-index 3     the fourth of eight machines
  accelerate launch recipes/kinetics600.py --data.root k600-64"""


def add_data_commands(commands: Any) -> None:
    """Add ``data`` with its subcommands to the subparsers of a command line."""
    data = commands.add_parser("data", help="scan folders of videos, make clip caches", description="Look after data.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_scan(actions)
    _add_prepare(actions)


def _add_scan(actions: Any) -> None:
    scan = actions.add_parser(
        "scan",
        help="find out which videos of a folder can be used",
        description="Decode every video below ROOT once, in processes that can be killed, and write an index: which are"
        " ok, short, broken, missing (listed, but no file) or extra (a file, but not listed). A scan that was stopped"
        " goes on where it was, and one that is repeated looks only at what has changed.",
        epilog=_SCAN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    scan.add_argument("root", type=Path, metavar="ROOT", help="folder of videos in any layout")
    scan.add_argument("--out", type=Path, metavar="FILE", help="the index, Parquet (default: where runs look for it)")
    scan.add_argument(
        "--list",
        type=Path,
        action="append",
        metavar="FILE",
        dest="lists",
        help="CSV or text list of the videos, repeatable (default: those that lie in ROOT or ROOT/annotations)",
    )
    scan.add_argument("--no-lists", action="store_true", help="do not look for lists: every file counts")
    scan.add_argument(
        "--min-frames", type=int, default=16, metavar="N", help="fewer frames count as short (default: %(default)s)"
    )
    scan.add_argument(
        "--timeout", type=float, default=30, metavar="S", help="seconds of silence (default: %(default)s)"
    )
    _add_common(scan)
    scan.set_defaults(run=_scan)


def _add_prepare(actions: Any) -> None:
    prepare = actions.add_parser(
        "prepare",
        help="decode videos once into a clip cache",
        description="Decode every video below ROOT once to small frames, in Arrow files that training reads without a"
        " decoder. Safe to stop and to repeat: finished files stay.",
        epilog=_PREPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prepare.add_argument("root", type=Path, metavar="ROOT", help="folder of videos in any layout")
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the clip cache")
    prepare.add_argument("--index", type=Path, metavar="FILE", help="what rinvid data scan found (default: scan)")
    prepare.add_argument("--size", type=int, default=64, metavar="N", help="side in pixels (default: %(default)s)")
    prepare.add_argument("--resize", choices=("crop", "stretch"), default="crop", help="(default: %(default)s)")
    prepare.add_argument("--fps", type=float, metavar="N", help="frames a second to keep (default: all)")
    prepare.add_argument(
        "--max-frames", type=int, default=300, metavar="N", help="frames of a video to keep (default: %(default)s)"
    )
    prepare.add_argument("--num-shards", type=int, default=1, metavar="N", help="machines or processes that share this")
    prepare.add_argument("--shard-index", type=int, default=0, metavar="I", help="which share this is, from 0")
    _add_common(prepare)
    prepare.set_defaults(run=_prepare)


def _add_common(parser: Any) -> None:
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--backend", choices=("auto", "pyav", "decord"), default="auto", help="(default: %(default)s)")


def _scan(options: argparse.Namespace) -> None:
    from rinvid.data.decode import choose_backend
    from rinvid.data.scan import remembered, scan, summary

    lists = [] if options.no_lists else options.lists
    print(f"reading {options.root} with {choose_backend(options.backend)}")
    index = scan(
        options.root, options.out, lists, options.min_frames, options.backend, options.workers, options.timeout
    )
    print(summary(index))
    print(f"wrote {options.out or remembered(options.root)}")


def _prepare(options: argparse.Namespace) -> None:
    from rinvid.data.cache import CacheSettings, open_cache
    from rinvid.data.index import VideoIndex
    from rinvid.data.prepare import prepare
    from rinvid.data.scan import cores, scan

    settings = CacheSettings(options.size, options.resize, options.fps, options.max_frames)
    workers = cores() if options.workers is None else options.workers
    if options.index:
        index = VideoIndex.load(options.index, options.root)
    else:
        index = scan(options.root, backend=options.backend, workers=options.workers)
    finished = prepare(index, options.out, settings, options.num_shards, options.shard_index, workers, options.backend)
    if not finished:
        print(
            f"share {options.shard_index} of {options.num_shards} is done; the last one to finish completes the cache"
        )
        return
    manifest = open_cache(options.out).manifest
    counts = ", ".join(f"{count:,} {split}" for split, count in manifest["videos"].items())
    left_out = f", {len(manifest['left_out'])} left out" if manifest["left_out"] else ""
    print(f"wrote {options.out}: {counts} videos, {manifest['frames']:,} frames{left_out}")
