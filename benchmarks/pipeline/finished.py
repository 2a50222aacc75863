"""One tiny finished run (prepare to report, export, predict), its files by kind, and who reads each kind next.

It takes 15 seconds. The readers are the product's own, each as a new process would call it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.cluster.work import make_inputs, words
from ckd.config import Config
from ckd.configfile import load
from ckd.errors import ArtifactError
from ckd.run import Run
from ckd.store.artifacts import FolderArtifact
from jobs import verify
from jobs.cli import main as ckd
from jobs.console import Console
from jobs.public_files import owned

Read = Callable[[], Any]


@dataclass(frozen=True)
class Kind:
    """Files of one kind, who reads them next, and whether `ckd verify` answers for them."""

    name: str
    files: list[Path]
    readers: Sequence[Read]  # each returns all values that it has read; public files are for other programs
    verified: bool = True


@dataclass(frozen=True)
class Finished:
    """A finished run in `place`, its export and a folder of `ckd predict`."""

    place: Path
    config: Config
    known: dict[str, Any]  # fingerprints that depend on inputs and base models only, which no trial touches

    @classmethod
    def make(cls, place: Path) -> "Finished":
        inputs, results = place / "inputs", place / "results"
        for folder in (inputs, results):
            folder.mkdir()
        make_inputs(inputs, 4, 3)
        settings = [*words(inputs, results, 2), "teacher.workers=0", "student.workers=0"]
        settings.append(f"run.public_files={place}/public")
        student, predicted = f"{results}/chaos/student", str(place / "predicted")
        _expect(["run", *settings])
        _expect(["export", "model", "--out", str(place / "export"), *settings])
        _expect(["predict", str(inputs / "visits.json"), "--model", student, "--out", predicted])
        from ckd.student.tokens import TOKENS
        from ckd.teacher.embed import EMBEDDINGS

        config = load(None, settings)
        run = Run(config)
        known = {"visits": run.visits_fields, **{s.name: s.stage(run).fields for s in (EMBEDDINGS, TOKENS)}}
        return cls(place, config, known)

    def run(self) -> Run:
        """The run as a new process would see it."""
        return Run(self.config, self.known)

    def verify(self) -> Any:
        """`ckd verify`; what it has found becomes one error."""
        stream = StringIO()
        try:
            verify.run(self.config, Console(stream))
        except ArtifactError as error:
            raise ArtifactError(f"{stream.getvalue()}\n{error}") from None

    def kinds(self) -> list[Kind]:
        """Every kind of file of the run, with its readers."""
        root, student = Path(self.run().root), Path(self.run().student_folder)
        export, predicted, metrics = self.place / "export", self.place / "predicted", Path(self.run().metrics_file)
        stages = {"visits": [self.visits], "embeddings": [self.embeddings, self.examples]}
        stages |= {"soft_labels": [self.examples, self.scores], "tokens": [self.examples], "predictions": [self.scores]}
        models = {"head": (root / "head", [self.heads]), "student": (student, [self.predictor, self.student])}
        models["checkpoint"] = (max((root / "checkpoints").iterdir()), [self.checkpoint])
        kinds = [Kind(name, sorted((root / name).glob("part-*")), readers) for name, readers in stages.items()]
        kinds += [Kind(name, _listed(folder), readers) for name, (folder, readers) in models.items()]
        footers = {**models, "visits": (root / "visits/_cohort", [self.visits])}
        kinds += [Kind(f"artifact.json of {n}", [f / "artifact.json"], readers) for n, (f, readers) in footers.items()]
        public = [Path(path) for path in owned(self.run()) if Path(path).exists()]
        return [
            *kinds,
            Kind("public files", public, []),
            Kind("records of public files", [path.with_name(f".{path.name}.run.json") for path in public], []),
            Kind("calibration.json", [student / "calibration.json"], [self.student]),
            Kind("metrics.json", [metrics], [self.report]),
            Kind("exported model", _listed(export), [self.exported], verified=False),
            Kind("artifact.json of exported model", [export / "artifact.json"], [self.exported], verified=False),
            Kind("parts of ckd predict", sorted(predicted.glob("predictions/part-*")), [self.predicted], False),
            Kind("artifact.json of ckd predict", [predicted / "visits/_cohort/artifact.json"], [self.predicted], False),
        ]

    def visits(self) -> Any:
        run = self.run()
        return run.cohort.facts, [run.cohort.read(shard).to_pylist() for shard in run.cohort.shards]

    def embeddings(self) -> Any:
        from ckd.teacher.embed import EMBEDDINGS
        from ckd.teacher.head import EmbeddingReader

        run = self.run()
        reader = EmbeddingReader(run.cohort, EMBEDDINGS.require(run))
        return [reader.labeled(shard) for shard in run.cohort.select()]

    def examples(self) -> Any:
        from ckd.student.examples import EMBEDDINGS, SOFT_LABELS, Examples
        from ckd.student.tokens import TOKENS

        run = self.run()
        shards = run.cohort.select()
        found = Examples(run.root, shards, TOKENS.stage(run).fields, teacher=(SOFT_LABELS, EMBEDDINGS))
        return [found[place].arrays() for place in range(len(shards))]

    def scores(self) -> Any:
        from ckd.evaluation.evaluate import MODELS
        from ckd.evaluation.scores import read_split
        from ckd.predict.predictions import PREDICTIONS
        from ckd.teacher.soft_labels import SOFT_LABELS, public_rows

        run = self.run()
        for step in (SOFT_LABELS, PREDICTIONS):
            step.require(run)
        rows = [read_split(run.cohort, split, list(MODELS.values())).scores for split in ("tuning", "held_out")]
        return rows, list(public_rows(run, "train"))

    def heads(self) -> Any:
        from ckd.teacher.head import HEAD, load_heads

        run = self.run()
        found = load_heads(HEAD.require(run))
        return found.weight, found.bias, found.folds.keys, found.report, _folder(HEAD.folder(run))

    def predictor(self) -> Any:
        from ckd.predict.predictions import PredictWorker

        run = self.run()
        PredictWorker(run)
        return _weights(run.student_folder)

    def student(self) -> Any:
        return _model(self.run().student_folder)

    def exported(self) -> Any:
        return _model(str(self.place / "export"))

    def checkpoint(self) -> Any:
        from ckd.student.train import best_checkpoint

        said: list[str] = []
        try:
            best = best_checkpoint(self.run(), said.append)
        except ArtifactError as error:
            said.append(str(error))
        if said:  # the lines that a person sees: a damaged checkpoint is skipped
            raise ArtifactError(" ".join(said))
        return best, _folder(best.fetched())

    def report(self) -> Any:
        from ckd.evaluation.report.content import gather
        from jobs.stages import STEPS

        run = self.run()
        return gather(run.folder, run.root, name="", cohort_folder="", config="", steps=STEPS).metrics

    def predicted(self) -> Any:
        from ckd.predict.arrivals import counted
        from ckd.predict.modelfolder import ModelFolder
        from ckd.predict.scored import scored_fields
        from ckd.store.artifacts import Stage
        from ckd.visits.cohort import Cohort

        out = str(self.place / "predicted")
        stage = Stage(out, "predictions", scored_fields(ModelFolder.open(self.run().student_folder)))
        cohort = Cohort.open(out)
        stage.require(cohort.shards, "ckd predict", lambda shard: shard.content_hash)
        return counted(cohort), [stage.read(s.index, input_hash=s.content_hash).to_pylist() for s in cohort.shards]


def _expect(words: list[str]) -> None:
    if ckd(words):
        raise SystemExit(f"ckd {' '.join(words)} failed")


def _listed(folder: Path) -> list[Path]:
    """The files that artifact.json lists."""
    return [folder / name for name in sorted((FolderArtifact(str(folder), {}).load() or {})["files"])]


def _model(folder: str) -> Any:
    """A model folder as `ckd predict`, `ckd serve` and `ckd export model` open it."""
    from ckd.predict.modelfolder import ModelFolder

    model = ModelFolder.open(folder)
    return model, _weights(model.local), _folder(model.local)


def _weights(folder: str) -> Any:
    from ckd.student.model import load_student

    return [(name, weight.numpy()) for name, weight in load_student(folder).state_dict().items()]


def _folder(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in _listed(Path(folder))]
