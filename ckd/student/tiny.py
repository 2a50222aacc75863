"""A small BERT made locally, for the demo and the tests: a tokenizer trained on some texts, and a fresh network.

The network has read nothing: masked-token training was tried and made the demo's student no better.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging

from ckd.store.artifacts import FolderArtifact
from ckd.store.files import digest
from ckd.visits.labels import CCS25

# Names and phrases stay whole between these marks, so that a visit is a few dozen tokens.
_MARKS = r", |; |: |\. |\.$| are | is "
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class StudentSize:
    """Geometry of the tiny student."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    vocabulary: int = 3000
    positions: int = 512
    dropout: float = 0.1


SMALLEST = StudentSize(hidden=32, heads=2, vocabulary=600)


def make_student(folder: str, inputs: Sequence[str], seed: int, size: StudentSize = StudentSize()) -> FolderArtifact:
    """Write model and tokenizer into `folder` unless they are there; the tokenizer learns from `inputs`.

    Training gives it a new head for the task's labels; the one that it has here is of ccs25.

    Raises ArtifactError when the folder holds a student made otherwise.
    """
    artifact = FolderArtifact(folder, {"tiny": "student 1", "seed": seed, "data": digest(list(inputs)), **asdict(size)})
    if artifact.is_done():
        return artifact
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer(inputs, size)
        student = BertForSequenceClassification(_config(tokenizer, size))
    tokenizer.save_pretrained(folder)
    student.save_pretrained(folder)
    artifact.commit(sorted(file.name for file in Path(folder).iterdir() if file.is_file()))
    return artifact


def _tokenizer(inputs: Sequence[str], size: StudentSize) -> Any:
    unknown = "[UNK]"
    raw = Tokenizer(models.WordPiece(unk_token=unknown, max_input_chars_per_word=200))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(_MARKS), "removed")
    raw.train_from_iterator(
        inputs, trainers.WordPieceTrainer(vocab_size=size.vocabulary, special_tokens=_SPECIAL, show_progress=False)
    )
    ends = [(token, raw.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{token[1:-1].lower()}_token": token for token in _SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=size.positions, **names)


def _config(tokenizer: Any, size: StudentSize) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=2 * size.hidden,
        max_position_embeddings=size.positions,
        initializer_range=size.hidden**-0.5 / 2,  # BERT's .02 is meant for 768
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=size.dropout,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(CCS25.names)),
        label2id=dict(CCS25.index),
        problem_type="multi_label_classification",
    )
