"""Every command block of README and docs is done as it is printed, in order, each page in a folder of its own: for
real, or as far as it goes without machines and hours. A new command that fits no line of WAYS fails: give it one.

`python -m tests.test_pages` prints what is done with each.
"""

import contextlib
import csv
import json
import random
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.config import TaskConfig
from ckd.configfile import load
from ckd.predict.serving.schema import PredictRequest
from ckd.store.files import write_bytes
from ckd.visits.taskfile import load_task
from jobs import serve
from jobs.cli import main
from tests.ehr.ehr_tables import as_meds, as_mimic4, write_meds, write_mimic3, write_mimic4, write_tables
from tests.ehr.related_tables import EICU, OMOP, as_eicu, as_generic, as_mimic3, as_omop, invented, write_related
from tests.pages import PAGES, ROOT, SHELL, blocks
from tests.store.object_store import s3_server

# The first line that a command fits says what is done with it: "run"; "dry": with --dry-run, or make -n; or why it is
# left out. Of what is left out the files, modules and extras that it names are looked up.
WAYS = {
    r"ckd export model ": "needs a run that is evaluated; tests/predict/test_export_model.py has one",
    r"ckd (ingest|export|validate|predict) ": "run",
    r"ckd serve ": "run",
    r"curl -s http://127\.0\.0\.1": "run",
    r"ckd (run|demo|embed|train-student|submit) ": "dry",
    r"ckd doctor ": "says what this machine lacks; tests/jobs/test_doctor.py does so on several",
    r"make \S": "dry",
    r"ray (up|down|dashboard) ": "starts, ends or asks machines of a cloud; tests/deploy checks the files",
    r"(tr -d .*\| )?kubectl ": "needs a Kubernetes cluster; tests/deploy checks the files",
    r"docker (build|push) ": "needs a builder and hours of a network; tests/deploy checks the Dockerfile",
    r"(python3 -m venv|pip install) ": "installs gigabytes from the network, as `make install` does for developers",
    r"(OMP_NUM_THREADS=1 )?python -m benchmarks\.": "hours, or the results of hours",
    r"(HF_HUB_OFFLINE=1 )?(sbatch|scancel|srun) ": "needs Slurm; tests/deploy runs the script with a fake one",
    r"(git clone|hf download) ": "fetches from the network",
    r"(cd|export|tail) ": "the shell's own",
    r"sky ": "starts machines of a cloud; tests/deploy checks the file",
}
# What a reader fills in. Models are tiny ones.
FILLED = {
    "<run>": "default",
    "teacher.base_model=…": "teacher.base_model=teacher",
    "teacher.adapter=…": "teacher.adapter=lora/model",
    "student.base_model=…": "student.base_model=bert-base-uncased",
    "Qwen/Qwen2.5-7B-Instruct": "teacher",
    "Qwen/Qwen2.5-72B-Instruct": "teacher",
    "[--engine torch|onnx|onnx-int8]": "--engine torch",
    "[--meds DIR]": "--meds meds",
    "[student.workers=4]": "student.workers=0",
    "[data.max_bad_rows=10]": "data.max_bad_rows=10",
    " [--onnx]": "",
    "predict INPUT": "predict data/cohort",
}


def way(command):
    return next((done for start, done in WAYS.items() if re.match(start, command)), None)


def everything():
    """(page, block, command, what is done with it) of every shell block."""
    for page in PAGES:
        for block in blocks(page):
            for command in block.commands if block.language in SHELL else ():
                yield page, block, command, way(command)


def test_every_command_has_a_way_and_every_other_block_a_language():
    homeless = [f"{page.name}:{block.line}: {text}" for page, block, text, done in everything() if done is None]
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert (homeless, languages - {*SHELL, "text", "json", "yaml", "python"}) == ([], set())


