"""Job: prepare the visits, then embed every shard that is missing."""

import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from ckd.config import Config
from ckd.run import Run
from ckd.stage import VISITS
from ckd.store.files import join
from ckd.store.lease import lease_in_turn
from ckd.teacher.accounting import Account, figures, lines
from ckd.teacher.embed import EMBEDDINGS
from ckd.teacher.lender import Lender, Rows, take
from ckd.teacher.training_settings import prompt_notes
from jobs.console import Console
from jobs.ray_session import require_room, to_do
from jobs.shards import make_missing
from jobs.spend import Spend


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Embed what is missing. Raises IncompleteError when shards failed."""
    one = Run(config)
    if one.inputs and to_do(one, EMBEDDINGS):
        require_room(config, "teacher")
    work(one, console)


def work(run: Run, console: Console) -> None:
    """As `run`, on a run whose visits may be known already."""
    with lease_in_turn(join(run.root, VISITS.name), "ckd embed", console.say):
        run.prepare(console.say)
    teacher = run.config.teacher
    for note in prompt_notes(teacher, EMBEDDINGS.stage(run).fields):
        console.say(f"embed: {note}")
    lent = _take(run, console)
    started = time.monotonic()
    # A GPU computes one shard while the next is read or the last is written.
    spend = Spend(run.config, console)
    if spend.most:
        spend.require(len(EMBEDDINGS.missing(run)))
    with spend.shown():
        made = make_missing(
            run,
            console,
            EMBEDDINGS,
            given={"lent": lent} if lent else None,
            taken=spend.take,
            workers=teacher.workers,
            gpus_per_worker=teacher.gpus_per_worker,
            threads=2 if teacher.gpus_per_worker else 1,
        )
    truncated = _say_cut(made.rows, teacher.max_length, console)
    console.event("embed_done", shards=made.shards, truncated=truncated)
    if made.rows:  # a job that did nothing has no figures
        before = made.shards - len(made.rows)
        found = figures(map(Account.from_row, made.rows), teacher, time.monotonic() - started, before=before)
        for line in lines(found):
            console.say(f"embed: {line}")
        console.event("embed_accounting", **found)


def _say_cut(rows: Sequence[Mapping[str, Any]], max_length: int, console: Console) -> int:
    """Say what of the visits' texts the teacher did not read as written; returns how many lost text."""
    truncated = sum(int(row["truncated"]) for row in rows)
    if truncated:
        visits = sum(Account.from_row(row).visits for row in rows)
        console.say(f"embed: {truncated} of {visits} visits exceeded teacher.max_length={max_length} and lost text")
    if controls := sum(row["controls"] for row in rows):
        console.say(
            f"embed: {controls} visits spell a control token of the teacher's tokenizer, such as <|im_end|>, in their "
            "text; they got that token, as in training"
        )
    return truncated


def _take(run: Run, console: Console) -> Rows | None:
    """Take what a lender has embedded; returns where the visits of shards are that a worker completes.

    Raises as Lender. Where nothing is to do nothing is asked of it, and it may be gone.
    """
    root, named = run.config.run.lender
    missing = EMBEDDINGS.missing(run) if root else []
    if not missing:
        return None
    lender = Lender(root, EMBEDDINGS.stage(run), named)
    taken = take(lender, run.cohort, EMBEDDINGS.stage(run), missing)
    rest = sum(shard.rows for shard in missing) - taken.visits
    console.say(f"embed: {named}: {taken.visits:,} visits taken from {lender.root}, {rest:,} to compute")
    if not taken.visits:
        console.say(
            "embed: no visit has the visit_id, instruction and input that it has there; task.instruction=generic, "
            "given to both, names no label"
        )
    console.event("embed_taken", visits=taken.visits, to_compute=rest)
    return taken.rows if taken.rows.places else None
