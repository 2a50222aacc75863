"""The golden set: proof that a refactor changes no stored value.

`make` runs one tree's commands on a small synthetic cohort and keeps what every file holds and what every command
says; `compare` names what differs between two trees. It imports nothing of the project, so it outlives moved modules.
`make` takes about 6 minutes on 2 cores, the demo 8 more.

    python benchmarks/pipeline/golden.py make --tree DIR --out FILE.json [--work DIR] [--workers 0,2] [--demo]
    python benchmarks/pipeline/golden.py compare OLD.json NEW.json [--allow FILE]
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.pipeline.golden_compare import compare, read_allowed
from benchmarks.pipeline.golden_models import make_models
from benchmarks.pipeline.golden_record import masked, record
from benchmarks.pipeline.golden_steps import Step, cohort, steps, write_inputs

_CODE = "import sys; from jobs.cli import main; sys.argv[0] = 'ckd'; sys.exit(main())"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_UNSTEADY = re.compile(r"s left$|^\[20\d\d-|^\s*$")  # progress every 10 s, what libraries log with a time
_OWN = re.compile(r"^(ckd|usage):? ")  # on standard error; the rest are warnings of libraries, which move as calls move


def make(tree: Path, out: Path, work: Path, workers: Sequence[int], *, demo: bool = False) -> int:
    """Run all commands of `tree` in an emptied `work`, write the set to `out`.

    Returns how many commands had another exit code than they should.
    """
    started = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_inputs(work)
    says: dict[str, Any] = {}
    unexpected = _run_all(tree, work, cohort(), says)
    make_models(work, work / "data" / "name_train.json")
    for count in workers:
        unexpected += _run_all(tree, work, steps(count, demo), says)
    content = {"files": record(work), "says": says}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    seconds = time.monotonic() - started
    counts = f"{len(content['files'])} files, {len(says)} commands, {unexpected} with an unexpected exit code"
    print(f"{out}: {counts}, {seconds:.0f} s")
    return unexpected


def _run_all(tree: Path, work: Path, wanted: Iterable[Step], says: dict[str, Any]) -> int:
    unexpected = 0
    for step in wanted:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _CODE, *step.words],
            cwd=work,
            env=_environment(tree, work),
            capture_output=True,
            text=True,
            check=False,
        )
        says[step.name] = {"code": done.returncode, "text": _steady(done.stdout, done.stderr, work)}
        print(f"{step.name}: exit code {done.returncode}, {time.monotonic() - started:.1f} s", flush=True)
        if done.returncode != step.code:
            unexpected += 1
            print(f"expected {step.code}:\n{(done.stdout + done.stderr)[-3000:]}", flush=True)
    return unexpected


def _environment(tree: Path, work: Path) -> dict[str, str]:
    """One thread, one hash seed, no hub, no GPU, no cluster, caches of its own: what else a value could depend on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CKD_"))}
    home = work / ".home"
    return {
        **kept,
        **dict.fromkeys(_THREADS, "1"),
        "PYTHONPATH": str(tree),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "XDG_CACHE_HOME": str(home / "cache"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "COLUMNS": "120",
    }


def _steady(out: str, err: str, work: Path) -> str:
    """The lines that two runs share: no times, no work folder, nothing twice in a row."""
    said = "\n".join([out, *(line for line in err.splitlines() if _OWN.search(line))])
    lines: list[str] = []
    for line in masked(said.replace(str(work), "<work>")).splitlines():
        if not _UNSTEADY.search(line) and lines[-1:] != [line]:
            lines.append(line)
    return "\n".join(lines)


def _compare(old: Path, new: Path, allow: Path | None) -> int:
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    found = compare(one, other, read_allowed(allow) if allow else {})
    print("\n".join(found.lines()))
    return 1 if found.differing else 0


def main() -> int:
    """Make or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="run a tree's commands, keep what they made")
    making.add_argument("--tree", type=Path, required=True, help="checkout whose code runs")
    making.add_argument("--out", type=Path, required=True, help="the set, JSON")
    making.add_argument(
        "--work", type=Path, default=Path("/tmp/ckd-golden"), help="emptied first; stays, for a closer look"
    )
    making.add_argument("--workers", default="0,2", help="numbers of workers, separated by commas")
    making.add_argument("--demo", action="store_true", help="also the whole `ckd demo`")
    comparing = commands.add_parser("compare", help="name what differs; exit code 1 when anything does")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument("--allow", type=Path, help="lines of `path-regex: reason`: differences on purpose")
    arguments = parser.parse_args()
    if arguments.command == "compare":
        return _compare(arguments.old, arguments.new, arguments.allow)
    counts = [int(count) for count in arguments.workers.split(",")]
    return (
        1
        if make(arguments.tree.resolve(), arguments.out, arguments.work.absolute(), counts, demo=arguments.demo)
        else 0
    )


if __name__ == "__main__":
    raise SystemExit(main())
