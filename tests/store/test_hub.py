"""A Hub id with a revision is what runs; what the Hub refuses and what it cannot answer now are told apart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ckd.config import Config, TeacherConfig
from ckd.errors import ConfigError, UnreachableError
from ckd.run import Run
from ckd.store.hub import adapter_on_hub, is_hub_id
from ckd.store.models import adapter_hash, local_adapter, local_folder, model_fields, without_weights
from ckd.teacher.embed import local_teacher, teacher_fields
from ckd.teacher.engine_hf import TransformersEngine
from jobs.stages import refusals
from tests.store.fake_hub import COMMIT, OLDER, TOKEN
from tests.teacher.embedded import embedded, visits

KEY = "teacher.base_model"
NOWHERE = "http://127.0.0.1:1"
PROMPTS = [[5] * 20 + [6], [5] * 20 + [7, 8]]


@pytest.fixture
def model(hub, teacher_folder, tmp_path):
    """org/model: `main` is the tiny teacher, tag `v1` (commit OLDER) another one, with files that nobody loads."""
    older = tmp_path / "older"
    shutil.copytree(f"{teacher_folder}/base", older)
    weights = load_file(older / "model.safetensors")
    save_file({name: value + 0.1 for name, value in weights.items()}, older / "model.safetensors", {"format": "pt"})
    for unused in ("pytorch_model.bin", "consolidated.safetensors", "tf_model.h5", "onnx/model.onnx"):
        (older / unused).parent.mkdir(exist_ok=True)
        (older / unused).write_bytes(b"other weights")
    hub.add("org/model", f"{teacher_folder}/base")
    hub.add("org/model", older, OLDER, "v1", "refs/pr/1")
    return older


@pytest.mark.parametrize("revision", ["v1", OLDER, "refs/pr/1"])
def test_a_revision_is_what_is_loaded_and_what_the_fingerprint_names(hub, model, revision):
    name = f"org/model@{revision}"
    assert model_fields(KEY, name) == {KEY: f"org/model@{OLDER}", f"{KEY} tokenizer": f"org/model@{OLDER}"}
    there = TransformersEngine(TeacherConfig(base_model=name, dtype="float32"), 0)
    here = TransformersEngine(TeacherConfig(base_model=str(model), dtype="float32"), 0)
    assert there.encode(PROMPTS).tobytes() == here.encode(PROMPTS).tobytes()
    assert there.load.revision == f"org/model@{OLDER}"
    fetched = {path.rpartition("/")[2] for path in hub.asked if path.startswith("GET") and "/resolve/" in path}
    assert fetched >= {"config.json", "tokenizer.json", "model.safetensors"}
    assert not fetched & {"pytorch_model.bin", "consolidated.safetensors", "tf_model.h5", "model.onnx"}


def test_main_is_the_default_and_other_weights_than_the_tags(model, teacher_folder):
    found = [TransformersEngine(TeacherConfig(base_model=f"org/model{r}", dtype="float32"), 0) for r in ("", "@v1")]
    assert found[0].load.revision == f"org/model@{COMMIT}"
    assert np.abs(found[0].encode(PROMPTS) - found[1].encode(PROMPTS)).max() > 0.01
    here = TransformersEngine(TeacherConfig(base_model=f"{teacher_folder}/base", dtype="float32"), 0)
    assert found[0].encode(PROMPTS).tobytes() == here.encode(PROMPTS).tobytes()


def test_weights_in_shards_are_those_that_their_index_names(hub, tmp_path, teacher_folder):
    folder = tmp_path / "shards"
    shutil.copytree(f"{teacher_folder}/base", folder)
    weights = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    shards = {"a-1.safetensors": dict(weights[::2]), "a-2.safetensors": dict(weights[1::2])}
    for file, tensors in shards.items():
        save_file(tensors, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.add("org/shards", folder)
    there = TransformersEngine(TeacherConfig(base_model="org/shards", dtype="float32"), 0)
    here = TransformersEngine(TeacherConfig(base_model=f"{teacher_folder}/base", dtype="float32"), 0)
    assert there.encode(PROMPTS).tobytes() == here.encode(PROMPTS).tobytes()


def test_an_adapter_of_the_hub_is_the_folders(hub, model, teacher_folder):
    hub.add("org/lora", f"{teacher_folder}/adapter")
    config = TeacherConfig(base_model="org/model", adapter="org/lora@main", dtype="float32")
    assert adapter_hash("teacher.adapter", config.adapter) == f"org/lora@{COMMIT}"
    assert teacher_fields(Config(teacher=config))["teacher.adapter"] == f"org/lora@{COMMIT}"
    there = TransformersEngine(local_teacher(config), 0)
    folder = config.model_copy(update={"adapter": f"{teacher_folder}/adapter"})
    assert there.encode(PROMPTS).tobytes() == TransformersEngine(folder, 0).encode(PROMPTS).tobytes()


def test_the_configuration_and_tokenizer_come_without_weights(hub, model):
    with without_weights(KEY, "org/model@v1") as folder:
        assert (Path(folder) / "tokenizer.json").is_file() and not (Path(folder) / "model.safetensors").exists()
    assert not any("safetensors" in path for path in hub.asked)


def test_what_is_cached_is_asked_of_nobody(hub, model):
    folder = local_folder(KEY, f"org/model@{COMMIT}")
    assert local_folder(KEY, "org/model") == folder
    hub.asked.clear()
    hub.refs["org/model", "main"] = OLDER  # the branch moves on; the run does not
    for name in ("org/model", "org/model@main", f"org/model@{COMMIT}"):
        assert local_folder(KEY, name) == folder and model_fields(KEY, name)[KEY] == f"org/model@{COMMIT}"
    assert not hub.asked


def test_nothing_is_told_of_this_machine(hub, model):
    hub.asked.clear()
    local_folder(KEY, "org/model@v1")
    assert all(path.split()[1].startswith(("/api/models/org/model/", "/org/model/resolve/")) for path in hub.asked)
    assert hub.agents and not any("torch" in agent or "agent" in agent for agent in hub.agents)


def test_a_gated_model_names_its_page_and_the_token(hub, model, monkeypatch):
    hub.gated.add("org/model")
    for ask in (model_fields, local_folder):
        with pytest.raises(ConfigError) as found:
            ask(KEY, "org/model")
        assert f"{hub.url}/org/model is gated; accept its licence on that page and set HF_TOKEN" in str(found.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert model_fields(KEY, "org/model")[KEY] == f"org/model@{COMMIT}"


@pytest.mark.parametrize(
    ("name", "token", "said"),
    [
        ("org/none", "", "org/none is no repository; check the name, or if it is private set HF_TOKEN"),
        ("org/none", TOKEN, "an account that may read it, not the present one"),
        ("org/model@v9", "", "/org/model has no revision v9; expected a branch, a tag or a commit"),
        (f"org/model@{'c' * 40}", "", f"has no revision {'c' * 40}"),
        ("org/model", "hf_of_another", r"/org/model refuses HF_TOKEN \(401\)"),
        ("org/private", "", "org/private is no repository"),
        ("org/empty", "", "no config.json in http://127.0.0.1"),
        ("a/b/c", "", "a/b/c: no such folder; expected a folder or a Hub id"),
        ("org/model@", "", "no such folder; expected a folder or a Hub id"),
    ],
)
def test_what_the_user_must_mend_is_one_line_and_exit_code_2(hub, model, tmp_path, monkeypatch, name, token, said):
    (tmp_path / "empty").mkdir()
    hub.add("org/empty", tmp_path / "empty")
    hub.add("org/private", model)
    hub.private.add("org/private")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError, match=said) as found:
        model_fields(KEY, name)
    assert found.value.exit_code == 2 and str(found.value).startswith(f"{KEY}={name}: ")
    assert "\n" not in str(found.value) and (not token or token not in str(found.value))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_cannot_now_is_exit_code_3(hub, model, status):
    hub.broken = status
    with pytest.raises(UnreachableError, match=rf"does not answer \({status}\)"):
        model_fields(KEY, "org/model")


def test_no_hub_at_all_is_exit_code_3_and_a_cache_is_enough(model, monkeypatch):
    from huggingface_hub import constants

    folder = local_folder(KEY, f"org/model@{COMMIT}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", NOWHERE + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    with pytest.raises(UnreachableError, match="does not answer"):
        model_fields(KEY, "org/model@v1")
    assert local_folder(KEY, f"org/model@{COMMIT}") == folder


def test_offline_says_so(model, monkeypatch):
    from huggingface_hub import constants

    folder = local_folder(KEY, f"org/model@{COMMIT}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_folder(KEY, f"org/model@{COMMIT}") == folder
    for ask in (model_fields, local_folder):
        with pytest.raises(
            ConfigError, match=r"HF_HUB_OFFLINE=1 and it is not, .*'hf download org/model --revision v1'"
        ):
            ask(KEY, "org/model@v1")


def test_an_adapter_of_the_hub_that_cannot_be_run_whole_is_refused_from_its_settings(
    hub, model, teacher_folder, tmp_path
):
    shutil.copytree(f"{teacher_folder}/adapter", tmp_path / "prefix")
    (tmp_path / "prefix" / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    hub.add("org/prefix", tmp_path / "prefix")
    config = Config(teacher=TeacherConfig(base_model="org/model", adapter="org/prefix@main"))
    with pytest.raises(ConfigError, match=r"teacher\.adapter=org/prefix@main: it is PREFIX_TUNING, which acts beside"):
        teacher_fields(config)


def test_what_is_stored_can_be_looked_at_while_the_hub_does_not_answer(hub, tmp_path):
    config, _, _ = embedded(tmp_path, visits(["train"] * 4), overrides=["teacher.base_model=org/model@main"])
    hub.broken, said = 503, []
    assert not refusals(Run(config), said.append)
    assert any("not compared teacher.base_model=org/model@main" in line and "does not answer" in line for line in said)


def test_a_repository_without_weights_and_one_without_an_adapter(hub, model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("model.safetensors", "pytorch_model.bin"))
    hub.add("org/bare", bare)
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        local_folder(KEY, "org/bare")
    with pytest.raises(ConfigError, match=r"no adapter_config\.json in http"):
        adapter_hash("teacher.adapter", "org/bare@main")
    with pytest.raises(ConfigError, match=r"no adapter_config\.json with adapter_model"):
        local_adapter("org/bare@main")


def test_what_is_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@b").mkdir()
    ids = ["bert-base-uncased", "org/name", "org/name@v1.0", "org/name@refs/pr/3", "gpt2@main"]
    assert [name for name in [*ids, "a@b", "./x", "/x", "x/y/z", "s3://b/x@y", "org/name@"] if is_hub_id(name)] == ids
    assert adapter_on_hub("org/lora@main") and not adapter_on_hub("lora/model")
