"""What goes wrong after hours, in minutes: memory over 2,000 clip reads, and hangs of partial decodes in workers.

python benchmarks/endurance.py
python benchmarks/endurance.py --videos DIR     on real files
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rinvid.data import read_clip
from rinvid.data.encode import call_with_pyav
from rinvid.report import versions

RESULTS = Path(__file__).parent / "results" / "endurance.json"
READS, PARTIAL, WORKERS, LIMIT_S = 2_000, 500, 4, 60


def growth(backend: str, folder: Path, reads: int) -> float:
    """MiB that this process grows by over so many reads of 16 frames, after the first hundred."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".mkv", ".avi"))
    before = 0.0
    for number in range(reads + 100):
        if number == 100:
            before = resident()
        read_clip(files[number % len(files)], number % 8, 16, backend=backend)  # type: ignore[arg-type]
    return resident() - before


def resident() -> float:
    """Memory of this process in MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def read_part(files: list[str], share: int) -> None:
    """Read the first frames of files and stop before their end, as training does."""
    if importlib.util.find_spec("torchvision"):
        import torchvision  # noqa: F401  (its mere import has made frame threads hang)
    for number in range(share, PARTIAL, WORKERS):
        read_clip(files[number % len(files)], number % 8, 8)


def partial_decodes(method: str, folder: Path) -> float:
    """Seconds that the workers take for all partial decodes; fails if they are not done in time."""
    files = sorted(str(path) for path in folder.rglob("*") if path.suffix in (".mp4", ".mkv", ".avi"))
    # A decoder that is loaded before a fork is the hard case.
    read_clip(files[0], 0, 8)
    context = multiprocessing.get_context(method)
    begin = time.perf_counter()
    workers = [context.Process(target=read_part, args=(files, share), daemon=True) for share in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0.0, LIMIT_S - (time.perf_counter() - begin)))
    failed = [worker.exitcode for worker in workers if worker.exitcode != 0]
    if failed:
        raise SystemExit(f"{method}: workers ended with {failed} after {LIMIT_S} s (None: hangs)")
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="folder of videos (default: digits that are made)")
    parser.add_argument("--growth", metavar="BACKEND", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.growth:
        print(growth(options.growth, options.videos, READS))
        return
    results: dict[str, object] = {"machine": versions()}
    with tempfile.TemporaryDirectory() as name:
        folder = options.videos or Path(name)
        if not options.videos:
            from rinvid.data.digits import write_digits

            call_with_pyav(write_digits, folder, 24)
        for backend in ("pyav", "decord"):
            command = [sys.executable, __file__, "--growth", backend, "--videos", str(folder)]
            grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
            print(f"{backend:<8} {grown:6.1f} MiB more after {READS} clips")
            results[f"growth_mib_{backend}"] = round(grown, 1)
        for method in ("fork", "spawn"):
            seconds = partial_decodes(method, folder)
            print(f"{method:<8} {PARTIAL} partial decodes in {WORKERS} workers: {seconds:.1f} s")
            results[f"partial_decodes_s_{method}"] = round(seconds, 1)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