@pytest.fixture(scope="module")
def made(tmp_path_factory, teacher_folder):
    """What the pages' commands find: hospital tables of every kind, a cohort and its JSONL, tiny models, a student."""
    from tests.predict.scored_student import make_student
    from tests.student.student_cohort import make_base

    folder = tmp_path_factory.mktemp("made")
    stays = invented(1, subjects=40)
    tables = as_mimic3(stays)
    write_mimic3(folder / "sources" / "mimic3", tables)
    write_mimic4(folder / "sources" / "mimic4", as_mimic4(tables))
    write_meds(folder / "sources" / "meds", as_meds(tables))
    write_tables(folder / "sources" / "tables", as_generic(stays))
    write_related(folder / "sources" / "omop", as_omop(stays), OMOP)
    write_related(folder / "sources" / "eicu", as_eicu(stays), EICU)
    with contextlib.chdir(folder):
        assert main(["ingest", "tables", "sources/tables", "--out", "data/cohort"]) == 0
        assert main(["export", "jsonl", "data/cohort", "--out", "data"]) == 0
    shutil.copytree(Path(teacher_folder, "base"), folder / "teacher")
    shutil.copytree(Path(teacher_folder, "adapter"), folder / "lora" / "model")
    make_base(folder / "bert-base-uncased")
    make_student(folder / "made")
    shutil.copytree(folder / "made" / "student", folder / "results" / "default" / "student")
    (folder / "jobs").mkdir()
    (folder / "jobs" / "default.yaml").write_text(filled((ROOT / "jobs" / "default.yaml").read_text()))
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch, request):
    """A folder of a page's own with all of that, where its commands are run."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", serve.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled(text):
    """A text of the pages with what a reader puts into it."""
    for printed, put in FILLED.items():
        text = text.replace(printed, put)
    return text


@pytest.mark.parametrize("page", sorted({page for page, *_ in everything()}), ids=lambda page: page.stem)
def test_the_commands_of_a_page_do_what_they_did_when_it_was_written(page, place, monkeypatch):
    with Served(monkeypatch) as served, PREPARED.get(page.name, contextlib.nullcontext)(place):
        for block in blocks(page):
            if block.language in OTHERS:
                OTHERS[block.language](block.text, served)
            for printed in block.commands if block.language in SHELL else ():
                done = way(printed)
                command = shlex.split(printed if printed.startswith("ckd submit ") else filled(printed))
                if done not in ("run", "dry"):
                    names_what_there_is(command)
                elif command[0] == "curl":
                    served.curl(command)
                elif command[0] == "make":
                    subprocess.run(
                        ["make", "--dry-run", "--silent", *command[1:]], cwd=ROOT, check=True, capture_output=True
                    )
                else:
                    ckd(command[1:], done, served)


def ckd(words, done, served):
    """A command of ours in this process."""
    assert "…" not in "".join(words), words
    if words[0] == "ingest":
        words = [f"sources/{words[1]}" if word in ("DIR", "TODAY") else word for word in words]
    if "--out" in words and (out := Path(words[words.index("--out") + 1])) != Path("data"):
        shutil.rmtree(out, ignore_errors=True)
    if words[0] == "serve":
        words = [*words, "--port", "0"]
    if done == "dry" and "--dry-run" not in words:
        words = [*words, "--dry-run"]
    with contextlib.chdir(ROOT if words[0] == "submit" else "."):  # what it names a cluster sees, not this machine
        assert main(words) == 0, words


class Served:
    """What `ckd serve` of a page would serve, in a thread; and the last answer that `curl` got."""

    def __init__(self, monkeypatch):
        self.port, self.answer, self._started = None, None, []
        monkeypatch.setattr(serve, "_run", self._run)

    def _run(self, app, listening):
        from ckd.predict.serving.server import make_server

        server, self.port = make_server(app), listening.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        self._started.append((server, thread))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server, thread in self._started:
            server.should_exit = True
            thread.join(20)

    def curl(self, command):
        command = [word.replace(":8000", f":{self.port}") for word in command]
        self.answer = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


def shown_json(text, served):
    """A request that the server takes, or the keys of the answer that the page's own request got."""
    value = json.loads(re.sub(r",\s*…", "", text).replace("…", "x"))
    if "model" not in value:
        PredictRequest.model_validate(value, strict=True)
        return
    assert value["model"].keys() <= served.answer["model"].keys()
    shown, got = value["visits"][0], served.answer["visits"][0]
    assert shown.keys() == got.keys()
    assert shown["visit_id"] == got["visit_id"] and shown["probabilities"].keys() <= got["probabilities"].keys()


