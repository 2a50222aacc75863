"""Job: hand a stage to a Ray cluster as a job of its own, or attach to the one that runs. Submitting again continues,
because every stage does only what is missing."""

import json
import os
import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ckd.config import Config
from ckd.configfile import dump, load
from ckd.errors import CkdError, ConfigError, UnreachableError
from ckd.store.files import digest
from ckd.store.refusals import proxies
from jobs.arguments import ADDRESS
from jobs.cluster_paths import require_shared
from jobs.commands import COMMANDS
from jobs.console import Console
from jobs.stopping import StoppedError

if TYPE_CHECKING:
    from cluster.submit import Outcome, Submitted

AGAIN = "run the same command again: it continues"


class JobError(CkdError):
    """A job that did not end well; its own exit code becomes ours."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd submit`."""
    stages = [name for name, command in COMMANDS.items() if command.submitted]
    parser.add_argument("stage", choices=stages, metavar="STAGE", help=", ".join(stages))
    parser.add_argument("--address", default="", metavar="URL", help=ADDRESS)
    follow = "show the job's log until it ends; its exit code becomes this command's"
    parser.add_argument("--follow", action="store_true", help=follow)
    resource = (
        "custom resource of machines that stay, of which the driver reserves a bit (default on_demand; '' for none)"
    )
    parser.add_argument("--resource", default="on_demand", metavar="NAME", help=resource)
    parser.add_argument("--dry-run", action="store_true", help="print the job's id and command, submit nothing")


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Submit; with --follow stay until the end. Raises ConfigError, UnreachableError, JobError with an exit code."""
    config = require_shared(config) if arguments.stage != "doctor" or overrides(config) else config
    job = Job(
        submission(arguments.stage, config), entrypoint(arguments.stage, config), config.run.title, arguments.stage
    )
    if arguments.dry_run:
        console.say(f"submit: {job.name}, in a copy of {checkout()}: {job.command}")
        return
    job.start(console, cluster_address(arguments.address), arguments.resource, following=arguments.follow)


def cluster_address(given: str) -> str:
    """The cluster that the option or the environment names; "" when neither does."""
    return given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")


@dataclass(frozen=True)
class Job:
    """A command as a job of a cluster."""

    name: str  # its id: see `submission`
    command: str
    run: str
    stage: str

    def start(self, console: Console, address: str, resource: str, *, following: bool) -> None:
        """Submit it or attach to it, and with `following` show its log until it ends. Raises as `run`."""
        if not address:
            raise ConfigError(
                "no cluster: give --address http://HEAD:8265 or set RAY_ADDRESS to it "
                "(docs/operating.md says how to reach the port)"
            )
        from cluster.address import RefusedError, UnreachableClusterError, WrongAddressError

        try:
            self._on(console, address, resource, following)
        except WrongAddressError as error:
            raise ConfigError(f"cluster {address}: {error} (--address, or RAY_ADDRESS)") from None
        except RefusedError as error:
            raise ConfigError(
                f"cluster {address}: {error}; put its token into RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token "
                "(docs/security.md)"
            ) from None
        except UnreachableClusterError as error:
            way = proxies() or "the way to it"
            raise UnreachableError(f"cluster {address}: {error}; check the address and {way}, then {AGAIN}") from None
        except KeyboardInterrupt as stopped:
            console.say(
                f"submit: {self.name} goes on without being watched; the same command follows it again, "
                f"'ray job stop {self.name}' ends it"
            )
            raise SystemExit(stopped.exit_code if isinstance(stopped, StoppedError) else 130) from None

    def _on(self, console: Console, address: str, resource: str, following: bool) -> None:
        from cluster.submit import connect, follow, running, submit

        client = connect(address)
        metadata = {"run": self.run, "stage": self.stage}
        found = submit(
            client, self.name, self.command, working_dir=str(checkout()), metadata=metadata, resource=resource
        )
        others = [other for other in running(client, metadata) if other != found.id]
        _tell(console, found, "" if following else found.id, resource, others)
        if following:
            _finish(console, found.id, follow(client, found.id, lambda text: _show(console, text)))


def submission(stage: str, config: Config) -> str:
    """The id of a stage's job: the same for the same configuration, so that a second submit finds the first."""
    return f"ckd-{stage}-{config.run.title.replace('/', '-')}-{digest(yaml.safe_load(dump(config)))[:8]}"


