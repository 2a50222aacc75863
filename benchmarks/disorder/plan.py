"""Which mishap meets which command when, only from a seed; and the commands, in the order in which they are run."""

import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

KINDS = {
    "kill": "SIGKILL to the driver at one of its calls to the file system",
    "stop": "SIGSTOP there, while another driver of the same run works to its end; then SIGCONT",
    "two": "two drivers of the same run at once, the second a part of a run's time later",
    "bit": "one bit flipped in a finished file of the command, before the command that follows",
    "full": "a disk with room for a part of what the command writes",
}
PATIENTS = 40
RAY = 0.4  # share of the events with Ray, where a command can use it: each costs a minute or two
EMBEDDINGS = "/artifacts/embeddings"


@dataclass(frozen=True)
class Stage:
    """A command, where its own files lie, and which commands come before and after it."""

    name: str
    own: str  # a part of the paths of its files; "" for all that its command writes
    after: str  # the stage whose end it starts from
    then: str  # the command that reads its files
    ray: bool = False  # can run on Ray
    audit: str = "verify"  # the command that proves its files
    ends_as: str = ""  # the stage in whose files its command ends, where that is not itself

    @property
    def end(self) -> str:
        """The stage in whose files its command ends."""
        return self.ends_as or self.name

    def calls(self, ray: bool) -> str:
        """A part of the paths of the driver's calls that are struck; on Ray it leaves the files to workers."""
        return "" if ray else self.own


STAGES = {
    stage.name: stage
    for stage in (
        Stage("ingest", "/cohort", "", "prepare", ray=True, audit="ingest"),
        Stage("prepare", "/artifacts/visits", "ingest", "embed", ends_as="embed"),
        Stage("embed", EMBEDDINGS, "prepare", "head", ray=True),
        Stage("head", "/artifacts/head", "embed", "soft-labels"),
        Stage("soft-labels", "", "head", "student"),
        Stage("student", "", "soft-labels", "evaluate", ray=True),
        Stage("evaluate", "", "student", "report", ray=True),
        Stage("report", "", "evaluate", "report"),
        Stage("export", "", "report", "predict", audit="export"),
        Stage("predict", "", "export", "meds", ray=True, audit=""),
        Stage("meds", "", "predict", "", ray=True),
    )
}
MET = tuple(name for name in STAGES if name not in ("soft-labels", "meds"))  # by mishaps


@dataclass(frozen=True)
class Event:
    """One mishap: what meets which command, with Ray or without, and where (a share of whatever it falls on)."""

    number: int
    stage: str
    kind: str
    ray: bool
    at: float
    which: float  # which of the stage's files, where it falls on a file


def plan(seed: int, count: int) -> list[Event]:
    """`count` events: every kind in every stage before such a pair comes again; some with Ray."""
    rng = random.Random(seed)
    found: list[Event] = []
    while len(found) < count:
        pairs = [(stage, kind) for stage in MET for kind in KINDS]
        rng.shuffle(pairs)
        for stage, kind in pairs[: count - len(found)]:
            ray = STAGES[stage].ray and rng.random() < RAY
            found.append(Event(len(found) + 1, stage, kind, ray, rng.random(), rng.random()))
    return found


def make_inputs(inputs: Path) -> None:
    """Tables of synthetic patients, a tiny teacher and a tiny student; their tokenizers know the cohort's texts."""
    from benchmarks.pipeline.visits import make_teacher_base
    from ckd.ehr.synthetic.tables import write_tables
    from ckd.student.tiny import SMALLEST, make_student
    from jobs.cli import main as ckd

    write_tables(str(inputs / "tables"), PATIENTS, 7)
    if ckd(words("ingest", inputs, inputs, ray=False)):
        raise SystemExit("ckd ingest failed")
    texts = [text for part in sorted(inputs.glob("cohort/part-*")) for text in pq.read_table(part)["input"].to_pylist()]
    make_teacher_base(inputs / "teacher", texts)
    make_student(str(inputs / "student"), texts, 0, SMALLEST)


def words(stage: str, inputs: Path, work: Path, ray: bool) -> list[str]:
    """What is typed after `ckd`; all files that are written lie in `work`."""
    cohort, workers = str(work / "cohort"), 1 if ray else 0
    if stage == "ingest":
        more = ["ingest.partitions=3", "ingest.min_support=2", f"ingest.workers={workers}"]
        return ["ingest", "mimic3", str(inputs / "tables"), "--out", cohort, *more]
    if stage in ("predict", "meds"):
        more = ["--meds", str(work / "meds")] if stage == "meds" else []
        more += ["data.shard_rows=32", f"student.workers={workers}"]
        return ["predict", cohort, "--model", str(work / "export"), "--out", str(work / "predicted"), *more]
    command = {"prepare": "embed", "head": "train-head", "student": "train-student", "export": "export model"}
    out = ["--out", str(work / "export")] if stage == "export" else []
    return [*command.get(stage, stage).split(), *out, *_settings(inputs, work, workers)]


def _settings(inputs: Path, work: Path, workers: int) -> list[str]:
    run = ["run.name=d", f"run.results={work}/results", f"run.public_files={work}/public"]
    run += [f"run.shared_mounts=[{inputs.parent}]", f"data.train={work}/cohort", "data.shard_rows=16"]
    teacher = [f"teacher.base_model={inputs}/teacher/base", f"teacher.adapter={inputs}/teacher/adapter"]
    teacher += ["teacher.dtype=float32", "teacher.max_length=512", "head.folds=2", "head.epochs=2"]
    student = [f"student.base_model={inputs}/student", "student.max_length=32", "student.batch_size=16"]
    student += ["student.checkpoint_steps=3", "student.learning_rate=1e-3", "student.epochs=2"]
    student += ["student.dropout=0.0", "evaluation.resamples=100"]
    return [*run, *teacher, *student, f"teacher.workers={workers}", f"student.workers={workers}"]