def shown_yaml(text, _):
    """A task file, or a configuration."""
    Path("sepsis.csv").write_text("code,version\nA41.9,10\n99591,9\n")
    Path("shown.yaml").write_text(text)
    if "labels:" in text:
        assert len(load_task(TaskConfig(labels="shown.yaml")).names) == text.count("- name:")
    else:
        load("shown.yaml", [])


def shown_python(text, _):
    exec(compile(text, "page", "exec"), {})


OTHERS = {"json": shown_json, "yaml": shown_yaml, "python": shown_python, "text": lambda *_: None}


def names_what_there_is(command):
    """Files of this checkout, modules and extras that a command names which is left out."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in command:
        if re.fullmatch(r"cluster/deploy/\S+|[\w.-]+\.(yaml|txt)", word):
            assert (ROOT / word).is_file(), word
        if found := re.search(r"\[(\w+)\]$", word):
            assert found[1] in extras, word
    if "-m" in command:
        module = command[command.index("-m") + 1]
        assert module == "venv" or find_spec(module), module


@contextlib.contextmanager
def hospital_dump(place):
    """The invented German hospital of tests/ehr/test_your_hospital.py, and its wards of today."""
    from tests.ehr.test_your_hospital import HEADS, hospital

    for name in ("dump", "tables"):
        (place / name).mkdir()
    for (name, head), rows in zip(HEADS.items(), hospital(random.Random(5), 80), strict=True):
        with (place / "dump" / f"{name}.csv").open("w", encoding="cp1252", newline="") as file:
            csv.writer(file, delimiter=";").writerows([head.split(), *rows])
    shutil.copytree(place / "sources" / "tables", place / "today")
    shutil.move(place / "results" / "default", place / "results" / "first")
    yield


@contextlib.contextmanager
def label_tables(place):
    """MEDS label tables of two outcomes, and a task of one's own before the page shows its file."""
    events = [
        event
        for event in as_meds(as_mimic3(invented(1, subjects=40)))
        if event["code"].startswith("HOSPITAL_DISCHARGE")
    ]
    columns = {"subject_id": [e["subject_id"] for e in events], "prediction_time": [e["time"] for e in events]}
    for name in ("mortality", "readmission"):
        table = {**columns, "boolean_value": [number % 2 == 0 for number in range(len(events))]}
        pq.write_table(pa.table(table), place / f"{name}.parquet")
    (place / "labels.yaml").write_text("name: some\nlabels: [{name: Renal failure, icd9: [584-586]}]\n")
    shutil.copytree(place / "data" / "cohort", place / "data" / "cohort-readmission")
    yield


@contextlib.contextmanager
def exported_model(place):
    """What `ckd export model` would have left in DIR."""
    shutil.copytree(place / "results" / "default" / "student", place / "DIR")
    yield


@contextlib.contextmanager
def object_store(place):
    """An S3 server with a bucket named as on the page, and the cohort in it."""
    with s3_server() as port, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        for path in (place / "data" / "cohort").iterdir():
            write_bytes(f"s3://bucket/cohort/{path.name}", path.read_bytes())
        yield


PREPARED = {
    "your_hospital.md": hospital_dump,
    "labels.md": label_tables,
    "predict.md": exported_model,
    "storage.md": object_store,
}

if __name__ == "__main__":
    for page, block, command, done in everything():
        sys.stdout.write(
            f"{done if done in ('run', 'dry') else 'left out'} | {page.relative_to(ROOT)}:{block.line} | {command}"
        )
        sys.stdout.write("\n" if done in ("run", "dry") else f" | {done}\n")
