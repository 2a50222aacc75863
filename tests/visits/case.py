"""A run that ends with the stored visits, for the tests of prepare."""

from pathlib import Path

from ckd.config import Config
from ckd.run import Run
from testbed.rows import write_jsonl


class Case:
    """A run in a temporary folder: its files, its configuration, what was said."""

    def __init__(self, folder: Path, **found: list[dict]) -> None:
        self.folder = folder
        self.files = {name: write_jsonl(folder / f"{name}.json", given) for name, given in found.items()}
        self.root = str(folder / "artifacts")
        self.said: list[str] = []

    def config(self, seed=42, **data) -> Config:
        data = {"shard_rows": 7, **self.files, **data}
        return Config.model_validate({"run": {"artifacts": str(self.folder / "artifacts")}, "data": data, "seed": seed})

    def prepare(self, **changes):
        self.said = []
        return Run(self.config(**changes)).prepare(self.said.append)

    def heard(self, words: str) -> bool:
        return any(words in line for line in self.said)


def stored(cohort):
    return [visit for shard in cohort.shards for visit in cohort.read(shard).to_pylist()]


def splits_of(cohort, key):
    found = {}
    for visit in stored(cohort):
        found.setdefault(visit[key], set()).add(visit["split"])
    return found
