"""What a wrong model costs: no forward pass. `run` and `doctor` refuse it before the teacher's pass."""

import io
import shutil
from argparse import Namespace

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from ckd.configfile import load
from ckd.errors import ConfigError
from ckd.run import Run
from jobs import doctor, pipeline, train_student
from jobs.console import Console
from testbed.rows import rows, write_jsonl
from tests.student.student_cohort import make_base


def without_a_layer(folder: str, to) -> str:
    shutil.copytree(folder, to)
    file = to / "model.safetensors"
    tensors = {n: v for n, v in load_file(file).items() if "layers.0." not in n and "layer.0." not in n}
    save_file(tensors, file, {"format": "pt"})
    return str(to)


def without_words(folder: str, to) -> str:
    shutil.copytree(folder, to)
    (to / "tokenizer.json").unlink()
    (to / "tokenizer_config.json").unlink()
    return str(to)


def without_weights(folder: str, to) -> str:
    shutil.copytree(folder, to)
    (to / "model.safetensors").unlink()
    return str(to)


@pytest.fixture
def words(tmp_path, teacher_folder):
    """A configuration that would run, as words."""
    return [
        f"data.train={write_jsonl(tmp_path / 'train.json', rows(0, 40))}",
        f"data.tuning={write_jsonl(tmp_path / 'tuning.json', rows(40, 60))}",
        f"teacher.base_model={teacher_folder}/base",
        f"student.base_model={make_base(tmp_path / 'bert')}",
        f"run.results={tmp_path}/results",
        f"run.public_files={tmp_path}",
        "teacher.dtype=float32",
        "student.max_length=32",
    ]


@pytest.mark.parametrize("key", ["teacher.base_model", "student.base_model"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_layer, "tensors are not in its files"),
        (without_words, "no vocabulary|no chat template"),
        (without_weights, "folder has no weights"),
    ],
    ids=["a layer", "the vocabulary", "weights"],
)
def test_a_model_that_is_not_whole_is_refused_by_run_and_doctor_before_a_visit_is_read(
    words, tmp_path, capsys, key, damage, message
):
    named = next(word for word in words if word.startswith(key)).partition("=")[2]
    config = load(None, [*words, f"{key}={damage(named, tmp_path / 'damaged')}"])
    with pytest.raises(ConfigError, match=f"^{key}=.*damaged: .*({message})"):
        pipeline.run(config, Console(io.StringIO()))
    assert not (tmp_path / "results/default/artifacts").exists()
    screen = io.StringIO()
    with pytest.raises(ConfigError):
        doctor.run(config, Console(screen), Namespace(address="", wake=False, config="", words=words))
    found = [line for line in screen.getvalue().splitlines() if line.startswith("todo models")]
    assert len(found) == 1 and key in found[0]


def test_doctor_names_a_template_that_cannot_do_what_was_asked(words, tmp_path):
    """Before the weights and the visits, as `run` does."""
    config = load(None, [*words, "teacher.template_arguments.enable_thinking=false"])
    with pytest.raises(ConfigError, match=r"^teacher\.template_arguments\.enable_thinking: .*does not read it"):
        pipeline.run(config, Console(io.StringIO()))
    assert not (tmp_path / "results/default/artifacts").exists()
    screen = io.StringIO()
    with pytest.raises(ConfigError):
        doctor.run(config, Console(screen), Namespace(address="", wake=False, config="", words=words))
    assert any("todo models" in line and "enable_thinking" in line for line in screen.getvalue().splitlines())


def test_a_tokenizer_that_knows_none_of_the_words_is_refused_and_one_that_lacks_some_is_counted(words, tmp_path):
    BertModel(
        BertConfig(vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path / "small")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for known, refused in ((["herz"], True), (["visit"], False)):
        (tmp_path / "small/vocab.txt").write_text("\n".join([*special, *known]))
        config = load(None, [*words, f"student.base_model={tmp_path}/small"])

        run, screen = Run(config), io.StringIO()
        shards = run.prepare(print).select("train")
        if refused:
            with pytest.raises(ConfigError, match="its tokenizer does not know 100% of the text of shard 1"):
                train_student.tokenize(run, Console(screen), shards)
        else:
            train_student.tokenize(run, Console(screen), shards)
            assert "tokens: 25.00% of 160 tokens are unknown to the tokenizer ([UNK])" in screen.getvalue()
