"""`ckd export jsonl` replaces what it wrote itself, and nothing else."""

import json
import shutil

import pytest

from ckd.ehr import training_files
from ckd.ehr.exported import MANIFEST
from ckd.ehr.training_files import DATASETS_FILE, RECIPE_FILE, export
from ckd.errors import ConfigError, IncompleteError
from ckd.store.files import size_and_hash
from ckd.store.lease import lease
from tests.ehr.test_training_files import FILES, _cohort, _visits

HAND_MADE = '{"instruction": "i", "input": "x", "output": "None"}\n'


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohorts")
    return [_cohort(folder / str(patients), _visits(patients)) for patients in (40, 60)]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", [*FILES.values(), "name_train_adapter.json"])
def test_a_hand_made_file_of_that_name_is_refused_in_one_line_and_stays(tmp_path, cohorts, name):
    (tmp_path / "README.md").write_text("of git")
    (tmp_path / name).write_text(HAND_MADE)
    with pytest.raises(ConfigError) as refused:
        export(cohorts[0], str(tmp_path), 0.5)
    expected = f"{tmp_path / name}: is not what 'ckd export jsonl' wrote there; give another --out, or move it away"
    assert str(refused.value) == expected
    assert content(tmp_path) == {"README.md": b"of git", name: HAND_MADE.encode()}


def test_its_own_files_are_replaced_and_everything_lies_below_out(tmp_path, cohorts):
    out = tmp_path / "data"
    out.mkdir()
    (out / "README.md").write_text("of git")
    first = export(cohorts[0], str(out))
    before = content(out)
    second = export(cohorts[1], str(out))
    assert first.visits != second.visits and before["name_train.json"] != (out / "name_train.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    listed = json.loads((out / MANIFEST).read_text())["files"]
    assert listed == {name: [size_and_hash(str(out / name))] for name in [*FILES.values(), RECIPE_FILE]}
    assert (out / "README.md").read_text() == "of git"


@pytest.mark.parametrize("name", FILES.values())
def test_its_own_file_that_was_edited_since_is_somebody_s(tmp_path, cohorts, name):
    export(cohorts[0], str(tmp_path))
    with (tmp_path / name).open("a") as file:
        file.write(HAND_MADE)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=rf"{name}: is not what"):
        export(cohorts[1], str(tmp_path))
    assert content(tmp_path) == before


def test_an_adapter_s_file_of_somebody_stays_where_no_share_is_exported(tmp_path, cohorts):
    (tmp_path / "name_train_adapter.json").write_text(HAND_MADE)
    export(cohorts[0], str(tmp_path))
    assert (tmp_path / "name_train_adapter.json").read_text() == HAND_MADE


def test_an_entry_of_somebody_in_the_list_of_datasets_is_refused(tmp_path, cohorts):
    (tmp_path / DATASETS_FILE).write_text(json.dumps({"name_train": {"file_name": "old.json"}}))
    with pytest.raises(ConfigError, match="its entry name_train is not what .* rename that entry"):
        export(cohorts[0], str(tmp_path))
    assert list(content(tmp_path)) == [DATASETS_FILE]


@pytest.mark.parametrize("text", ["mine", "[]", "{}", '{"format": "x", "files": {}}'])
def test_a_manifest_of_somebody_is_refused(tmp_path, cohorts, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ConfigError, match=r"export\.json: is not what"):
        export(cohorts[0], str(tmp_path))
    assert content(tmp_path) == {MANIFEST: text.encode()}


@pytest.mark.parametrize("after", range(1, 4))
def test_an_export_that_was_killed_between_two_files_is_done_again(tmp_path, cohorts, monkeypatch, after):
    class KilledError(BaseException):
        pass

    out, wanted, replaced = tmp_path / "killed" / "data", tmp_path / "wanted" / "data", []
    export(cohorts[0], str(out))
    shutil.copytree(out, wanted)
    export(cohorts[1], str(wanted))
    replace = type(out).replace

    def killed(path, target):
        if str(target).endswith(tuple(FILES.values())):
            replaced.append(target)
            if len(replaced) > after:
                raise KilledError
        return replace(path, target)

    monkeypatch.setattr(type(out), "replace", killed)
    if after < len(FILES):
        with pytest.raises(KilledError):
            export(cohorts[1], str(out))
    else:
        monkeypatch.setattr(training_files, "_write_recipe", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            export(cohorts[1], str(out))
    monkeypatch.undo()
    export(cohorts[1], str(out))
    assert content(out) == content(wanted)


def test_a_second_export_into_a_folder_is_told_of_the_first(tmp_path, cohorts):
    with lease(str(tmp_path / "data"), "ckd export jsonl"), pytest.raises(IncompleteError, match="ckd export jsonl"):
        export(cohorts[0], str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()
