"""One run: its configuration, its cohort, the names of its folders and files, its fingerprints.

Each is computed once per process and handed to the workers. Hashing the inputs or a model again for every stage costs
minutes of idle GPUs.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from ckd.config import Config, TaskConfig, absolute
from ckd.errors import MismatchError
from ckd.store.artifacts import Fields
from ckd.store.files import join, let_read
from ckd.switches import take_out
from ckd.visits.cohort import Cohort, cohort_artifact
from ckd.visits.inputs import Input
from ckd.visits.intake import configured_inputs
from ckd.visits.labels import CCS25
from ckd.visits.prepare import VISITS_VERSION, Say, halves_tuning, prepare
from ckd.visits.public_owner import Owner
from ckd.visits.subgroups import KEY as SUBGROUPS
from ckd.visits.task import Task
from ckd.visits.taskfile import load_task

# Every key of the configuration changes stored values and is in a fingerprint, unless one of these three tables has it.
NOT_DECIDING: Mapping[str, str] = {
    "run.*": "where files lie",
    "data.max_bad_rows": "stops a run; keeps the same rows",
    "teacher.token_budget": "how many visits share a forward pass",
    "teacher.compile": "speed",
    "teacher.device_map": "which GPU holds which layer",
    "teacher.tensor_parallel": "how many GPUs share a model",
    "teacher.price_per_hour": "a figure of the accounting",
    "teacher.spot_price_per_hour": "a figure of the accounting",
    "teacher.workers": "where shards are computed",
    "teacher.gpus_per_worker": "where shards are computed",
    "student.gradient_accumulation": "how a global batch is divided",
    "student.activation_checkpointing": "memory against time",
    "student.checkpoint_steps": "how much is repeated after a kill",
    "student.zero_stage": "how the optimizer is divided; checkpoints compare it",
    "student.workers": "how many ranks share a global batch",
    "student.gpus_per_worker": "where ranks compute",
    "evaluation.*": "evaluate computes all of it anew",
    "ingest.workers": "where partitions are computed",
    "ingest.max_unmapped": "stops an ingest; keeps the same rows",
}
HASHED = (
    *("data.train", "data.tuning", "data.held_out", "task.labels"),
    *("ingest.code_map", "ingest.meds_codes"),
    *("teacher.base_model", "teacher.adapter", "teacher.chat_template", "student.base_model"),
)
ONLY_WHERE_SET: Mapping[str, Any] = {  # left out at this value: what was made before the key came stays valid
    "ingest.subgroups": (),
    "task.instruction": "own",
    "teacher.adapter_share": 0,
    "head.cross_fitted": True,
    "student.embedding_weight": 0,
    "student.class_weighting": "none",
}


class Run:
    """A run as every stage sees it. Picklable: a worker gets the run with what the driver computed."""

    def __init__(self, config: Config, known: Mapping[str, Fields] | None = None) -> None:
        self.config = config
        self._known = dict(known or {})

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Arrive in a worker, which writes files with the run's rights and takes nothing from its environment."""
        vars(self).update(state)
        take_out(rank=True)
        let_read(self.config.run.file_mode)

    @property
    def root(self) -> str:
        """The folder or URL with one folder per stage."""
        return self.config.run.artifacts_root

    @property
    def folder(self) -> str:
        """results/<run>, a path or URL: the student, metrics.json, report.html, events.jsonl."""
        return self.config.run.folder

    @property
    def student_folder(self) -> str:
        """Where the finished student lies."""
        return join(self.folder, "student")

    @property
    def metrics_file(self) -> str:
        """Where `ckd evaluate` writes its figures."""
        return join(self.folder, "metrics.json")

    @property
    def report_file(self) -> str:
        """Where `ckd report` writes its page."""
        return join(self.folder, "report.html")

    @property
    def owner(self) -> Owner:
        """Whom a public file belongs to."""
        return Owner(self.config.run.title, absolute(self.config).run.artifacts_root)

    @cached_property
    def inputs(self) -> list[Input]:
        """data.train, data.tuning, data.held_out as far as they are given."""
        return configured_inputs(self.config.data, self.task, self.config.ingest.subgroups)

    @cached_property
    def task(self) -> Task:
        """What is predicted: the configured task; without any data.* and task.* key that of the stored visits.

        Raises ConfigError with file:line for a labels.yaml that cannot be read.
        """
        data = self.config.data
        given = data.train or data.tuning or data.held_out or self.config.task != TaskConfig()
        if given or cohort_artifact(self.root, {}).load() is None:
            return load_task(self.config.task)
        return self.stored.task

    @cached_property
    def stored(self) -> Cohort:
        """The visits below the root, whatever input they come from. Raises ArtifactError when there are none."""
        return Cohort.open(self.root)

    @cached_property
    def cohort(self) -> Cohort:
        """The visits of this configuration's input; without any data.* key those that are there.

        Raises ArtifactError when there are none, MismatchError naming the field when they come from other input.
        """
        self._require_task()
        if self.inputs:
            cohort_artifact(self.root, self.visits_fields).is_done()
        return self.stored

    @property
    def visits_fields(self) -> Fields:
        """The fingerprint of the prepared visits: each input's content, the split rule, the shard size.

        The seed is in it only where it splits. Reads every byte of the inputs, once.
        """
        return self.once("visits", self._visits_fields)

    def prepare(self, say: Say) -> Cohort:
        """The visits of the input, made unless they are there. Raises as `ckd.visits.prepare.prepare`."""
        self._require_task()
        self.stored = self.cohort = prepare(self.config, self.inputs, self.task, self.visits_fields, say)
        return self.cohort

    def once(self, name: str, compute: Callable[[], Fields]) -> Fields:
        """The fields known by this name, computed the first time that they are asked for."""
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def elsewhere(self) -> "Run":
        """The same run for a process in another folder: local paths are absolute, and what was computed goes along."""
        run = Run(absolute(self.config), self._known)
        if "task" in vars(self) or self.config.task != TaskConfig():
            run.task = self.task
        if "stored" in vars(self):
            run.stored = run.cohort = replace(self.stored, root=run.root)
        return run

    def _require_task(self) -> None:
        """Raise MismatchError when the visits that are there are another task's."""
        if cohort_artifact(self.root, {}).load() is None or self.task.fingerprint == self.stored.task.fingerprint:
            return
        found, stored, folder = self.task, self.stored.task, cohort_artifact(self.root, {}).folder
        other = ", with other names or meanings" if found.name == stored.name else ""
        raise MismatchError(
            f"{folder}: holds visits of task '{stored.name}' ({len(stored)} labels), "
            f"task.labels={self.config.task.labels} is '{found.name}' ({len(found)} labels{other}); "
            f"give the task.* keys of that run, or another {'run.task' if self.config.run.task else 'run.name'}"
        )

    def _visits_fields(self) -> Fields:
        hashes = {f"data.{source}": "" for source in ("train", "tuning", "held_out")}
        hashes.update({f"data.{given.source}": given.content_hash() for given in self.inputs})
        seeded = self.config.data.split == "public" or halves_tuning(self.config)
        decided = {"seed": self.config.seed if seeded else None, "visits_version": VISITS_VERSION}
        task = {} if self.task.fingerprint == CCS25.fingerprint else {"task.labels": self.task.fingerprint}
        groups = {SUBGROUPS: list(self.config.ingest.subgroups)} if self.config.ingest.subgroups else {}
        return {**hashes, **deciding(self.config, "data"), **task, **deciding(self.config, "task"), **decided, **groups}


def deciding(config: Config, section: str, *but: str) -> dict[str, Any]:
    """`section.key` -> value of every key of a section that changes stored values.

    Left out are the keys `but`, which are in another stage's fingerprint, and keys that name a file or a model: a
    fingerprint holds the hash of what they name.
    """
    values = getattr(config, section).model_dump(exclude=set(but))
    values = {f"{section}.{key}": value for key, value in values.items()}
    return {
        key: value
        for key, value in values.items()
        if not {key, f"{section}.*"} & NOT_DECIDING.keys()
        and key not in HASHED
        and not (key in ONLY_WHERE_SET and value == ONLY_WHERE_SET[key])
    }
