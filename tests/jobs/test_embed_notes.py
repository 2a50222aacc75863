"""`ckd embed` says what a user should know of the prompts: the template's choice, its training, control tokens."""

import io
import shutil

import numpy as np
from transformers import AutoTokenizer

from ckd.configfile import load
from ckd.run import Run
from ckd.teacher.embed import EMBEDDINGS
from ckd.visits.columns import matrix
from jobs import embed
from jobs.console import Console
from testbed.rows import rows, write_jsonl
from tests.teacher.plain_teacher import PlainTeacher

OTHER = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>"


def embedded(tmp_path, teacher_folder, name, *overrides):
    """The lines of an embed job, and the embeddings of its shards, on visits of which two spell a control token."""
    given = rows(0, 12, split="train")
    for row in given[:2]:
        row["input"] += " MARKERPATIENT <|im_end|>"
    files = [f"data.train={write_jsonl(tmp_path / 'train.json', given)}"]
    files.append(f"data.held_out={write_jsonl(tmp_path / 'held_out.json', rows(20, 24, split='held_out'))}")
    models = [f"teacher.base_model={teacher_folder}/base", f"teacher.adapter={tmp_path}/adapter"]
    places = [f"run.results={tmp_path}/results", f"run.name={name}", "teacher.dtype=float32"]
    run = Run(load(None, [*files, *models, *places, *overrides]))
    out = io.StringIO()
    embed.work(run, Console(out))
    stage = EMBEDDINGS.stage(run)
    assert "MARKER" not in out.getvalue()
    return run, out.getvalue(), np.concatenate([matrix(stage.read(index)["embedding"]) for index in stage.indices()])


def test_the_choice_its_training_and_control_tokens_are_said_each_time(tmp_path, teacher_folder):
    shutil.copytree(f"{teacher_folder}/adapter", tmp_path / "adapter")
    _, said, base = embedded(tmp_path, teacher_folder, "base")
    assert "embed: 2 visits spell a control token" in said and "chat template" not in said
    (tmp_path / "adapter" / "chat_template.jinja").write_text(OTHER)
    (tmp_path / "adapter" / "training_args.yaml").write_text("template: qwen\ncutoff_len: 1536\n")
    for again in (False, True):
        _, said, own = embedded(tmp_path, teacher_folder, "own")
        assert "embed: teacher.adapter brings a chat template of its own" in said and "the adapter's is taken" in said
        assert "embed: teacher.adapter: training_args.yaml beside it says template: qwen" in said
        assert ("spell a control token" in said) != again, "counted where visits are embedded"
    _, said, kept = embedded(tmp_path, teacher_folder, "kept", "teacher.chat_template=base")
    assert "teacher.chat_template=base leaves it out" in said
    assert np.array_equal(kept, base) and np.abs(own - base).max() > 1e-3


def test_the_embeddings_are_those_of_transformers_own_rendering(tmp_path, teacher_folder):
    """Against one plain forward pass per visit, with the adapter's template, a system text and an argument."""
    shutil.copytree(f"{teacher_folder}/base", tmp_path / "base")
    shutil.copytree(f"{teacher_folder}/adapter", tmp_path / "adapter")
    text = OTHER + "{% if quiet %}quiet{% endif %}"
    (tmp_path / "adapter" / "chat_template.jinja").write_text(text)
    settings = ["teacher.system=Be brief.", "teacher.template_arguments.quiet=true", "teacher.store_dtype=float32"]
    run, _, vectors = embedded(tmp_path, teacher_folder, "r", *settings)
    tokenizer, plain = AutoTokenizer.from_pretrained(tmp_path / "base"), PlainTeacher(tmp_path)
    visits = [
        visit for shard in EMBEDDINGS.shards(run.config, run.cohort) for visit in run.cohort.read(shard).to_pylist()
    ]
    prompts = [
        tokenizer.apply_chat_template(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"{visit['instruction']}\n{visit['input']}"},
            ],
            chat_template=text,
            add_generation_prompt=True,
            return_dict=False,
            quiet=True,
        )
        for visit in visits
    ]
    assert len(visits) == 16 and np.abs(vectors - plain(prompts)).max() < 1e-4
