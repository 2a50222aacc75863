"""The configuration: every key with its default and meaning, as frozen pydantic models. configfile reads it."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ckd.ingest_config import IngestConfig as IngestConfig
from ckd.run_config import RunConfig as RunConfig
from ckd.section import IN_PROCESS, Place, Section, Workers

Argument = bool | int | float | str | None  # of a chat template


class DataConfig(Section):
    """The visits."""

    train: Place = Field("", description="JSONL (.json, .jsonl, .gz), Parquet or a folder of Parquet; path or URL")
    tuning: Place = Field("", description="for early stopping and thresholds; half becomes held_out if that is empty")
    held_out: Place = Field("", description="rows that only the evaluation reads")
    split: Literal["files", "public"] = Field(
        "files", description="files: a row's own split wins, else its file decides; public: split anew, 72/8/20"
    )
    max_bad_rows: int = Field(0, ge=0, description="stop (exit 2) when more rows than this are quarantined")
    shard_rows: int = Field(4096, ge=1, description="visits per shard: the unit of work and of loss")


class TaskConfig(Section):
    """What is predicted."""

    labels: Place = Field(
        "ccs25", min_length=1, description="ccs25, another built-in task, or the path of a labels.yaml"
    )
    instruction: Literal["own", "generic"] = Field(
        "own",
        description="own: the task's, which may list its labels; generic: one that names none, so that many tasks "
        "share one teacher pass",
    )


class TeacherConfig(Section):
    """The frozen language model."""

    base_model: Place = Field(
        "Qwen/Qwen2.5-7B-Instruct",
        description="folder, s3:// or gs:// folder, or Hub id (also with @revision) of a causal language model",
    )
    adapter: Place = Field(
        "", description="LoRA folder, URL or org/name@revision, as PEFT or LLaMA-Factory write it; empty: none"
    )
    adapter_share: float = Field(
        0,
        ge=0,
        lt=1,
        description="share of the train subjects on which the adapter was tuned (ckd export jsonl --adapter-share); "
        "0: it may know all of them",
    )
    merge_adapter: bool = Field(
        False, description="add the adapter to the weights: faster, but bfloat16 can lose a weak one"
    )
    chat_template: Place = Field(
        "",
        description="base, adapter, or the path or URL of a Jinja file; empty: the adapter's own where it brings one "
        "that differs, else the base's",
    )
    system: str = Field(
        "", description="system prompt used in training; empty: none, what the template does then holds"
    )
    template_arguments: dict[str, Argument] = Field(
        {}, description="what the chat template is rendered with, such as {enable_thinking: false}"
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="what computes the forward pass; for vllm: pip install -c constraints-vllm.txt '.[vllm]'",
    )
    max_length: int = Field(1536, ge=8, description="tokens per prompt; longer visits lose text, never the template")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="compute type")
    store_dtype: Literal["float32", "float16"] = Field("float16", description="type of the stored embeddings")
    token_budget: int = Field(
        0, ge=0, description="padded tokens per batch; 0: found on a GPU and remembered, else 1024"
    )
    compile: bool = Field(False, description="torch.compile the decoder (transformers engine)")
    device_map: Literal["", "auto"] = Field("", description="auto: spread over all GPUs of a worker (transformers)")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share one model (vllm engine)")
    price_per_hour: float = Field(0, ge=0, description="of one GPU, any currency, for the cost figures; 0: no cost")
    spot_price_per_hour: float = Field(
        0, ge=0, description="of one GPU where the workers are spot machines: then this is what counts; 0: they are not"
    )
    workers: Workers = Field(IN_PROCESS, description="Ray actors: N or min..max; 0: in this process, without Ray")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs that each actor reserves; never detected")

    @field_validator("template_arguments", mode="before")
    @classmethod
    def _scalars(cls, value: Any) -> Any:
        value = {} if value is None or value == "" else value
        if not isinstance(value, dict):
            raise ValueError("expected a mapping such as {enable_thinking: false}")
        for name, each in value.items():
            if not isinstance(each, Argument) or each in (float("inf"), float("-inf")) or each != each:
                raise ValueError(f"{name}: expected true, false, a number, text or null")
        return value

    @property
    def paid_per_hour(self) -> float:
        """The price of a GPU-hour that counts; 0 without one."""
        return self.spot_price_per_hour or self.price_per_hour

    @property
    def template_file(self) -> str:
        """The file or URL that chat_template names; "" where it names none."""
        return "" if self.chat_template in ("base", "adapter") else self.chat_template


class HeadConfig(Section):
    """The linear head on the embeddings, one row per label."""

    folds: int = Field(5, ge=2, description="cross-fitting folds by subject; at most as many as training subjects")
    epochs: int = Field(20, ge=1, description="most passes over the training embeddings")
    batch_size: int = Field(256, ge=1, description="visits per step")
    learning_rate: float = Field(2e-3, gt=0, description="Adam step size on standardised embeddings")
    l2: float = Field(1e-4, ge=0, description="weight of ½·l2·‖W‖² (standardised weights, bias excluded) per label")
    cross_fitted: bool = Field(
        True,
        description="training visits get the head of their fold; false, only to compare: the final head, which has "
        "learned their labels",
    )


class StudentConfig(Section):
    """The BERT-size student."""

    base_model: Place = Field(
        "bert-base-uncased",
        description="folder, s3:// or gs:// folder, or Hub id (also with @revision) "
        "for AutoModelForSequenceClassification",
    )
    max_length: int = Field(512, ge=8, description="tokens per visit text; a longer one loses its end")
    hard_weight: float = Field(0.9, ge=0, le=1, description="weight of the true labels; the soft ones get the rest")
    temperature: float = Field(1.0, gt=0, description="divides both logits in the loss of the soft labels")
    embedding_weight: float = Field(
        0,
        ge=0,
        description="weight of 1 - cosine between the projected first token and the teacher's embedding; 0: off",
    )
    class_weighting: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: a positive counts negatives/positives of train, at most 20, in the true labels' loss; "
        "probabilities come out too high",
    )
    batch_size: int = Field(32, ge=1, description="visits per optimizer step over all workers")
    gradient_accumulation: int = Field(1, ge=1, description="micro-batches per optimizer step and worker")
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, more time, equal values"
    )
    epochs: int = Field(10, ge=1, description="most passes over the training visits")
    patience: int = Field(3, ge=1, description="epochs without a better tuning score before stopping")
    learning_rate: float = Field(2e-5, gt=0, description="peak AdamW step size, linear decay")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps that warm up")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    dropout: float | None = Field(None, ge=0, lt=1, description="overrides the base model's dropout; null keeps it")
    checkpoint_steps: int = Field(200, ge=1, description="optimizer steps between checkpoints")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage (workers >= 1)")
    workers: Workers = Field(
        IN_PROCESS, description="Ray Train workers: N or min..max (elastic); 0: plain Trainer in this process"
    )
    gpus_per_worker: float = Field(0, ge=0, description="GPUs that each worker reserves; never detected")
    use_unlabeled: bool = Field(False, description="embed unlabeled train visits too; learn from their soft labels")

    @model_validator(mode="after")
    def _enough_for_all(self) -> Self:
        most = max(self.workers.max, 1) * self.gradient_accumulation
        if self.batch_size < most:
            raise ValueError(
                f"batch_size={self.batch_size} leaves nothing to do for some of {self.workers.max or 1} workers x "
                f"{self.gradient_accumulation} micro-batches (workers, gradient_accumulation); "
                f"raise batch_size to at least {most} or lower the others"
            )
        return self


class EvaluationConfig(Section):
    """How held_out visits are scored. Thresholds are chosen on tuning."""

    threshold_for: Literal["f1", "sensitivity", "precision"] = Field(
        "f1",
        description="what a label's threshold on calibrated probabilities reaches: the largest f1, or threshold_target",
    )
    threshold_target: float | None = Field(
        None,
        gt=0,
        le=1,
        description="sensitivity: the share of the positives found; precision: the share of right alarms",
    )
    resamples: int = Field(
        1000, ge=100, description="bootstrap draws of the held_out patients, for intervals and p-values in metrics.json"
    )

    @model_validator(mode="after")
    def _target(self) -> Self:
        if (self.threshold_for == "f1") != (self.threshold_target is None):
            raise ValueError("threshold_target goes with threshold_for=sensitivity or precision; give both or neither")
        return self


class Config(Section):
    """The whole configuration of one run."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    teacher: TeacherConfig = TeacherConfig()
    head: HeadConfig = HeadConfig()
    student: StudentConfig = StudentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    ingest: IngestConfig = IngestConfig()
    seed: int = Field(42, ge=0, description="seed of splits, folds, head and student")

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.run.max_cost and not self.teacher.paid_per_hour:
            raise ValueError("run.max_cost needs teacher.price_per_hour or teacher.spot_price_per_hour")
        return self

    @field_validator("run", "data", "task", "teacher", "head", "student", "evaluation", "ingest", mode="before")
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        return {} if value is None else value


def absolute(config: Config) -> Config:
    """The configuration with local folders as absolute paths, for a worker that may run in another folder."""

    def folder(path: str) -> str:
        return path if "://" in path or not path else str(Path(path).absolute())

    def model(name: str) -> str:
        return folder(name) if Path(name).is_dir() else name  # else a Hub id

    run, teacher, student, labels = config.run, config.teacher, config.student, config.task.labels
    changed = {
        "run": {name: folder(getattr(run, name)) for name in ("artifacts", "embeddings", "results")},
        "teacher": {
            "base_model": model(teacher.base_model),
            "adapter": model(teacher.adapter),
            "chat_template": folder(teacher.template_file) or teacher.chat_template,
        },
        "student": {"base_model": model(student.base_model)},
        "task": {"labels": folder(labels) if Path(labels).is_file() else labels},
    }
    sections = {name: getattr(config, name).model_copy(update=values) for name, values in changed.items()}
    return config.model_copy(update=sections)
