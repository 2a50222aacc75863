import io
import json
from argparse import Namespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ckd.config import Config
from ckd.ehr.exported import MANIFEST
from ckd.ehr.synthetic.patients import generate
from ckd.ehr.synthetic.rows import table
from ckd.ehr.training_files import DATASETS_FILE, RECIPE_FILE, export
from ckd.errors import ArtifactError, ConfigError, DataError
from ckd.prompts import content
from ckd.visits.inputs import Input
from ckd.visits.labels import CCS25
from ckd.visits.public_files import visit_file
from ckd.visits.splits import of_adapter
from ckd.visits.visit import SPLITS, from_table, to_table
from jobs import export as job
from jobs.console import Console

MARKER = "Sextuple bypass of the marker"
FILES = {"train": "name_train.json", "tuning": "name_val.json", "held_out": "name_test.json"}


def _visits(patients=60):
    rows = table(generate(patients, 11), include_last=True)
    return list(from_table(rows.drop_columns(["oracle_latent"])))


def _cohort(folder, visits, card=None):
    folder.mkdir()
    half = len(visits) // 2
    for index, part in enumerate((visits[:half], visits[half:])):
        pq.write_table(to_table(part, len(CCS25)), folder / f"part-{index:05d}.parquet")
    if card is not None:
        (folder / "card.json").write_text(json.dumps(card))
    return str(folder)


def _read(path, split):
    rows = list(Input(str(path), split, CCS25).rows())
    return {
        v.visit_id: (
            v.instruction,
            v.input,
            v.labels,
            v.subject_id,
            v.split,
            v.current_labels,
            v.prediction_time,
            v.subgroups,
        )
        for v in rows
    }


def _facts(visits):
    return {
        v.visit_id: (
            v.instruction,
            v.input,
            v.labels,
            v.subject_id,
            v.split,
            v.current_labels,
            v.prediction_time,
            v.subgroups,
        )
        for v in visits
    }


def _run(cohort, out):
    stream = io.StringIO()
    job.run(Config(), Console(stream), Namespace(format="jsonl", cohort=cohort, out=str(out), adapter_share=0.0))
    return stream.getvalue()


def test_exported_files_read_back_as_the_same_labelled_visits(tmp_path):
    visits = _visits()
    done = export(_cohort(tmp_path / "cohort", visits), str(tmp_path / "data"))
    for split in SPLITS:
        expected = _facts(v for v in visits if v.split == split and v.labels is not None)
        assert _read(tmp_path / "data" / FILES[split], split) == expected
        assert done.visits[split] == len(expected) > 0
    assert done.unlabeled == sum(v.labels is None for v in visits) > 0
    assert [v.visit_id for v in Input(str(tmp_path / "data" / "name_train.json"), "train", CCS25).rows()] == [
        v.visit_id for v in visits if v.split == "train" and v.labels is not None
    ]


def test_lines_hold_the_public_fields_first_and_the_same_keys_in_every_line(tmp_path):
    export(_cohort(tmp_path / "cohort", _visits()), str(tmp_path / "data"))
    lines = [
        json.loads(line) for name in FILES.values() for line in (tmp_path / "data" / name).read_text().splitlines()
    ]
    keys = [
        "instruction",
        "input",
        "output",
        "visit_id",
        "subject_id",
        "split",
        "current_labels",
        "prediction_time",
        "age",
        "sex",
    ]
    assert {tuple(line) for line in lines} == {tuple(keys)}
    assert all(line["output"].startswith("Disease that the patient may acquire: ") for line in lines)


