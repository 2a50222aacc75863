"""`ckd embed` with an engine that computes nothing but takes its time: all else is real.

Every start of a shard leaves a file that names shard, machine and process. For a driver: Cluster.driver("-c", CODE,
*words).
"""

import dataclasses
import functools
import hashlib
import json
import os
import resource
import signal
import time
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckd.configfile import load
from ckd.errors import IncompleteError
from ckd.store.files import list_files, read_bytes, write_file
from ckd.teacher.accounting import Account
from ckd.teacher.embed import EmbedWorker
from ckd.teacher.engine import Load
from ckd.teacher.work import Work
from ckd.visits.labels import DISEASES, INSTRUCTION, OUTPUT_PREFIX
from jobs import embed, verify
from jobs.cli import main
from jobs.console import Console
from testbed.small_tokenizers import byte_level

CODE = "import sys; from tests.faults.fake_embed import command; sys.exit(command(sys.argv[1:]))"
SHARDS, ROWS = 12, 6


class FakeEngine:
    """The embedding is a hash of the prompt, which is the input's characters."""

    hidden = 4
    load = Load(seconds=0.0, revision=None, adapter=None, engine="transformers", device="cpu")

    def __init__(self, seconds):
        self.prompter, self.seconds = self, seconds

    def take_work(self):
        return Work()

    def with_control_tokens(self, instructions, inputs):
        return 0

    def encode(self, *texts):
        if len(texts) == 2:
            return [[ord(c) for c in text] for text in texts[1]], 0
        time.sleep(self.seconds)
        return np.stack(
            [np.frombuffer(hashlib.sha256(str(p).encode()).digest()[:4], np.uint8) for p in texts[0]]
        ).astype(np.float32)


@dataclass
class FakeMeter:
    load: Load

    def read(self, started, visits, tokens, work):
        return asdict(Account(str(os.getpid()), self.load, 1.0, started, time.monotonic(), 1, visits, tokens, work))


class FakeEmbedWorker(EmbedWorker):
    """`seconds` per shard; `starts` is the folder of the files."""

    def __init__(self, run, seconds, starts):
        super().__init__(run, FakeEngine(seconds), FakeMeter(FakeEngine.load))
        self.starts = starts

    def __call__(self, shard):
        Path(self.starts, f"{shard.index}-{os.urandom(4).hex()}.json").write_text(
            json.dumps({"shard": shard.index, "node": node_id(), "process": os.getpid(), "time": time.time()})
        )
        return super().__call__(shard)


class DiesWriting(FakeEmbedWorker):
    """Killed in the middle of writing a part, once."""

    def __call__(self, shard):
        died = Path(self.starts).parent / "died"
        if shard.index == SHARDS // 2 and not died.exists():
            died.touch()
            write_file(embed.EMBEDDINGS.stage(self.run).path(shard.index), die_writing)
        return super().__call__(shard)


def die_writing(stream):
    stream.write(b"PAR1" + bytes(5000))
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(FakeEmbedWorker):
    """At half of the shards no file of this process may exceed 400 bytes, which no part can hold.

    For one thread: the limit is the process's.
    """

    def __call__(self, shard):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if shard.index >= SHARDS // 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
        try:
            return super().__call__(shard)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def node_id():
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "this process"


def command(words):
    """`ckd embed` of words = [folder, seconds, worker's name, overrides…]."""
    folder, seconds, worker, *rest = words
    Path(folder, "starts").mkdir(exist_ok=True)
    made = functools.partial(globals()[worker], seconds=float(seconds), starts=f"{folder}/starts")
    embed.EMBEDDINGS = dataclasses.replace(embed.EMBEDDINGS, worker=made)
    return main(["embed", *settings(folder), *rest])


def settings(folder):
    inputs = Path(folder).parent
    return [
        f"data.train={inputs}/train.json",
        f"data.held_out={inputs}/held_out.json",
        f"run.results={folder}/results",
        f"run.shared_mounts=[{inputs}]",
        f"teacher.base_model={inputs}/base",
        f"data.shard_rows={ROWS}",
        "run.name=t",
    ]


def make_inputs(folder):
    """Visits of SHARDS shards, and a teacher's folder to be hashed."""

    def visit(n):
        return {
            "instruction": INSTRUCTION,
            "input": f"visit number {n}",
            "output": OUTPUT_PREFIX + DISEASES[n % 25],
            "subject_id": f"s{n}",
        }

    count = SHARDS * ROWS
    (folder / "train.json").write_text("".join(json.dumps(visit(n)) + "\n" for n in range(count - ROWS)))
    (folder / "held_out.json").write_text("".join(json.dumps(visit(n)) + "\n" for n in range(count - ROWS, count)))
    tokenizer = byte_level(["<|end|>"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder / "base")
    (folder / "base/config.json").write_text("{}")
    save_file({"weight": np.zeros(1, np.float32)}, folder / "base/model.safetensors")


def parts(folder, root=""):
    """Every part's bytes of both stages, below the run's folder or another `root`."""
    root = root or f"{folder}/results/t/artifacts"
    names = {
        f"{stage}/{name}" for stage in ("visits", "embeddings") for name in list_files(f"{root}/{stage}", ".parquet")
    }
    return {name: read_bytes(f"{root}/{name}") for name in names}


def starts(folder):
    """The starts' files, in the order of time: shard, node, process, time."""
    return sorted(
        (json.loads(path.read_text()) for path in Path(folder, "starts").glob("*.json") if path.stat().st_size),
        key=lambda s: s["time"],
    )


def assert_equal_and_clean(folder, undisturbed):
    """The parts are those of the undisturbed run, and `ckd verify` finds nothing but the stages that were not run."""
    assert parts(folder) == parts(undisturbed)
    stream = StringIO()
    with pytest.raises(IncompleteError):  # no head, no student
        verify.run(load(None, settings(folder)), Console(stream))
    said = stream.getvalue()
    assert "problem:" not in said and f"{SHARDS * ROWS} visits in {SHARDS}/" in said.replace(",", ""), said
