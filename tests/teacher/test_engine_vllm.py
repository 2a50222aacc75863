"""The vLLM engine where vLLM is installed (`make test-vllm`), and what it refuses before it imports vLLM.

test_engine_contract.py tests its contract.
"""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ckd.config import TeacherConfig
from ckd.configfile import load
from ckd.errors import ConfigError
from ckd.run import Run
from ckd.teacher.embed import EMBEDDINGS, EmbedWorker
from ckd.teacher.engine_vllm import VllmEngine
from ckd.teacher.engines import load_engine
from ckd.teacher.lora_file import shapes_in, weights_outside_embeddings
from ckd.visits import cohort as cohorts
from ckd.visits.columns import matrix
from tests.teacher.embedded import visits
from tests.teacher.engine_contract import MAX_LENGTH, WEAK, ids, mixed, sharing
from tests.teacher.plain_teacher import SIZE, PlainTeacher, contract_teacher

HERE = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not HERE, reason="vLLM is not installed in this environment: make test-vllm")


KEPT = []  # vLLM takes its process groups down with the first engine of a process that dies: none dies before the end


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return contract_teacher(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def plain(folder):
    return PlainTeacher(folder)


def config(folder, **changed):
    given = {
        "base_model": f"{folder}/base",
        "adapter": f"{folder}/adapter",
        "engine": "vllm",
        "dtype": "float32",
        "max_length": MAX_LENGTH,
    }
    return TeacherConfig(**(given | changed))


def loaded(config):
    KEPT.append(load_engine(config, 0))
    return KEPT[-1]


def refused(message, config, kind=VllmEngine):
    with pytest.raises(ConfigError, match=message) as error:
        kind(config, 0)
    KEPT.append(error)
    assert "\n" not in str(error.value)


def edited(folder, to, settings=(), tensors=None):
    """A copy of the folder whose adapter has other settings, and tensors as `tensors(name, value)` gives them.

    None: that tensor is left out.
    """
    shutil.copytree(folder, to)
    path = to / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(settings)))
    if tensors:
        path = to / "adapter" / "adapter_model.safetensors"
        changed = {name: tensors(name, value) for name, value in load_file(path).items()}
        save_file({name: value for name, value in changed.items() if value is not None}, path, {"format": "pt"})
    return str(to)


@pytest.fixture(scope="module")
def engine(folder):
    return loaded(config(folder))


@needs_vllm
def test_how_far_it_is_from_the_plain_forward_is_printed(engine, plain, capsys):
    prompts = [*mixed(), *sharing()]
    found, wanted, bare = engine.encode(prompts), plain(prompts), plain(prompts, adapter=False)
    apart, adapter = np.abs(found - wanted).max(), np.abs(wanted - bare).max()
    with capsys.disabled():
        sys.stdout.write(
            f"\nvLLM and transformers, float32: {apart:.1e} apart at most; "
            f"the adapter moves embeddings by up to {adapter:.1f}\n"
        )
    assert apart <= 1e-4


@needs_vllm
def test_without_an_adapter_it_is_the_base_model(folder, plain):
    bare = loaded(config(folder, adapter=""))
    np.testing.assert_allclose(bare.encode(sharing()), plain(sharing(), adapter=False), atol=1e-4)
    assert bare.load.adapter is None


@needs_vllm
def test_bfloat16_points_where_float32_points(folder, plain):
    found, wanted = loaded(config(folder, dtype="bfloat16")).encode(mixed()), plain(mixed())
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.999


@needs_vllm
def test_a_token_budget_cuts_prompts_into_chunks_and_changes_nothing(folder, plain):
    chunked = loaded(config(folder, token_budget=200))
    np.testing.assert_allclose(chunked.encode([*mixed(), *sharing()]), plain([*mixed(), *sharing()]), atol=1e-4)


@needs_vllm
def test_an_adapter_that_reaches_no_forward_pass_is_refused(folder):
    class Forgetful(VllmEngine):
        def _pool(self, prompts, lora):
            return super()._pool(prompts, None)

    refused("teacher.adapter=.*the same with and without it", config(folder), Forgetful)


@needs_vllm
def test_an_adapter_that_was_never_trained_is_refused(folder, tmp_path):
    untrained = edited(folder, tmp_path / "t", tensors=lambda name, value: value * ("lora_A" in name))
    refused("the same with and without it", config(untrained))


@needs_vllm
@pytest.mark.parametrize(
    ("settings", "tensors"),
    [
        ({"use_rslora": True}, None),
        ({"lora_alpha": 3}, None),
        ({"layers_to_transform": [1]}, lambda name, value: value if "layers.1." in name else None),
        ({"target_modules": ["v_proj"]}, lambda name, value: value if "v_proj" in name else None),
        ({"target_modules": ["down_proj"]}, lambda name, value: value if "down_proj" in name else None),
    ],
    ids=["rslora", "alpha", "one_layer", "inside_a_fused_projection", "down_proj"],
)
def test_plain_adapters_of_every_shape_are_applied_as_peft_does(settings, tensors, folder, tmp_path):
    other = edited(folder, tmp_path / "t", settings, tensors)
    wanted = PlainTeacher(other)
    assert np.abs(wanted(sharing()) - wanted(sharing(), adapter=False)).max() > WEAK
    np.testing.assert_allclose(loaded(config(other)).encode(sharing()), wanted(sharing()), atol=1e-4)


