"""The HF Trainer on ready micro-batches: its loss, its data loader, its checkpoints."""

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from ckd.batching import pad, token_batches
from ckd.config import Config
from ckd.student.batches import Batches
from ckd.student.checkpoint import Checkpoints
from ckd.student.examples import Examples
from ckd.student.loss import Loss, micro_batch_loss
from ckd.student.model import rows_per_micro_batch
from ckd.student.ranks import Place
from ckd.student.resume import Resume, random_seed
from ckd.student.tuning import Selection
from ckd.student.zero import GRADIENT_NORM, zero_config

TOKEN_BUDGET = 16384  # padded tokens per forward pass without gradients
_OFF: dict[str, Any] = {  # what the Trainer is not to do, most of which is done here or in callback
    "save_strategy": "no",
    "logging_strategy": "no",
    "logging_nan_inf_filter": False,  # it would wait for the GPU after every micro-batch
    "eval_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "remove_unused_columns": False,
    "dataloader_pin_memory": False,
    "average_tokens_across_devices": False,
    "log_level": "error",
}


class MicroBatches(Dataset[dict[str, torch.Tensor]]):
    """Item k of an epoch is micro-batch k % accumulation of global batch k // accumulation."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.epoch = batches, 0

    def __len__(self) -> int:
        return self.batches.steps * self.batches.accumulation

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        step, slot = divmod(k, self.batches.accumulation)
        batch = self.batches.micro_batch(self.epoch, step, slot)
        return {name: torch.from_numpy(array) for name, array in batch.items()}


class StudentTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Trains on MicroBatches with the distillation's loss and keeps its checkpoints in `checkpoints`."""

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        data: MicroBatches,
        *,
        loss: Loss,
        checkpoints: Checkpoints,
        selection: Selection,
        resume: Resume | None = None,
    ) -> None:
        super().__init__(model=model, args=arguments, train_dataset=data)
        self.remove_callback(PrinterCallback)
        # BERT's forward takes **kwargs, from which the Trainer concludes that its loss is already divided by the
        # accumulation.
        self.model_accepts_loss_kwargs = False
        self.data, self.ranks, self.loss = data, data.batches.ranks, loss.on(self.args.device)
        self.checkpoints, self.selection, self.resume = checkpoints, selection, resume
        self.gradient_norm: float | None = None
        # The loss summed over visits, and visits: fetched only when asked for.
        self.recent = torch.zeros(2, device=self.args.device)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's micro-batches. Not handed to accelerate, which would deal them out again."""
        return DataLoader(self.data, batch_size=1, shuffle=False, collate_fn=_first)

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The micro-batch's share of the global batch's loss; see ckd.student.loss."""
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        losses_R, weight_R, batches = self.loss(output, inputs), inputs["weight"], self.data.batches
        micro_batches = self.ranks.world * batches.accumulation
        loss = micro_batch_loss(losses_R, weight_R, micro_batches=micro_batches, batch_size=batches.batch_size)
        self.recent += torch.stack([(losses_R.detach() * weight_R).sum(), weight_R.sum()])
        return (loss, output) if return_outputs else loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Keep the last step's gradient norm (L2, before clipping). Only it shows a wrong scale: Adam hides it.

        None with ZeRO stage 0, which does not tell it.
        """
        found = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.gradient_norm = None if found is None else float(found)
        return found

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """Count nothing: the Trainer would go through all weights after every micro-batch for an unused figure."""
        return 0

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Only move them: the Trainer would round a hard weight of 0.9 to DeepSpeed's bf16, 0.8984."""
        return {name: tensor.to(self.args.device) for name, tensor in inputs.items()}

    def take_recent(self) -> tuple[float, int]:
        """Mean loss per visit, and visits, over all ranks since the last call. A barrier."""
        shares = self.ranks.gather(self.recent.tolist())
        self.recent.zero_()
        visits = int(sum(count for _, count in shares))
        return sum(loss for loss, _ in shares) / max(visits, 1), visits

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write and add every rank's files; rank 0 commits after all have."""
        step, checkpoints, ranks = self.state.global_step, self.checkpoints, self.ranks
        ranks.once(lambda: checkpoints.clear(step))
        with checkpoints.staging(step) as folder:
            self.save_model(folder, _internal_call=True)
            self._save_optimizer_and_scheduler(folder)
            self._save_rng_state(folder)
            if ranks.first:
                self.state.save_to_json(str(Path(folder) / "trainer_state.json"))
                (Path(folder) / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody reads
            listings = ranks.each(lambda: checkpoints.add(step, folder))
        extra = {"step": step, "world": ranks.world, "selection": self.selection.to_json()}
        files = {name: facts for listing in listings for name, facts in listing.items()}
        ranks.once(lambda: checkpoints.commit(step, files, extra))
        ranks.once(lambda: checkpoints.prune(self.selection.best_step))

    def create_optimizer(self, *arguments: Any, **more: Any) -> Any:
        """Make the Trainer's own and remember each group's weight decay."""
        made = super().create_optimizer(*arguments, **more)
        self.decays = [group["weight_decay"] for group in made.param_groups]
        return made

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Mend what DeepSpeed has loaded from a universal ZeRO-3 checkpoint.

        It gives all groups the first one's weight decay, and one step counter, which would count double.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.resume is not None and self.resume.universal:
            for group, decay in zip(self.optimizer.param_groups, self.decays, strict=True):
                group["weight_decay"] = decay
            for state in self.optimizer.state.values():
                state["step"] = deepcopy(state["step"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load the rank's own random state, which draws the same dropout masks; a fresh one where none fits."""
        if self.resume is not None and self.resume.other_world:
            set_seed(random_seed(self.args.seed, self.state.global_step, self.ranks))
        else:
            super()._load_rng_state(checkpoint)

    def predict_logits(self, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Logits and true labels [n, L] of all examples, shard after shard. The ranks share the work."""
        shards = range(len(examples.shards))
        batches = [
            (shard, rows)
            for shard in shards
            for rows in token_batches(np.diff(examples[shard].offsets).tolist(), TOKEN_BUDGET)
        ]
        mine = batches[self.ranks.rank :: self.ranks.world]
        # ZeRO-3 gathers weights in every forward pass, so all ranks need the same number of them.
        extra = -(-len(batches) // self.ranks.world) - len(mine)
        network = self.model_wrapped
        network.eval()
        found = [(shard, rows, self._forward(network, examples, shard, rows)) for shard, rows in mine]
        for shard, rows in batches[:1] * extra:
            self._forward(network, examples, shard, rows)
        network.train()
        logits = [np.empty((rows, self.model.config.num_labels), np.float32) for rows in examples.sizes]
        for shard, rows, part in (one for ranks in self.ranks.gather(found) for one in ranks):
            logits[shard][rows] = part
        return np.concatenate(logits), np.concatenate([examples[shard].hard for shard in shards])

    @torch.no_grad()
    def _forward(self, network: Any, examples: Examples, shard: int, rows: list[int]) -> np.ndarray:
        arrays = pad([examples[shard].ids(row) for row in rows], self.data.batches.pad_id)
        ids, mask = (torch.from_numpy(array).to(self.args.device) for array in arrays)
        with self.compute_loss_context_manager():
            logits = network(input_ids=ids, attention_mask=mask).logits
        found: np.ndarray = logits.float().cpu().numpy()
        return found


def training_arguments(
    config: Config, place: Place, *, steps_per_epoch: int, universal: bool = False
) -> TrainingArguments:
    """The Trainer's settings: AdamW, linear decay after `warmup_share`. It does not log, score or save by itself."""
    s = config.student
    rows = rows_per_micro_batch(s.batch_size, place.ranks.world, s.gradient_accumulation)
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is written there: `checkpoints` keeps them
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=s.gradient_accumulation,
        num_train_epochs=s.epochs,
        learning_rate=s.learning_rate,
        weight_decay=s.weight_decay,
        max_grad_norm=GRADIENT_NORM,
        lr_scheduler_type="linear",
        warmup_steps=int(s.warmup_share * s.epochs * steps_per_epoch),
        optim="adamw_torch",
        activation_checkpointing=s.activation_checkpointing,
        # The other kind needs inputs with gradients, which token ids are not.
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=place.bf16,
        seed=config.seed,
        use_cpu=place.device.type == "cpu",
        deepspeed=zero_config(s, rows=rows, bf16=place.bf16, universal=universal) if place.deepspeed else None,
        **_OFF,
    )
    # One process drives one GPU; the Trainer would wrap all it sees into DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _first(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return items[0]
