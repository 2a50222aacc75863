"""Stage `embeddings`: one teacher embedding per visit, shard by shard, with the next window tokenised ahead."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from ckd.batching import windows
from ckd.config import Config, TeacherConfig
from ckd.errors import ConfigError
from ckd.heartbeat import beat, beating
from ckd.run import Run, deciding
from ckd.stage import Step
from ckd.store.artifacts import Fields, Versions, require_equal
from ckd.store.models import adapter_hash, local_adapter, local_folder, model_fields
from ckd.store.versions import versions
from ckd.teacher.accounting import Meter
from ckd.teacher.adapter import read_adapter
from ckd.teacher.engine import Engine
from ckd.teacher.engines import load_engine
from ckd.teacher.lender import NOWHERE, TEXTS, Places, Rows, together
from ckd.teacher.lora_file import plain_lora_rank
from ckd.teacher.prompt_identity import prompt_fields
from ckd.teacher.work import Work
from ckd.threads import thread_pool
from ckd.visits.audit import finite
from ckd.visits.cohort import Cohort
from ckd.visits.columns import lists
from ckd.visits.visit import Shard

# Visits tokenised ahead of the forward pass: one call of the engine, so a shared prefix of 201 tokens costs 0.1 % of
# it.
WINDOW = 512
FIRST = 64  # of the first window: the device waits only for these to be tokenised


def teacher_fields(config: Config) -> Fields:
    """Everything that changes an embedding's value, nothing else. Raises ConfigError when a model is not there.

    And when an adapter's files show that it cannot be run whole: before a worker or a GPU is asked for.
    """
    teacher = config.teacher
    if teacher.adapter:
        adapter = read_adapter(teacher.adapter)
        if teacher.engine == "vllm":
            plain_lora_rank(adapter)
    model = model_fields("teacher.base_model", teacher.base_model)
    return {
        **model,
        "teacher.adapter": adapter_hash("teacher.adapter", teacher.adapter) if teacher.adapter else None,
        **deciding(config, "teacher", "adapter_share", "system", "template_arguments"),
        **prompt_fields(teacher, str(model["teacher.base_model tokenizer"])),
    }


def local_teacher(config: TeacherConfig) -> TeacherConfig:
    """The same teacher with an adapter that lies on this machine.

    Engines take a base model from a URL or the Hub themselves, but PEFT and vLLM take no adapter from one.
    """
    return config.model_copy(update={"adapter": local_adapter(config.adapter)}) if config.adapter else config


def _libraries(config: TeacherConfig) -> list[str]:
    other = ["vllm"] if config.engine == "vllm" else ["peft"] if config.adapter else []
    return ["torch", "transformers", "tokenizers", *other]


def shards_to_embed(config: Config, cohort: Cohort) -> list[Shard]:
    """Labelled visits of every split; unlabeled training visits only where the student learns from them."""
    shards = cohort.select()
    if config.student.use_unlabeled:
        shards += cohort.select("train", labeled=False)
    return shards


class EmbedWorker:
    """Embeds one shard per call. Making it loads the model. Safe to run twice on a shard.

    The fingerprint is the driver's: a machine that finds another model under the same name refuses (ArtifactError). Two
    threads may call it at once: the engine computes one shard after the other, so that reading, tokenising and writing
    one overlaps the forward passes of the other.
    """

    def __init__(
        self, run: Run, engine: Engine | None = None, meter: Meter | None = None, lent: Rows | None = None
    ) -> None:
        """`engine`: one that is loaded already; `lent`: of which shards another run has some visits' embeddings."""
        self.run, self.stage = run, EMBEDDINGS.stage(run)
        self.engine = engine or self._loaded()
        self.meter = meter or Meter(self.engine, run.config.teacher)
        self.lent = lent
        self.turn = threading.Lock()  # the model computes one shard at a time

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Write part `shard.index`; returns index, rows, seconds, tokens, truncated, controls, account.

        `controls` counts the visits whose text spells a control token of the tokenizer; for account see accounting.
        """
        started = time.monotonic()
        table = self.run.cohort.read(shard, TEXTS)
        places = self.lent.places.get(shard.index) if self.lent else None
        own = table if places is None else table.filter(places == NOWHERE)
        texts = own["instruction"].to_pylist(), own["input"].to_pylist()
        vectors, tokens, truncated, work = encode_texts(self.engine, *texts, self.turn)
        part, made = self._part(table["visit_id"], places, column(vectors, self.run.config.teacher))
        self.stage.write(shard.index, part, rows=shard.rows, input_hash=shard.text_hash, made_with=made)
        done = {"index": shard.index, "rows": shard.rows, "seconds": time.monotonic() - started}
        account = self.meter.read(started, len(own), tokens, work)
        controls = self.engine.prompter.with_control_tokens(*texts)
        return {**done, "tokens": tokens, "truncated": truncated, "controls": controls, "account": account}

    def _part(
        self, ids: pa.ChunkedArray, places: Places | None, computed: pa.Array
    ) -> tuple[pa.Table, Versions | None]:
        if self.lent is None or places is None:
            return pa.table({"visit_id": ids, "embedding": computed}), None
        part, others = self.lent.filled(ids, places, computed)
        return part, together([versions(self.stage.libraries), *others])

    def _loaded(self) -> Engine:
        teacher = self.run.config.teacher
        local_folder("teacher.base_model", teacher.base_model)  # of a URL this machine's copy is what is hashed
        with beating("embed: reading the teacher's files"):
            self._require_same_model()
        with beating("embed: loading the teacher"):
            return load_engine(local_teacher(teacher), teacher.gpus_per_worker)

    def _require_same_model(self) -> None:
        place = f"teacher.base_model={self.run.config.teacher.base_model} on this machine"
        require_equal(place, teacher_fields(self.run.config), self.stage.fields)


EMBEDDINGS = Step(
    name="embeddings",
    command="ckd embed",
    label="embed",
    title="Teacher reads the visits",
    fingerprint=lambda run: teacher_fields(run.config),
    shards=shards_to_embed,
    worker=EmbedWorker,
    proves={"embedding": finite},
    libraries=lambda config: _libraries(config.teacher),
)


def encode_texts(
    engine: Engine, instructions: list[str], inputs: list[str], turn: AbstractContextManager[Any] | None = None
) -> tuple[np.ndarray, int, int, Work]:
    """float32 [n, hidden] in the order given, tokens, prompts truncated, the engine's work.

    Tokenising one window overlaps the forward pass of another. `turn` is held from the first call of the engine to the
    last, not per call: shards that take turns end together, and then the device waits for both to be written and two
    others to be read.
    """
    vectors = np.empty((len(inputs), engine.hidden), np.float32)
    tokens = truncated = computed = 0
    ahead = _tokenised_ahead(engine, instructions, inputs)
    first = next(ahead)  # tokenised before the turn comes
    with turn or nullcontext():
        for rows, prompts, cut in chain([first], ahead):
            vectors[rows] = engine.encode(prompts)
            computed += len(rows)
            beat(f"embed: {computed:,} of the {len(inputs):,} visits of this shard computed")
            tokens += sum(map(len, prompts))
            truncated += cut
        return vectors, tokens, truncated, engine.take_work()


def _tokenised_ahead(
    engine: Engine, instructions: list[str], inputs: list[str]
) -> Iterator[tuple[list[int], list[list[int]], int]]:
    def tokenise(rows: list[int]) -> tuple[list[list[int]], int]:
        return engine.prompter.encode([instructions[i] for i in rows], [inputs[i] for i in rows])

    longest, *others = windows([len(text) for text in inputs], WINDOW)
    plan = [rows for rows in (longest[:FIRST], longest[FIRST:], *others) if rows]
    with thread_pool(1) as thread:
        ahead = thread.submit(tokenise, plan[0])
        for n, rows in enumerate(plan):
            prompts, cut = ahead.result()
            if n + 1 < len(plan):
                ahead = thread.submit(tokenise, plan[n + 1])
            yield rows, prompts, cut


def column(vectors: np.ndarray, config: TeacherConfig) -> pa.Array:
    """Vectors [n, hidden] as a list column of teacher.store_dtype. Raises ConfigError when one is not finite there."""
    lost = int((~np.isfinite(vectors).all(1)).sum())
    if lost:
        raise ConfigError(
            f"teacher.dtype={config.dtype}: {lost} of {len(vectors)} embeddings are not finite; use bfloat16 or float32"
        )
    with np.errstate(over="ignore"):
        stored = vectors.astype(config.store_dtype)
    if not np.isfinite(stored).all():
        raise ConfigError(f"teacher.store_dtype={config.store_dtype}: an embedding exceeds its range; use float32")
    return lists(stored)