@needs_vllm
def test_nothing_is_printed_while_patients_pass(engine, capfd):
    engine.encode([ids(40, seed=n) for n in range(20)])
    assert capfd.readouterr() == ("", "")


@needs_vllm
def test_a_model_that_vllm_cannot_load_is_a_config_error(folder):
    refused("teacher.base_model=.*vLLM cannot load it", config(folder, max_length=4096))


@needs_vllm
def test_the_same_worker_and_store_take_it(folder, plain, tmp_path):
    keys = [
        f"run.results={tmp_path}",
        f"teacher.base_model={folder}/base",
        f"teacher.adapter={folder}/adapter",
        "teacher.engine=vllm",
    ]
    given = load(
        None,
        [
            *keys,
            "run.name=t",
            "teacher.dtype=float32",
            "teacher.store_dtype=float32",
            f"teacher.max_length={MAX_LENGTH}",
        ],
    )
    facts = {"quarantined": 0, "teacher_saw_held_out": False, "grouped_by": "subject"}
    cohort = cohorts.commit(given.run.artifacts_root, visits(["train"] * 6), fields={}, shard_rows=6, facts=facts)
    worker = EmbedWorker(Run(given))
    [shard] = cohort.shards
    KEPT.append(worker)
    assert worker(shard)["rows"] == 6
    table = cohort.read(shard, ["instruction", "input"])
    prompts, _ = worker.engine.prompter.encode(table["instruction"].to_pylist(), table["input"].to_pylist())
    np.testing.assert_allclose(
        matrix(EMBEDDINGS.stage(Run(given)).read(shard.index)["embedding"]), plain(prompts), atol=1e-4
    )


@pytest.mark.skipif(HERE, reason="vLLM is installed here")
def test_without_vllm_the_way_to_it_is_named(folder):
    way = r"it cannot be imported \(.*vllm.*\); pip install -c constraints-vllm.txt '.\[vllm\]'"
    with pytest.raises(ConfigError, match=f"teacher.engine=vllm: {way}"):
        load_engine(config(folder), 0)


@pytest.mark.parametrize(
    ("changed", "gpus", "message"),
    [
        ({"merge_adapter": True}, 0, "teacher.merge_adapter=True: for teacher.engine=transformers only"),
        ({"compile": True}, 0, "teacher.compile=True: for teacher.engine=transformers only"),
        ({"device_map": "auto"}, 2, "teacher.device_map=auto: for teacher.engine=transformers only"),
        ({"tensor_parallel": 4}, 1, "teacher.tensor_parallel=4: teacher.gpus_per_worker is 1"),
        ({}, 2, "teacher.tensor_parallel=1: teacher.gpus_per_worker is 2"),
        ({}, 1, "teacher.dtype=float32: vLLM's LoRA kernels"),
    ],
)
def test_settings_that_vllm_would_ignore_are_refused_before_anything_loads(changed, gpus, message, folder):
    with pytest.raises(ConfigError, match=message):
        VllmEngine(config(folder, **changed), gpus)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("alpha_pattern", {"q_proj": 64}),
        ("rank_pattern", {"q_proj": 2}),
        ("use_dora", True),
        ("bias", "all"),
        ("init_lora_weights", "pissa"),
    ],
)
def test_an_adapter_that_vllm_would_apply_otherwise_than_peft_is_refused(setting, value, folder, tmp_path):
    refused(
        f"adapter_config.json sets {setting}; expected plain LoRA",
        config(edited(folder, tmp_path / "t", {setting: value})),
    )


def test_an_adapter_of_too_high_a_rank_is_refused(folder, tmp_path):
    refused("rank 1024, vLLM takes 512 at most", config(edited(folder, tmp_path / "t", {"r": 1024})))


def test_an_adapter_for_layers_that_the_model_does_not_have_is_refused(folder, tmp_path):
    path = tmp_path / "t" / "adapter" / "adapter_model.safetensors"
    edited(folder, tmp_path / "t")
    save_file(
        {name.replace("layers.1.", "layers.7."): value for name, value in load_file(path).items()},
        path,
        {"format": "pt"},
    )
    refused(
        r"layers\.7\.\S+ has no place in teacher\.base_model, and 13 more like it; expected", config(tmp_path / "t")
    )


def test_an_adapter_of_a_wider_model_is_refused(folder, tmp_path):
    wider = edited(
        folder,
        tmp_path / "t",
        tensors=lambda name, value: np.concatenate([value, value], 1) if "q_proj.lora_A" in name else value,
    )
    message = (
        r"q_proj\.lora_A\.weight has shape \[4, 256\], its place in teacher\.base_model \[4, 128\], and 1 more like it"
    )
    refused(message, config(wider))


def test_an_adapter_without_tensors_is_refused(folder, tmp_path):
    refused(
        "its weights file holds no tensors", config(edited(folder, tmp_path / "t", tensors=lambda name, value: None))
    )


def test_the_weights_counted_are_those_that_multiply(folder):
    tensors = shapes_in(f"{folder}/base")
    hidden, wide, layers, heads = SIZE.hidden, 2 * SIZE.hidden, SIZE.layers, 2
    projections = layers * (2 * hidden * hidden + 2 * hidden * hidden * heads // 4 + 3 * hidden * wide)
    assert projections < weights_outside_embeddings(tensors.items()) < projections * 1.01  # biases and norms
