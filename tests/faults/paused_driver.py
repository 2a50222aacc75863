"""A driver of `ckd embed` that stops itself at one of its calls of the store, and goes on when it is told to.

Its engine computes nothing (fake_embed). It runs in a process that is forked from one with all imports done.
"""

import dataclasses
import functools
import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ckd.store import files
from ckd.visits.labels import DISEASES, INSTRUCTION, OUTPUT_PREFIX
from jobs import embed
from jobs.cli import main
from testbed.small_tokenizers import byte_level
from tests.faults.fake_embed import FakeEmbedWorker

CALLS = ("write_file", "write_bytes", "read_bytes", "read_table", "open_file", "exists", "list_files", "delete")
ROWS = 3


class Points:
    """Counts the moments before, in and after calls of the store; the process stops itself at one of them."""

    def __init__(self, stop_at):
        self.stop_at, self.count = stop_at, 0

    def pass_by(self):
        self.count += 1
        if self.count == self.stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    def around(self, call):
        @functools.wraps(call)
        def passing(path, *arguments, **named):
            self.pass_by()
            if call.__name__ == "write_file":  # its second argument writes into the temporary file
                arguments = [self.before_the_rename(arguments[0])]
            found = call(path, *arguments, **named)
            self.pass_by()
            return found

        return passing

    def before_the_rename(self, write):
        def written(stream):
            write(stream)
            self.pass_by()

        return written


def drive(folder, data, stop_at, log):
    """In a process of its own: `ckd embed` of the run in `folder` on one of its inputs; ends with its exit code."""
    points = Points(stop_at)
    for name in CALLS:
        call = getattr(files, name)
        for module in [m for m in sys.modules.values() if getattr(m, "__name__", "").startswith(("ckd.", "jobs."))]:
            if getattr(module, name, None) is call:
                setattr(module, name, points.around(call))
    Path(folder, "starts").mkdir(exist_ok=True)
    made = functools.partial(FakeEmbedWorker, seconds=0, starts=f"{folder}/starts")
    embed.EMBEDDINGS = dataclasses.replace(embed.EMBEDDINGS, worker=made)
    with open(log, "w", buffering=1) as stream, redirect_stdout(stream), redirect_stderr(stream):
        os.dup2(stream.fileno(), 2)  # a traceback of the process itself too
        code = main(["embed", *settings(folder, data)])
        stream.write(f"{points.count} points\n")
    os._exit(code)


def settings(folder, data):
    inputs = Path(folder).parent
    return [
        f"data.train={inputs}/{data}.json",
        f"data.held_out={inputs}/held_out.json",
        f"run.results={folder}/results",
        f"run.public_files={folder}/public",
        f"teacher.base_model={inputs}/base",
        f"data.shard_rows={ROWS}",
        "teacher.workers=0",
        "run.name=t",
    ]


def make_inputs(folder):
    """Two inputs, b with another text in each row and one shard more, and a teacher's folder to be hashed."""

    def write(name, visits):
        lines = (
            json.dumps(
                {
                    "instruction": INSTRUCTION,
                    "input": f"{name} visit {n}",
                    "output": OUTPUT_PREFIX + DISEASES[n % 25],
                    "subject_id": f"s{n}",
                }
            )
            for n in visits
        )
        (folder / f"{name}.json").write_text("\n".join(lines) + "\n")

    write("a", range(3 * ROWS))
    write("b", range(4 * ROWS))
    write("held_out", range(100, 100 + ROWS))
    tokenizer = byte_level(["<|end|>"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder / "base")
    (folder / "base/config.json").write_text("{}")
    save_file({"weight": np.zeros(1, np.float32)}, folder / "base/model.safetensors")
