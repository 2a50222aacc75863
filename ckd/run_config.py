"""The configuration's section `run`: where a run's files lie, and those of each further task of it."""

import re
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ckd.section import FileMode, Place, Section


class RunConfig(Section):
    """Where a run's files go."""

    name: str = Field("default", description="folder name of this run's artifacts and results")
    artifacts: Place = Field("", description="folder or URL of the stages; empty: <run.results>/<run.name>/artifacts")
    embeddings: Place = Field(
        "",
        description="artifacts folder or URL of another run with the same teacher: its embeddings are taken for visits "
        "whose id, instruction and input are equal; empty: none",
    )
    task: str = Field(
        "",
        description="name of one more task of this run: its stages lie in tasks/NAME below the run's artifacts, its "
        "results and public files in tasks/NAME below the run's results, and the run's embeddings are taken; empty: "
        "the run's own",
    )
    results: Place = Field("results", min_length=1, description="folder or URL of results/<run>/…")
    public_files: Place = Field(
        ".",
        min_length=1,
        description="this run's own folder or URL for the public files: data/hands_name_*, lora/*.pt and results/ with "
        "heads_results* and test_metrics.txt (at '.' these two lie in run.results)",
    )
    max_cost: float = Field(
        0,
        ge=0,
        description="the teacher's pass stops after a shard (exit 3, resumable) when it has cost so much, earlier "
        "attempts included; needs a price of teacher.*; 0: no limit",
    )
    file_mode: FileMode = Field(
        "0600", description="rights of new files with data of single visits, such as 0640; the umask may take away more"
    )
    shared_mounts: tuple[Place, ...] = Field(
        (), description="folders that all machines of a cluster mount; jobs there take only URLs and paths below them"
    )

    @field_validator("name", "task")
    @classmethod
    def _folder_name(cls, value: str, of: ValidationInfo) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) and (value or of.field_name == "name"):
            raise ValueError(
                "expected letters, digits, . _ - and first a letter or digit, since a folder has this name"
            )
        return value

    @model_validator(mode="after")
    def _one_lender(self) -> Self:
        if self.task and self.embeddings:
            raise ValueError(
                f"task={self.task} takes this run's own embeddings and embeddings={self.embeddings} another one's; "
                "give one of the two"
            )
        return self

    @property
    def artifacts_root(self) -> str:
        """The folder or URL that holds one folder per stage."""
        return self._of_task(self._own_artifacts)

    @property
    def lender(self) -> tuple[str, str]:
        """The artifacts whose embeddings are taken, "" for none, and what says so: `key=value`."""
        if self.task:
            return self._own_artifacts, f"run.task={self.task}"
        return self.embeddings, f"run.embeddings={self.embeddings}"

    @property
    def public_folder(self) -> str:
        """Where data/hands_name_* and lora/*.pt go."""
        return self.folder if self.task and self.public_files == "." else self._of_task(self.public_files)

    @property
    def public_results(self) -> str:
        """Where heads_results* and test_metrics.txt go."""
        return self.results if self.public_folder == "." else f"{self.public_folder.rstrip('/')}/results"

    @property
    def folder(self) -> str:
        """results/<run>: metrics.json, student/, events.jsonl."""
        return self._of_task(self._own_folder)

    @property
    def title(self) -> str:
        """The run and its task, for people."""
        return f"{self.name}/{self.task}" if self.task else self.name

    @property
    def _own_folder(self) -> str:
        return f"{self.results.rstrip('/')}/{self.name}"

    @property
    def _own_artifacts(self) -> str:
        return self.artifacts or f"{self._own_folder}/artifacts"

    def _of_task(self, folder: str) -> str:
        return f"{folder.rstrip('/')}/tasks/{self.task}" if self.task else folder
