"""What `ckd ingest` costs beside the least that any reader must do: a bare polars scan and group_by of the same tables.

Synthetic MIMIC-III-shaped CSV.gz tables (about 9 diagnoses, 20 prescriptions, 3 procedures a visit). Prints visits per
CPU second, wall and peak memory of both in the same run, each in a process of its own; then the same ingest killed
(SIGKILL) half-way and run again, compared byte by byte.

    python -m benchmarks.pipeline.ingest [--visits 100000 1000000] [--tables DIR]
"""

import argparse
import gzip
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import options

VISITS_PER_PATIENT = 4.29
CKD = (sys.executable, "-m", "jobs")
STAY = ("SUBJECT_ID", "ADMITTIME", "DISCHTIME", "DEATHTIME", "HOSPITAL_EXPIRE_FLAG")
NEEDED = {  # table -> key, columns that an ingest must read
    "ADMISSIONS": ("HADM_ID", (*STAY, "ADMISSION_TYPE", "INSURANCE", "ETHNICITY")),
    "PATIENTS": ("SUBJECT_ID", ("GENDER", "DOB")),
    "DIAGNOSES_ICD": ("HADM_ID", ("SEQ_NUM", "ICD9_CODE")),
    "PRESCRIPTIONS": ("HADM_ID", ("STARTDATE", "DRUG")),
    "PROCEDURES_ICD": ("HADM_ID", ("SEQ_NUM", "ICD9_CODE")),
}


@dataclass
class Cost:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    code: int

    def __add__(self, other: "Cost") -> "Cost":
        """One after the other; the exit code is the second's."""
        peak = max(self.peak_mib, other.peak_mib)
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, peak, other.code)

    def line(self, name: str, visits: int) -> str:
        """For a person."""
        return (
            f"{name:<28} {visits / self.cpu_s:>9,.0f} visits per CPU-second  CPU {self.cpu_s:>6.1f} s"
            f"  wall {self.wall_s:>6.1f} s  peak {self.peak_mib:>6,.0f} MiB"
        )


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__)
    parser.add_argument("--visits", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--tables", type=Path, help="keep the synthetic tables there and use them again")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.bare:
        bare(arguments.bare)
        return 0
    with tempfile.TemporaryDirectory() as root:
        for visits in arguments.visits:
            tables = (arguments.tables or Path(root)) / f"tables-{visits}"
            if not tables.exists():
                patients = str(round(visits / VISITS_PER_PATIENT))
                made = timed([*CKD, "synth", "--patients", patients, "--out", str(tables)])
                print(made.line("ckd synth", visits))
            count = admissions(tables)
            print(f"{count:,} admissions")
            measure(tables, Path(root) / str(visits), count)
    return 0


def bare(tables: Path) -> None:
    """Scan the needed columns and gather them by admission, with the streaming engine, which is the faster one here."""
    import polars as pl

    for table, (key, columns) in NEEDED.items():
        scan = pl.scan_csv(tables / f"{table}.csv.gz", infer_schema=False).select(key, *columns)
        print(table, scan.group_by(key).agg(pl.all()).collect(engine="streaming").height)


def timed(command: list[str], kill_when: Path | None = None, parts: int = 0) -> Cost:
    """Run one command; `kill_when`: SIGKILL it as soon as that cohort has `parts` assembled partitions."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while kill_when is not None and process.poll() is None:
        if len(list(kill_when.glob(".ckd-ingest-*/assembled-?????/artifact.json"))) >= parts:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    _, status, usage = os.wait4(process.pid, 0)
    return Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, status)


def measure(tables: Path, work: Path, visits: int) -> None:
    """Print the figures of one size. Raises SystemExit when a process ended otherwise than it should."""
    ingest = [*CKD, "ingest", "mimic3", str(tables), "--out"]
    peer = timed([sys.executable, "-m", "benchmarks.pipeline.ingest", "--bare", str(tables)])
    print(peer.line("bare scan + group_by", visits))
    whole, stopped = work / "whole" / "cohort", work / "stopped" / "cohort"
    cost = timed([*ingest, str(whole)])
    print(f"{cost.line('ckd ingest', visits)}  {peer.cpu_s / cost.cpu_s:.2f} x the bare scan (target 0.40)")
    parts = len(list(whole.glob("part-*.parquet")))
    half = max(parts // 2, 1)
    killed = timed([*ingest, str(stopped)], stopped, half)
    again = timed([*ingest, str(stopped)])
    same, both = content(whole) == content(stopped), killed + again
    print(f"{both.line(f'killed at {half} of {parts}, run again', visits)}  byte-equal: {same}")
    if killed.code != signal.SIGKILL or cost.code or again.code or peer.code:
        raise SystemExit(f"exit codes: bare {peer.code}, ingest {cost.code}, killed {killed.code}, again {again.code}")


def content(cohort: Path) -> dict[str, str]:
    """SHA-256 of everything that an ingest leaves."""
    files = (path for path in sorted(cohort.iterdir()) if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def admissions(tables: Path) -> int:
    """Rows of the admissions table."""
    with gzip.open(tables / "ADMISSIONS.csv.gz", "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) - 1


if __name__ == "__main__":
    raise SystemExit(main())
