"""Job: prepare the visits, then embed every shard that is missing."""

import sys
import time

from ckd.config import Config, absolute
from ckd.teacher.accounting import Account, figures, lines
from ckd.teacher.embed import EmbedWorker, embedding_stage, shards_to_embed
from ckd.visits.prepare import prepare
from jobs.cli import main
from jobs.console import Console
from jobs.shards import map_worker


def run(config: Config, console: Console) -> None:
    """Embed what is missing. Raises IncompleteError when shards failed."""
    cohort = prepare(config, console.say)
    stage = embedding_stage(config)
    shards = shards_to_embed(config, cohort)
    missing = [s for s in shards if not stage.is_done(s.index, rows=s.rows, input_hash=s.text_hash)]
    console.say(f"embed: {len(shards) - len(missing)} of {len(shards)} shards done, {len(missing)} to do")
    started = time.monotonic()
    rows = map_worker(
        console,
        "embed",
        EmbedWorker,
        {"config": absolute(config), "fields": stage.fields},
        missing,
        workers=config.teacher.workers,
        gpus_per_worker=config.teacher.gpus_per_worker,
        threads=2
        if config.teacher.gpus_per_worker
        else 1,  # a GPU computes one shard while the next is read or the last is written
    )
    truncated = sum(row["truncated"] for row in rows)
    if truncated:
        console.say(
            f"embed: {truncated} of {sum(row['rows'] for row in rows)} visits exceeded teacher.max_length={config.teacher.max_length} and lost text"
        )
    console.event("embed_done", shards=len(shards), truncated=truncated)
    if rows:  # a job that did nothing has no figures
        found = figures(
            map(Account.from_row, rows), config.teacher, time.monotonic() - started, before=len(shards) - len(missing)
        )
        for line in lines(found):
            console.say(f"embed: {line}")
        console.event("embed_accounting", **found)


if __name__ == "__main__":
    raise SystemExit(main(["embed", *sys.argv[1:]]))
