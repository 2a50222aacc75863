"""Job: MIMIC-III-shaped tables of the synthetic cohort, any size."""

import sys
from pathlib import Path

from ckd.errors import ConfigError
from ckd.store.filesystems import is_local
from jobs.cli import main
from jobs.console import Console


def run(out: str, patients: int, seed: int, console: Console) -> None:
    """Write the tables of `patients` synthetic patients into the local folder `out`. Raises ConfigError when it holds other tables."""
    from ckd.ehr.synthetic.tables import CHUNK, write_tables

    if not is_local(out):
        raise ConfigError(f"{out}: expected a folder on this machine; copy the tables from there")
    chunks = -(-patients // CHUNK)
    done = visits = 0

    def report(count: int) -> None:
        nonlocal done, visits
        done, visits = done + 1, visits + count
        if chunks > 1:
            console.say(f"synth: {min(done * CHUNK, patients):,}/{patients:,} patients, {visits:,} visits")

    rows = write_tables(out, patients, seed, report)
    console.say(
        f"synth: {', '.join(f'{count:,} {name}' for name, count in rows.items())} in {Path(out)}; next: ckd ingest mimic3 {out} --out data/cohort"
    )


if __name__ == "__main__":
    raise SystemExit(main(["synth", *sys.argv[1:]]))