def test_dataset_info_lists_train_and_val_and_never_test_and_keeps_what_others_wrote(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    other = {"mine": {"file_name": "mine.json"}, "also": {"file_name": "old.json"}}
    (data / DATASETS_FILE).write_text(json.dumps(other))
    export(_cohort(tmp_path / "cohort", _visits()), str(data))
    text = (data / DATASETS_FILE).read_text()
    found = json.loads(text)
    assert "name_test" not in text
    assert found["mine"] == other["mine"] and set(found) == {"mine", "also", "name_train", "name_val"}
    assert found["name_train"] == {
        "file_name": "name_train.json",
        "columns": {"prompt": "instruction", "query": "input", "response": "output"},
    }
    line = json.loads((data / found["name_val"]["file_name"]).read_text().splitlines()[0])
    assert set(found["name_val"]["columns"].values()) <= set(line)


@pytest.mark.parametrize("entry", [{"name_test": {}}, {"sneaky": {"file_name": "name_test.json"}}])
def test_a_dataset_info_that_offers_the_test_visits_is_refused_before_anything_is_written(tmp_path, entry):
    data = tmp_path / "data"
    data.mkdir()
    (data / DATASETS_FILE).write_text(json.dumps(entry))
    with pytest.raises(DataError, match="take that entry out"):
        export(_cohort(tmp_path / "cohort", _visits()), str(data))
    assert [file.name for file in data.iterdir()] == [DATASETS_FILE] and not (tmp_path / "lora").exists()


def test_the_recipe_trains_on_train_chooses_on_val_and_never_names_test(tmp_path):
    export(_cohort(tmp_path / "cohort", _visits()), str(tmp_path / "my data"))
    text = (tmp_path / "my data" / RECIPE_FILE).read_text()
    recipe = yaml.safe_load(text)
    assert recipe["stage"] == "sft" and recipe["finetuning_type"] == "lora" and recipe["template"] == "qwen"
    assert (recipe["dataset_dir"], recipe["dataset"], recipe["eval_dataset"]) == ("my data", "name_train", "name_val")
    assert (recipe["cutoff_len"], recipe["output_dir"]) == (1536, "lora/model")
    assert not any("name_test" in str(value) for value in recipe.values())


def test_another_recipe_is_kept_and_said_and_the_own_one_is_not_worth_a_word(tmp_path):
    cohort, out = _cohort(tmp_path / "cohort", _visits()), tmp_path / "data"
    assert "already" not in _run(cohort, out)
    assert "already" not in _run(cohort, out)
    recipe = tmp_path / "data" / RECIPE_FILE
    recipe.write_text("stage: dpo\n")
    assert f"{recipe} was there already" in _run(cohort, out)
    assert recipe.read_text() == "stage: dpo\n"


def test_exporting_twice_gives_equal_bytes(tmp_path):
    cohort = _cohort(tmp_path / "cohort", _visits())
    found = []
    for _ in range(2):
        export(cohort, str(tmp_path / "data"))
        found.append({file.name: file.read_bytes() for file in (tmp_path / "data").iterdir()})
    assert found[0] == found[1] and set(found[0]) == {*FILES.values(), DATASETS_FILE, RECIPE_FILE, MANIFEST}


def test_the_console_tells_counts_and_the_license_and_no_text_of_a_patient(tmp_path):
    visits = _visits()
    marked = [type(v)(**{n: getattr(v, n) for n in v.__slots__} | {"input": f"{v.input} {MARKER}."}) for v in visits]
    cohort = _cohort(
        tmp_path / "cohort",
        marked,
        {"data_license": "PhysioNet Credentialed Health Data License 1.5.0", "credentialed": True},
    )
    said = _run(cohort, tmp_path / "data")
    assert MARKER in (tmp_path / "data" / "name_train.json").read_text()
    assert MARKER not in said and not any(v.subject_id in said for v in visits)
    assert "PhysioNet Credentialed" in said and "do not share or commit" in said
    assert f"{sum(v.labels is None for v in visits):,} visits without labels left out" in said


def test_open_data_raises_no_warning_and_a_cohort_without_card_is_fine(tmp_path):
    cohort = _cohort(tmp_path / "cohort", _visits(), {"data_license": "CC0-1.0", "credentialed": False})
    assert "WARNING" not in _run(cohort, tmp_path / "data")
    (tmp_path / "cohort" / "card.json").unlink()
    assert "license" not in _run(cohort, tmp_path / "data")


def test_a_split_without_labelled_visits_gets_no_file_and_an_old_file_of_it_is_refused(tmp_path):
    visits = [v for v in _visits() if v.split == "held_out"]
    cohort, data = _cohort(tmp_path / "cohort", visits), tmp_path / "data"
    assert export(cohort, str(data)).visits.keys() == {"held_out"}
    assert {file.name for file in data.iterdir()} == {"name_test.json", DATASETS_FILE, RECIPE_FILE, MANIFEST}
    assert json.loads((data / DATASETS_FILE).read_text()) == {}
    (data / "name_train.json").write_text("older\n")
    with pytest.raises(DataError, match="of another cohort"):
        export(cohort, str(data))


def test_a_bad_row_leaves_all_files_as_they_were(tmp_path):
    visits = _visits()
    cohort, data = _cohort(tmp_path / "cohort", visits), tmp_path / "data"
    export(cohort, str(data))
    before = {file.name: file.read_bytes() for file in data.iterdir()}
    last = pq.read_table(tmp_path / "cohort" / "part-00001.parquet")
    texts = last["input"].to_pylist()
    labeled = max(np.flatnonzero(last["labels"].is_valid().to_numpy()))
    texts[labeled] = "  "
    column = last.schema.get_field_index("input")
    pq.write_table(
        last.set_column(column, last.schema.field(column), pa.array(texts)), tmp_path / "cohort" / "part-00001.parquet"
    )
    with pytest.raises(DataError, match=rf"part-00001.parquet:{labeled + 1}: field 'input' is empty"):
        export(cohort, str(data))
    assert {file.name: file.read_bytes() for file in data.iterdir()} == before


def test_the_adapters_share_is_a_file_of_its_own_that_alone_is_offered_for_training(tmp_path):
    visits, data = _visits(), tmp_path / "data"
    cohort = _cohort(tmp_path / "cohort", visits)
    said = io.StringIO()
    job.run(Config(), Console(said), Namespace(format="jsonl", cohort=cohort, out=str(data), adapter_share=0.5))
    train = [v for v in visits if v.split == "train" and v.labels is not None]
    chosen = [v for v in train if of_adapter([v.group], 0.5)[0]]
    assert 0 < len(chosen) < len(train)
    assert _read(data / "name_train_adapter.json", "train") == _facts(chosen)
    assert _read(data / "name_train.json", "train") == _facts(train)
    assert json.loads((data / DATASETS_FILE).read_text())["name_train"]["file_name"] == "name_train_adapter.json"
    assert f"{len(chosen):,} of the train visits" in said.getvalue() and "teacher.adapter_share=0.5" in said.getvalue()
    export(cohort, str(data))
    assert json.loads((data / DATASETS_FILE).read_text())["name_train"]["file_name"] == "name_train.json"
    assert not (data / "name_train_adapter.json").exists()


def test_a_share_that_leaves_the_adapter_or_the_head_nothing_is_refused_and_nothing_is_written(tmp_path):
    cohort = _cohort(tmp_path / "cohort", _visits(20))
    with pytest.raises(DataError, match="some for it and some for the head"):
        export(cohort, str(tmp_path / "data"), 1e-9)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.yaml"))


def test_what_is_no_cohort_is_refused_in_one_line(tmp_path):
    visits = _visits(20)
    (tmp_path / "rows.json").write_text("{}\n")
    with pytest.raises(DataError, match="not Parquet"):
        export(str(tmp_path / "rows.json"), str(tmp_path / "data"))
    with pytest.raises(DataError, match="no such file"):
        export(str(tmp_path / "nowhere"), str(tmp_path / "data"))
    pq.write_table(to_table(visits, len(CCS25)).drop_columns(["split"]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no column split"):
        export(str(tmp_path / "x.parquet"), str(tmp_path / "data"))
    pq.write_table(to_table([v for v in visits if v.labels is None], len(CCS25)), tmp_path / "y.parquet")
    with pytest.raises(DataError, match="no visit has labels"):
        export(str(tmp_path / "y.parquet"), str(tmp_path / "data"))
    cohort = _cohort(tmp_path / "cohort", visits, ["no object"])
    with pytest.raises(ArtifactError, match="card.json: not a JSON object"):
        export(cohort, str(tmp_path / "data"))
    assert not (tmp_path / "data").exists() and not (tmp_path / "lora").exists()


def test_what_a_killed_export_left_half_written_goes_with_the_next(tmp_path):
    out = tmp_path / "data"
    out.mkdir()
    left, kept = out / f".name_train.json.{'0' * 32}.tmp", out / ".notes.tmp"
    for path in (left, kept):
        path.write_text(MARKER)
    export(_cohort(tmp_path / "cohort", _visits(20)), str(out))
    assert not left.exists() and kept.exists()


def test_a_file_system_s_root_is_no_place_for_the_files(tmp_path):
    with pytest.raises(ConfigError, match="a folder of its own"):
        export(_cohort(tmp_path / "cohort", _visits(20)), "/")


def test_the_teacher_sees_what_llama_factory_trains_it_on():
    # Alpaca format: prompt and query joined by a newline; the chat template around it is the tokenizer's own, the same
    # as `template: qwen`.
    visit = _visits(5)[0]
    assert content(visit.instruction, visit.input) == "\n".join([visit.instruction, visit.input])


def test_file_names_are_the_public_ones():
    assert {split: visit_file("data", split) for split in SPLITS} == {
        split: f"data/{name}" for split, name in FILES.items()
    }
