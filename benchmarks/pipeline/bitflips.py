"""One random bit flipped in a file that a run wrote: who sees it?

Makes one tiny finished run, then per trial: a kind of file, one of its files and one of its bits, all from the seed;
`ckd verify` and the readers of the next stages are asked; the file is restored. Its time stays, as when a disk errs.
Seen: refused with an error that names the file or its folder. Harmless: read, and every value is what it was; verify
is held against all values of the file, whoever reads them. Anything else is a fault, and the exit code is 1.

    OMP_NUM_THREADS=1 python -m benchmarks.pipeline.bitflips [--trials 1000]     # 4 minutes; results/bitflips.json
"""

import hashlib
import io
import json
import os
import pickle
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.pipeline.finished import Finished, Kind, Read
from benchmarks.report import Report, options
from ckd.errors import CkdError
from ckd.store.jsonfile import SEAL

SEEN, HARMLESS, UNSEEN, UNNAMED, TRACEBACK = "seen", "harmless", "UNSEEN", "UNNAMED", "TRACEBACK"
FAULTS = (UNSEEN, UNNAMED, TRACEBACK)


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__, "bitflips.json")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    report = Report("pipeline.bitflips", argv, arguments.out)
    with tempfile.TemporaryDirectory() as place:
        finished = Finished.make(Path(place))
        kinds = finished.kinds()
        trials = Trials(finished, kinds, random.Random(arguments.seed))
        for _ in range(arguments.trials):
            trials.flip()
    report |= {"trials": arguments.trials, "seed": arguments.seed}
    report |= {"kinds": trials.table(), "faults": trials.faults}
    print("\n".join(_lines(report["kinds"])))
    return report.finish(not trials.faults)


class Trials:
    """What became of every flipped bit."""

    def __init__(self, finished: Finished, kinds: list[Kind], rng: random.Random) -> None:
        self.finished, self.kinds, self.rng = finished, kinds, rng
        finished.verify()
        self.values = {read: _digest(read()) for kind in kinds for read in kind.readers}
        self.found: dict[str, Counter[str]] = {kind.name: Counter() for kind in kinds}
        self.faults: list[dict[str, Any]] = []

    def flip(self) -> None:
        """One trial."""
        kind = self.rng.choice(self.kinds)
        path = self.rng.choice(kind.files)
        before, content = path.stat(), path.read_bytes()
        bit = self.rng.randrange(8 * len(content))
        place = {"file": str(path.relative_to(self.finished.place)), "bit": bit, "kind": kind.name}
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            _put(path, bytes(flipped), before)
            readers = [self._ask(read, path, self.values[read]) for read in kind.readers]
            verified = self._ask(self.finished.verify, path, _digest(None)) if kind.verified else ("", "")
        finally:
            _put(path, content, before)
        worst = max(readers, key=lambda answer: (answer[0] in FAULTS, answer[0] == SEEN), default=("", ""))
        if verified[0] == HARMLESS and (worst[0] == SEEN or values(path, flipped) != values(path, content)):
            verified = UNSEEN, ""
        self.found[kind.name].update(["trials", f"next stage: {worst[0]}"] if readers else ["trials"])
        self.found[kind.name].update([f"verify: {verified[0]}"] if kind.verified else [])
        if {worst[0], verified[0]} & {*FAULTS}:
            self.faults.append({**place, "verify": verified, "next stage": worst})
            print(f"fault: {self.faults[-1]}", flush=True)

    def table(self) -> dict[str, dict[str, int]]:
        """Kind -> how many trials, and how many of each answer; "all" sums them up."""
        total: Counter[str] = Counter()
        for counts in self.found.values():
            total.update(counts)
        return {name: dict(counts) for name, counts in {**self.found, "all": total}.items()}

    def _ask(self, read: Read, path: Path, value: str) -> tuple[str, str]:
        """What a reader makes of the flipped file, and its error."""
        try:
            return (HARMLESS if _digest(read()) == value else UNSEEN), ""
        except CkdError as error:
            named = str(path) in str(error) or f"{path.parent}:" in str(error) or f"{path.parent};" in str(error)
            return (SEEN if named else UNNAMED), str(error).splitlines()[-1]
        except Exception as error:  # noqa: BLE001  what would be a traceback is what is looked for
            return TRACEBACK, f"{type(error).__name__}: {error}"


def _put(path: Path, content: bytes, before: os.stat_result) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def values(path: Path, content: bytes | bytearray) -> Any:
    """All values in a part, or under the keys of a JSON file of ours; of other files the bytes."""
    if path.suffix == ".parquet":
        try:
            table = pq.ParquetFile(io.BytesIO(content)).read()
            return table.to_pydict(), table.schema.metadata[b"ckd"]
        except (OSError, pa.ArrowException, LookupError) as error:
            return type(error)
    if path.name in ("artifact.json", "calibration.json", "metrics.json") or path.name.endswith(".run.json"):
        try:
            value = json.loads(content)
            return {name: value.get(name) for name in json.loads(path.read_bytes()) if name != SEAL}
        except ValueError as error:
            return type(error)
    return bytes(content)


def _digest(value: Any) -> str:
    return hashlib.sha256(pickle.dumps(value)).hexdigest()


def _lines(kinds: dict[str, dict[str, int]]) -> list[str]:
    """The table, a line per kind."""
    width = max(map(len, kinds))
    return [f"{name:<{width}}  {', '.join(f'{k} {n}' for k, n in counts.items())}" for name, counts in kinds.items()]


if __name__ == "__main__":
    raise SystemExit(main())