def entrypoint(stage: str, config: Config, *options: str) -> str:
    """The shell command of a stage's job. The configuration is given as overrides, since its file may lie outside of
    the checkout or be left out of the copy that travels.
    """
    return shlex.join(["python", "-m", "jobs", stage, *options, *overrides(config)])


def overrides(config: Config) -> list[str]:
    """What makes this configuration out of the defaults, as `key=value` words that `load` takes."""
    values, defaults = yaml.safe_load(dump(config)), yaml.safe_load(dump(Config()))
    words = []
    for section, value in values.items():
        entries = (
            {f"{section}.{key}": (entry, defaults[section][key]) for key, entry in value.items()}
            if isinstance(value, dict)
            else {}
        )
        for key, (entry, default) in (entries or {section: (value, defaults[section])}).items():
            if entry != default:
                words.append(f"{key}={_yaml(entry)}")
    if load(None, words) != config:
        raise RuntimeError("overrides do not make the configuration they were made from")
    return words


def checkout() -> Path:
    """The folder whose copy a job runs in: this one if it is a checkout, else the one that this command comes from."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[1]):
        if (folder / "pyproject.toml").is_file() and (folder / "jobs" / "cli.py").is_file():
            return folder
    raise ConfigError(
        f"{Path.cwd()}: no checkout of this project, whose copy the job would run in; go to one and submit from there"
    )


def _tell(console: Console, found: "Submitted", unwatched: str, resource: str, others: list[str]) -> None:
    if found.attached:
        console.say(f"submit: {found.id} is {found.status} already: nothing new was submitted")
    else:
        where = f"on a machine with the resource {found.resource}" if found.resource else "on the head"
        missing = f" (no machine offers {resource})" if resource and not found.resource else ""
        console.say(f"submit: {found.id}, its driver {where}{missing}")
    for other in others:
        console.say(
            f"submit: {other} works on the same run with other settings; two at once waste time, "
            f"'ray job stop {other}' ends it"
        )
    if unwatched:
        console.say(f"submit: follow it with --follow or 'ray job logs -f {unwatched}'")


def _show(console: Console, text: str) -> None:
    console.stream.write(text)
    console.stream.flush()


def _finish(console: Console, job: str, outcome: "Outcome") -> None:
    """Raises JobError unless the job is done."""
    code = outcome.exit_code
    if outcome.status == "SUCCEEDED":
        console.say(f"submit: {job} is done")
        return
    if outcome.status == "STOPPED":
        raise JobError(3, f"{job} was stopped; {AGAIN}")
    if code in (1, 2):
        raise JobError(code, f"{job} ended with exit code {code}; its last lines above say why")
    if code is None:
        raise JobError(3, f"{job} failed before or beside its command ({outcome.message}); {AGAIN}")
    signal = -code if code < 0 else code - 128  # as Python and as a shell report it
    how = f"its driver was killed by signal {signal}" if signal > 0 else f"it ended with exit code {code}"
    raise JobError(3, f"{job}: {how}; finished shards are kept, {AGAIN}")


def _yaml(value: Any) -> str:
    """A value in YAML: a string as it is where YAML reads the same back, else quoted; anything else as JSON."""
    if not isinstance(value, str | list):
        return json.dumps(value)
    try:
        read = yaml.safe_load(value or "''") if isinstance(value, str) and value == value.strip() else None
    except yaml.YAMLError:
        read = None
    if isinstance(read, str | int | float) and not isinstance(read, bool) and str(read) == value:
        return str(value)
    return yaml.safe_dump(value, default_style='"', default_flow_style=True, width=1 << 30, allow_unicode=True).strip()
