"""One run is one object: inputs are hashed once, and every key is in a fingerprint or is listed as not deciding."""

import io
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from ckd.config import Config
from ckd.configfile import load
from ckd.ehr import ingest
from ckd.errors import ArtifactError, MismatchError
from ckd.run import HASHED, NOT_DECIDING, ONLY_WHERE_SET, Run
from ckd.section import Workers
from ckd.store.artifacts import Fields
from ckd.visits.inputs import Input
from jobs import pipeline, verify
from jobs.console import Console
from jobs.stages import STAGES
from testbed.rows import rows, write_jsonl
from tests.student.student_cohort import OTHERS, make_base

SECTIONS = [name for name in Config.model_fields if name != "seed"]
KEYS = [f"{section}.{key}" for section in SECTIONS for key in type(getattr(Config(), section)).model_fields]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher_folder):
    """A finished run, and how often each of its inputs was hashed."""
    folder = tmp_path_factory.mktemp("run")
    counted: list[str] = []
    hashed = Input.content_hash

    def counting(given: Input) -> str:
        counted.append(given.source)
        return hashed(given)

    splits = {"train": (0, 40), "tuning": (40, 60), "held_out": (60, 80)}
    files = [f"data.{s}={write_jsonl(folder / f'{s}.json', rows(*span, split=s))}" for s, span in splits.items()]
    base = make_base(folder / "bert", others=OTHERS)
    models = [f"teacher.base_model={teacher_folder}/base", f"teacher.adapter={teacher_folder}/adapter"]
    template = folder / "template.jinja"
    template.write_text("{{ messages }}{% if other %}{{ other }}{% endif %} ends here\n")
    models.append(f"teacher.chat_template={template}")
    small = "data.shard_rows=16 teacher.dtype=float32 head.epochs=2 head.folds=2 student.epochs=1 student.max_length=32"
    places = [f"run.results={folder}/results", f"run.public_files={folder}", f"student.base_model={base}"]
    config = load(None, [*files, *models, *places, *small.split(), "evaluation.resamples=100"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Input, "content_hash", counting)
        pipeline.run(config, Console(io.StringIO()))
    return config, counted


def fingerprints(config: Config) -> dict[str, Fields | str]:
    """Stage name -> its fingerprint, or the field by which stored files refuse the configuration; and an ingest's."""
    run = Run(config)
    found: dict[str, Fields | str] = {"ingest": ingest.fingerprint(config.ingest, config.seed, "mimic3", "h")}
    for stage in STAGES:
        try:
            found[stage.name] = stage.fingerprint(run)
        except MismatchError as error:
            found[stage.name] = str(error)
    return found


def other(annotation: Any, value: Any) -> Any:
    """Another value of a key's type."""
    if get_origin(annotation) is Literal:
        return next(each for each in get_args(annotation) if each != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, Workers):
        return Workers(min=value.min + 1, max=value.max + 1)
    if isinstance(value, tuple):
        return (*value, "other")
    if isinstance(value, dict):
        return {**value, "other": True}
    if value is None:
        return 0.25
    return value + (1 if isinstance(value, int) else 0.125 if isinstance(value, float) else "other")


def changed(config: Config, key: str, value: Any) -> Config:
    section, name = key.split(".")
    return config.model_copy(update={section: getattr(config, section).model_copy(update={name: value})})


def test_inputs_are_hashed_once_in_a_run(finished):
    assert finished[1] == ["train", "tuning", "held_out"]


@pytest.mark.parametrize("key", [key for key in KEYS if key not in HASHED])
def test_a_key_changes_a_fingerprint_unless_it_is_listed_as_not_deciding(finished, key):
    config, _ = finished
    section, name = key.split(".")
    if section == "run":  # artifacts of another place are others
        assert "run.*" in NOT_DECIDING
        return
    field = type(getattr(config, section)).model_fields[name]
    after = changed(config, key, other(field.annotation, getattr(getattr(config, section), name)))
    listed = key in NOT_DECIDING or f"{section}.*" in NOT_DECIDING
    assert (fingerprints(after) == fingerprints(config)) == listed


@pytest.mark.parametrize("key", [key for key in HASHED if key != "task.labels"])  # that one: tests/visits/test_task.py
def test_what_a_key_names_is_in_a_fingerprint_by_its_content(finished, tmp_path, key):
    config, _ = finished
    section, name = key.split(".")
    if not getattr(getattr(config, section), name):
        (tmp_path / "given.csv").write_text("some content\n")
        config = changed(config, key, str(tmp_path / "given.csv"))
    named = Path(getattr(getattr(config, section), name))
    copy = tmp_path / f"copy of {named.name}"
    for file in [named] if named.is_file() else sorted(named.iterdir()):
        target = copy if named.is_file() else copy / file.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    before, same = fingerprints(config), fingerprints(changed(config, key, str(copy)))
    assert same == before
    target = copy if copy.is_file() else next(copy.glob("*.safetensors"))
    content = target.read_bytes()  # a row more, or one bit of a weight
    target.write_bytes(content + content[-200:] if copy.is_file() else content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprints(changed(config, key, str(copy))) != before


def test_the_lists_name_only_keys_that_there_are():
    sections = {f"{section}.*" for section in SECTIONS}
    assert {*NOT_DECIDING, *HASHED, *ONLY_WHERE_SET} <= {*KEYS, *sections}
    assert all(getattr(getattr(Config(), k.split(".")[0]), k.split(".")[1]) == v for k, v in ONLY_WHERE_SET.items())


def test_verify_names_every_kind_of_file_in_which_one_bit_is_flipped(finished):
    config, _ = finished
    run, public = Path(config.run.folder), Path(config.run.public_files)
    files = [run / name for name in ("metrics.json", "student/calibration.json", "student/artifact.json")]
    files += [run / "artifacts/head/artifact.json", run / "artifacts/embeddings/part-00000.parquet"]
    files += [run / "student/model.safetensors", next((run / "artifacts/checkpoints").glob("*/model.safetensors"))]
    files += [next(public.rglob("teacher_classification_head.pt")), next(public.rglob("hands_name_train*.json"))]
    for path in files:
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        path.write_bytes(damaged)
        screen = io.StringIO()
        with pytest.raises(ArtifactError):
            verify.run(config, Console(screen))
        path.write_bytes(whole)
        said = [line for line in screen.getvalue().splitlines() if line.startswith("problem:")]
        assert any(str(path) in line for line in said), (path, said)
    verify.run(config, Console(io.StringIO()))
