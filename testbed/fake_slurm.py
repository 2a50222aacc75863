"""A Slurm of one machine: `sbatch`'s directives read, `srun`'s tasks as processes, `scontrol requeue` written down.

A node is a process of its own with the variables that Slurm sets. Words that Slurm does not know are refused.
"""

import itertools
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

SRUN = """#!/bin/bash
# The tasks of a step, each a node's only one; a TERM to srun kills them, one from scancel reaches them as it is.
printf "%s " "${@:1:7}" >> "$FAKE_SLURM/srun.txt"; echo >> "$FAKE_SLURM/srun.txt"
while [[ "${1:-}" == --* ]]; do
    case "$1" in
        --nodes=*) nodes=${1#*=} ;;
        --ntasks=*|--ntasks-per-node=1|--export=ALL|--mpi=none|--cpu-bind=none|--kill-on-bad-exit=1) ;;
        *) echo "srun: unrecognized option '$1'" >&2; exit 1 ;;
    esac
    shift
done
pids=()
end() { for pid in "${pids[@]}"; do kill "-$1" -- "-$pid" 2> /dev/null; done; }
trap 'end KILL' TERM
trap 'end TERM' USR2  # from scancel
echo $$ > "$FAKE_SLURM/step"
set -m
for ((n = 0; n < nodes; n++)); do
    SLURM_NODEID=$n SLURM_PROCID=$n SLURM_CPUS_ON_NODE=$SLURM_CPUS_PER_TASK SLURM_STEP_ID=0 "$@" &
    pids+=($!)
done
code=0
while [ "${#pids[@]}" -gt 0 ]; do
    sleep 0.1
    for n in "${!pids[@]}"; do
        kill -0 "${pids[$n]}" 2> /dev/null && continue
        wait "${pids[$n]}" || { code=$?; end TERM; }
        unset "pids[$n]"
    done
done
exit $code
"""
SCONTROL = '#!/bin/bash\necho "$*" >> "$FAKE_SLURM/scontrol.txt"\n'
SCANCEL = """#!/bin/bash
[ "$*" = "--signal=TERM $SLURM_JOB_ID" ] || exit 1
kill -USR2 "$(< "$FAKE_SLURM/step")"
"""
# Of `sbatch --help`, what this project uses, and what its value looks like.
OPTIONS = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "mem": r"\d+[KMGT]?",
    "time": r"(\d+-)?\d+(:\d+){0,2}",
    "signal": r"([BR]:)?(USR1|USR2|TERM|INT)@\d+",
    "requeue": None,
    "open-mode": r"append|truncate",
    "output": r"[\w%./-]+",
}
_IDS = itertools.count(time.time_ns() // 1000 % 10**9)


def directives(text):
    """Option to value of the `#SBATCH` lines before the first command. AssertionError: sbatch would refuse."""
    head = itertools.takewhile(lambda line: not line.strip() or line.startswith("#"), text.splitlines())
    found = {}
    for line in head:
        if line.startswith("#SBATCH "):
            name, _, value = line.removeprefix("#SBATCH ").strip().removeprefix("--").partition("=")
            assert name in OPTIONS, f"sbatch: unrecognized option '--{name}'"
            assert re.fullmatch(OPTIONS[name] or "", value), f"sbatch: {name}={value}"
            found[name] = value
    return found


class FakeSlurm:
    """One job of a script: started, signalled, started again under the same id as `scontrol requeue` makes Slurm do."""

    def __init__(self, folder, script, nodes=2, **environment):
        """`folder` is its own; `environment` is what the job finds beside Slurm's variables."""
        self.folder, self.script, self.environment = Path(folder), Path(script), environment
        self.id, self.starts, self.process, self.nodes = str(next(_IDS)), 0, None, nodes
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("scancel", SCANCEL)):
            path = self.folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    def start(self, *words):
        """Start the batch shell, as slurmd does: a copy of the script, its own process group."""
        options = directives(self.script.read_text())
        copy = self.folder / "slurm_script"
        copy.write_text(self.script.read_text())
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "CKD_"))}
        slurm = {
            "SLURM_JOB_ID": self.id,
            "SLURM_JOB_NUM_NODES": str(self.nodes),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_RESTART_COUNT": str(self.starts),
            "FAKE_SLURM": str(self.folder),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }
        mode = "a" if options.get("open-mode") == "append" else "w"
        self.process = subprocess.Popen(
            ["bash", str(copy), *words],
            stdout=(self.folder / "job.log").open(mode),
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env={**kept, **slurm, **self.environment},
            start_new_session=True,
        )
        self.starts += 1
        return self

    def signal(self, number):
        """To the batch shell alone, as `--signal=B:…` has it."""
        os.kill(self.process.pid, number)

    def wait(self, seconds=60):
        """The batch shell's exit code; what it left running is ended by its session."""
        try:
            return self.process.wait(timeout=seconds)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    @property
    def log(self):
        """What the job printed, all starts."""
        return (self.folder / "job.log").read_text()

    def said(self, name):
        """The words of every call of srun or scontrol."""
        path = self.folder / f"{name}.txt"
        return [shlex.split(line) for line in path.read_text().splitlines() if line] if path.exists() else []
