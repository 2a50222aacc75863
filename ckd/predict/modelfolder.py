"""What a folder with a finished student says of itself: which student, how its texts become tokens, its calibration.

It is checked here without torch. `results/<run>/student` and what `ckd export model` writes are both such folders.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ckd.calibration import FILE as CALIBRATION_FILE
from ckd.calibration import Calibration
from ckd.errors import ArtifactError, ConfigError
from ckd.store.artifacts import Fields, FolderArtifact
from ckd.store.copies import fetched_folder
from ckd.store.files import digest, exists, inner, join, read_bytes, size_and_hash
from ckd.store.filesystems import is_local
from ckd.store.folders import ARTIFACT_FILE
from ckd.visits.labels import CCS25
from ckd.visits.task import TASK_IN_CONFIG, Task

ENGINES = {  # engine -> how the names of its weights end
    "torch": ".safetensors",
    "onnx": "model.onnx",
    "onnx-int8": "model.int8.onnx",
}
EXPORTED = "exported student"  # field of an exported folder: the identity of the student that it holds


@dataclass(frozen=True)
class ModelFolder:
    """A checked folder; `local` is where its files are on this machine."""

    folder: str
    local: str
    engine: str
    student: str  # identity of the student inside, whoever copied it
    max_length: int
    weights: str  # hash over the engine's weight files
    task: Task  # whose labels it predicts
    calibration: Calibration | None
    calibration_hash: str | None

    @classmethod
    def open(cls, folder: str, engine: str = "torch") -> "ModelFolder":
        """Open a folder, local or at a URL, for one engine. Reads the files that it needs once, to compare SHA-256.

        Raises ConfigError when it is no such folder, lacks the engine's file or names no labels; ArtifactError when
        a file is not the one that was written.
        """
        content = _content(folder)
        max_length = int(content["fields"]["student.max_length"])
        student = str(content["fields"].get(EXPORTED) or FolderArtifact(folder, {}).identity())
        local, weights = _files(folder, engine, content)
        task = _task(folder, local)
        calibration, calibration_hash = _calibration(folder, student, task)
        return cls(folder, local, engine, student, max_length, weights, task, calibration, calibration_hash)

    @property
    def fields(self) -> Fields:
        """Everything that decides the probabilities of a text: fingerprint fields of what is made with this model."""
        return {
            "student": self.student,
            "engine": self.engine,
            "weights": self.weights,
            "student.max_length": self.max_length,
            "calibration": self.calibration_hash,
        }

    @property
    def libraries(self) -> list[str]:
        """What computes the probabilities of a text: a part records their versions."""
        return ["torch" if self.engine == "torch" else "onnxruntime", "transformers", "tokenizers"]

    @property
    def notes(self) -> list[str]:
        """What a person must know of this model before they read its figures."""
        if self.calibration is not None:
            return []
        missing = join(self.folder, CALIBRATION_FILE)
        return [
            f"{missing} is missing: no calibrated probabilities and no names at thresholds ('ckd evaluate' writes it)"
        ]


def _content(folder: str) -> dict[str, Any]:
    content = FolderArtifact(folder, {}).load()
    if content is None or "student.max_length" not in content.get("fields", {}):
        raise ConfigError(
            f"{folder}: no trained student ({ARTIFACT_FILE} of one); "
            "expected results/<run>/student or a folder of 'ckd export model'"
        )
    long_text = content["fields"].get("student.long_text", "head")
    if long_text != "head":  # head_tail or windows, which students could be trained with at one time
        raise ConfigError(
            f"{folder}: a student trained with student.long_text={long_text}, which this version cannot read; "
            "train it again with this version, or use commit c83c255"
        )
    return content


def _files(folder: str, engine: str, content: dict[str, Any]) -> tuple[str, str]:
    """Where the wanted files are on this machine, and the hash of the engine's weights."""
    if engine not in ENGINES:
        raise ConfigError(f"engine '{engine}': expected one of {', '.join(ENGINES)}")
    others = tuple(ending for name, ending in ENGINES.items() if name != engine)
    wanted = {name: facts for name, facts in content["files"].items() if not name.endswith(others)}
    weights = {name: facts["sha256"] for name, facts in wanted.items() if name.endswith(ENGINES[engine])}
    if not weights:
        raise ConfigError(
            f"{folder}: no {ENGINES[engine].lstrip('.')} file for engine '{engine}'; "
            "make the folder with 'ckd export model --onnx'"
        )
    if engine != "torch" and find_spec("onnxruntime") is None:
        raise ConfigError(f"engine '{engine}' needs ONNX Runtime; install it with: pip install 'ckd-ehr[onnx]'")
    local = fetched_folder(folder, lambda name: name in wanted)  # compares what it copies
    for name, facts in wanted.items() if is_local(folder) else ():
        path = inner(folder, name)
        if not exists(path) or size_and_hash(path) != facts:
            raise ArtifactError(
                f"{path}: missing or changed since it was written; copy the folder again, or make it again"
            )
    return local, digest(weights)


def _task(folder: str, local: str) -> Task:
    """The task of a student, of which config.json holds the labels' names, and all of it unless it is ccs25's."""
    path = join(folder, "config.json")
    try:
        config = json.loads(read_bytes(join(local, "config.json")))
        names = tuple(config["id2label"][str(place)] for place in range(len(config["id2label"])))
        if TASK_IN_CONFIG not in config and names == CCS25.names:
            return CCS25
        task = Task.model_validate(config[TASK_IN_CONFIG])
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; expected a model folder as save_pretrained writes it") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path}: its id2label is not that of ccs25, and {TASK_IN_CONFIG} is no task of this project: nobody knows "
            "what its figures mean; copy the folder again, or make it again"
        ) from None
    if names != task.names:
        raise ConfigError(f"{path}: id2label and {TASK_IN_CONFIG} name other labels; make the folder again")
    return task


def _calibration(folder: str, student: str, task: Task) -> tuple[Calibration | None, str | None]:
    path = join(folder, CALIBRATION_FILE)  # not in the local copy: `ckd evaluate` writes it after artifact.json
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return None, None
    return Calibration.load(path, task.names, student), digest(content.decode("utf-8", "replace"))
