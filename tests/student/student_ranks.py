"""Ranks of the student's training in plain processes, without Ray: `spawn` starts them, the module itself is one."""

import os
import socket
import subprocess
import sys

from ckd.config import Config
from ckd.run import Run


def spawn(config: Config, world: int, leave_after: int = 0) -> None:
    """Train on `world` ranks with DeepSpeed to the end, or until a preemption after some steps."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1]), "WORLD_SIZE": str(world)}
    command = [sys.executable, "-m", "tests.student.student_ranks", config.model_dump_json(), str(leave_after)]
    ranks = [
        subprocess.Popen(command, env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * world


def main() -> None:
    from torch import distributed

    from ckd.student.train import train

    asked, leave_after = 0, int(sys.argv[2])

    def preempted() -> bool:
        nonlocal asked
        asked += 1
        return asked == leave_after

    distributed.init_process_group("gloo")
    world, rank = distributed.get_world_size(), distributed.get_rank()
    run = Run(Config.model_validate_json(sys.argv[1]))
    finished = train(
        run, world=world, rank=rank, preempted=preempted, report=lambda _: None, deepspeed=True, seconds_between=0
    )
    assert finished == (leave_after == 0)
    distributed.destroy_process_group()
    # An interpreter that ends while gloo's threads ask for its lock aborts now and then ("terminate called …"), after
    # all work is done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
