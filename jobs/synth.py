"""Job: write MIMIC-III-shaped tables of synthetic patients, any number."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ckd.config import Config
from ckd.errors import ConfigError
from ckd.store.filesystems import is_local
from jobs.arguments import positive
from jobs.console import Console


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd synth`."""
    patients = "number of patients; about 4.3 visits each"
    parser.add_argument("--patients", type=positive, required=True, metavar="N", help=patients)
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the generator (default 1)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the tables")


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Write the tables into the local folder --out. Raises ConfigError when it holds other tables."""
    from ckd.ehr.synthetic.tables import CHUNK, write_tables

    out, patients, seed = arguments.out, arguments.patients, arguments.seed
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
        f"synth: {', '.join(f'{count:,} {name}' for name, count in rows.items())} in {Path(out)}; "
        f"next: ckd ingest mimic3 {out} --out data/cohort"
    )
