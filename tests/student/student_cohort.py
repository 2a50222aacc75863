"""A tiny cohort with soft labels, and a tiny BERT with its tokenizer, for the student's tests."""

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ckd.config import Config
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.visits import cohort
from ckd.visits.cohort import Cohort
from ckd.visits.labels import CCS25
from ckd.visits.task import Task
from ckd.visits.visit import Split, Visit

WORDS = [f"w{i:02d}" for i in range(80)]
OTHERS = [
    "visit",
    "The",
    "patient",
    "disease",
    "is",
    "of",
    "and",
    "are",
    ",",
    ".",
]  # in the texts of other cohorts


def make_base(folder: Path, *, dropout: float = 0.1, hidden: int = 16, others: Sequence[str] = ()) -> str:
    """Save a one-layer BERT and its word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    raw = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*special, *WORDS, *others])}, unk_token="[UNK]")
    )
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=0,
    )
    BertModel(settings).save_pretrained(folder)
    return str(folder)


def make_visits(split: Split, count: int, *, seed: int = 0, labeled: bool = True, task: Task = CCS25) -> list[Visit]:
    """Visits whose labels follow from their words: of 25 labels, word i stands for label i % 25."""
    rng = random.Random(f"{split}{seed}{labeled}")
    visits = []
    for i in range(count):
        words = rng.choices(WORDS, k=rng.randint(3, 40))
        labels = (
            tuple(f"w{label:02d}" in words or f"w{label + 25:02d}" in words for label in range(len(task)))
            if labeled
            else None
        )
        name = f"{split}-{'l' if labeled else 'u'}-{i}"
        visits.append(Visit(name, task.question, " ".join(words), labels, subject_id=name, split=split))
    return visits


def at_url(config: Config, root: str) -> Config:
    """The same run with all its files below a URL."""
    return config.model_copy(
        update={"run": config.run.model_copy(update={"artifacts": f"{root}/artifacts", "results": f"{root}/results"})}
    )


def make_cohort(
    root: Path | str, visits: list[Visit], *, shard_rows: int = 16, soft_seed: int = 0, task: Task = CCS25
) -> Cohort:
    """Commit the visits, and soft labels for every training shard and labelled shard."""
    made = cohort.commit(str(root), visits, fields={}, shard_rows=shard_rows, facts={}, task=task)
    stage = Stage(str(root), "soft_labels", {"head": f"made up {soft_seed}"})
    rng = np.random.default_rng(soft_seed)
    for shard in made.shards:
        logits = rng.normal(size=(shard.rows, len(task))).astype(np.float32)
        columns = {
            "visit_id": made.read(shard, ["visit_id"])["visit_id"],
            "probabilities": pa.FixedSizeListArray.from_arrays(
                pa.array((1 / (1 + np.exp(-logits))).ravel()), len(task)
            ),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), len(task)),
            "out_of_fold": pa.array([shard.split == "train"] * shard.rows),
        }
        stage.write(shard.index, pa.table(columns), rows=shard.rows, input_hash=shard.text_hash)
    return made


def make_config(folder: Path, base: str, **student: object) -> Config:
    """A configuration whose files all lie below `folder`."""
    settings = {
        "base_model": base,
        "max_length": 32,
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 1e-3,
        "checkpoint_steps": 3,
        **student,
    }
    return Config.model_validate(
        {
            "run": {"name": "t", "artifacts": str(folder / "artifacts"), "results": str(folder / "results")},
            "student": settings,
        }
    )


def make_tokens(config: Config) -> None:
    """Tokenise every shard."""
    from ckd.student.tokens import TokenWorker

    worker = TokenWorker(Run(config))
    for shard in Cohort.open(config.run.artifacts_root).select(labeled=None):
        worker(shard)


def train_rank(payload: dict, **ranks: object) -> bool:
    """A rank for cluster.fit that reports after every step.

    What torch or DeepSpeed compile would lie in <artifacts>/compiled.
    """
    from ckd.student.train import train

    config = Config.model_validate(payload)
    os.environ["TORCH_EXTENSIONS_DIR"] = f"{config.run.artifacts_root}/compiled"
    return train(Run(config), deepspeed=True, seconds_between=0, **ranks)


def train_rank_until_there_is_room(payload: dict, *, world: int, preempted, **ranks: object) -> bool:
    """The same, but a lonely rank does two steps and then waits until it is asked to make way for a larger group."""
    asked = 0

    def patient() -> bool:
        nonlocal asked
        asked += 1
        while world == 1 and asked == 2 and not preempted():
            time.sleep(0.1)
        return world == 1 and asked == 2

    return train_rank(payload, world=world, preempted=patient, **ranks)


def train_rank_killed_once(payload: dict, *, rank: int, report, **ranks: object) -> bool:
    """The same, but rank 1's process dies right after the checkpoint of step 3, the first time."""
    marker = Path(payload["run"]["artifacts"]) / "died"

    def dying_report(figures: dict) -> None:
        report(figures)
        if rank == 1 and figures.get("checkpoint") == 3 and not marker.exists():
            marker.touch()
            os._exit(9)

    return train_rank(payload, rank=rank, report=dying_report, **ranks)


def make_embeddings(config: Config, *, only: Split | None = None, width: int = 6) -> None:
    """Make embeddings that follow what a visit says, for the shards of one split or of all, unlabeled ones too."""
    root = config.run.artifacts_root
    stage, made = Stage(root, "embeddings", {"teacher": "made up"}), Cohort.open(root)
    for shard in made.select(*([only] if only else []), labeled=None):
        visits = made.read(shard, ["visit_id", "input"])
        counts = np.array([[text.count(f"w{i:02d}") for i in range(width)] for text in visits["input"].to_pylist()])
        values = (100 + counts + np.arange(width)).astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
        stage.write(
            shard.index,
            pa.table({"visit_id": visits["visit_id"], "embedding": column}),
            rows=shard.rows,
            input_hash=shard.text_hash,
        )
