"""The commands of the golden set, in order, as a user would type them; every path is relative to the work folder.

What a tree's modules are called is not known here: only what can be typed, which a refactor keeps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pipeline.golden_models import ADAPTER, STUDENT, TEACHER

PATIENTS = 300  # about 1,400 visits: more than one shard of every split
CONFIG_FILE = "small.yaml"
BAD_FILE = "data/bad.json"
JSONL = ["data.train=data/name_train.json", "data.tuning=data/name_val.json"]
STAGES = ("embed", "train-head", "soft-labels", "train-student", "evaluate", "report")
HELP = (
    "",
    "run",
    "ingest",
    "synth",
    "export",
    "export jsonl",
    "export model",
    "predict",
    "serve",
    "submit",
    "plan",
    "doctor",
    "validate",
)
_CONFIG = f"""\
data: {{shard_rows: 256}}
teacher:
  {{base_model: {TEACHER}, adapter: {ADAPTER}, dtype: float32, store_dtype: float16, max_length: 220}}
head: {{folds: 3, epochs: 4}}
student:
  {{base_model: {STUDENT}, hard_weight: 0.5, max_length: 160, batch_size: 32, epochs: 2, learning_rate: 3e-3,
   checkpoint_steps: 20}}
evaluation: {{resamples: 100}}
seed: 42
"""
_BAD_ROWS = [
    '{"instruction": "x", "input": "The patient has Shock.", "output": "Disease that the patient may acquire: Shock"}',
    '{"instruction": "x", "input": "no output"}',
    '{"instruction": "x", "input": "", "output": "Disease that the patient may acquire: Measles"}',
    "{",
]


@dataclass(frozen=True)
class Step:
    """One command line and the exit code that it should have."""

    name: str
    words: Sequence[str]
    code: int = 0


def write_inputs(work: Path) -> None:
    """The configuration of all runs and a file with rows that cannot be used."""
    (work / "data").mkdir(parents=True, exist_ok=True)
    (work / CONFIG_FILE).write_text(_CONFIG, encoding="utf-8")
    (work / BAD_FILE).write_text("\n".join(_BAD_ROWS) + "\n", encoding="utf-8")


def cohort() -> Iterator[Step]:
    """Tables, cohort, public files; the models are made of these texts afterwards."""
    yield from (Step(f"help {name}".strip(), [*name.split(), "--help"]) for name in HELP)
    yield Step("synth", ["synth", "--patients", str(PATIENTS), "--seed", "7", "--out", "tables"])
    yield Step("ingest", ["ingest", "mimic3", "tables", "--out", "cohort"])
    yield Step(
        "ingest count",
        ["ingest", "mimic3", "tables", "--out", "cohort-count", "ingest.treatment=count", "ingest.partitions=3"],
    )
    yield Step("export jsonl", ["export", "jsonl", "cohort", "--out", "data"])
    yield Step("export jsonl share", ["export", "jsonl", "cohort", "--out", "data-share", "--adapter-share", ".5"])


def steps(workers: int, demo: bool = False) -> Iterator[Step]:
    """What follows at `workers`; everything that never starts a worker belongs to 0."""
    if workers:
        yield Step(
            f"ingest w{workers}",
            ["ingest", "mimic3", "tables", "--out", f"cohort-w{workers}", f"ingest.workers={workers}"],
        )
        yield _step("run", f"w{workers}", "data.train=cohort", *_workers(workers))
        yield _predict(f"predict w{workers}", f"runs/w{workers}/w{workers}/student", f"student.workers={workers}")
        return
    yield from _before()
    yield _step("run", "w0", "data.train=cohort")
    yield from _after()
    yield from _stage_by_stage()
    yield from _variants()
    if demo:
        yield Step("demo", ["demo"])


def _before() -> Iterator[Step]:
    yield Step("validate", ["validate", "data/name_train.json", "data/name_val.json"])
    yield Step("validate bad", ["validate", BAD_FILE], code=2)
    yield Step("unknown key", ["run", "student.epoch=3"], code=2)
    yield _step("run", "w0", "data.train=cohort", "--dry-run", name="dry run")
    yield _step("plan", "w0", "data.train=cohort", "--price", "4", "--spot-price", "1.5")


def _after() -> Iterator[Step]:
    yield _step("run", "w0", "data.train=cohort", name="run again")
    yield _step("run", "w0", "data.train=cohort", "head.l2=.5", name="run refused", code=2)
    yield _step("status", "w0", "data.train=cohort")
    yield _step("status", "w0", "data.train=cohort", "student.epochs=3", name="status refused")
    yield _step("verify", "w0", "data.train=cohort")
    yield _step("export model", "w0", "data.train=cohort", "--out", "exported", "--onnx")
    yield _predict("predict exported", "exported", "--meds", "predict-exported/meds")
    yield _predict("predict onnx", "exported", "--engine", "onnx-int8")
    student = ["--model", "runs/w0/w0/student", "--out", "predict-student", "--meds", "predict-student/meds"]
    yield Step("predict student", ["predict", "cohort", *student, "data.shard_rows=300"])
    yield Step(
        "predict bad", ["predict", BAD_FILE, "--model", "exported", "--out", "predict-bad", "data.max_bad_rows=3"]
    )


def _stage_by_stage() -> Iterator[Step]:
    """Public files, one split each, every stage as a command of its own."""
    more = ["data.held_out=data/name_test.json", "student.gradient_accumulation=2"]
    yield from (_step(stage, "jsonl", *JSONL, *more) for stage in STAGES)
    yield _step("verify", "jsonl", *JSONL, *more)


def _variants() -> Iterator[Step]:
    """Settings that reach code which the other runs leave out."""
    student = [
        "student.embedding_weight=.3",
        "student.class_weighting=balanced",
        "student.max_length=80",
    ]
    other = [
        "seed=43",
        "data.split=public",
        "head.cross_fitted=false",
    ]  # with the cohort's seed nobody is left for held_out
    yield _step("run", "public", *JSONL, *other, *student)
    teacher = [
        "teacher.adapter_share=.5",
        "teacher.merge_adapter=true",
        "teacher.store_dtype=float32",
    ]
    student = ["student.use_unlabeled=true", "student.temperature=2"]
    alarms = ["evaluation.threshold_for=sensitivity", "evaluation.threshold_target=.8"]
    yield _step("run", "share", "data.train=cohort", *teacher, *student, *alarms)
    yield _step("verify", "share", "data.train=cohort", *teacher, *student, *alarms)


def _workers(count: int) -> list[str]:
    return [f"teacher.workers={count}", f"student.workers={count}"]


def _step(command: str, run: str, *words: str, name: str = "", code: int = 0) -> Step:
    places = [f"run.name={run}", f"run.results=runs/{run}", f"run.public_files=public/{run}"]
    return Step(name or f"{command} {run}", [*command.split(), "--config", CONFIG_FILE, *places, *words], code)


def _predict(name: str, model: str, *words: str) -> Step:
    out = name.replace(" ", "-")
    return Step(name, ["predict", "data/name_test.json", "--model", model, "--out", out, "data.shard_rows=80", *words])
