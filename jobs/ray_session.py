"""The way from a command to Ray: looked at before anything is loaded, and what is wrong there is one line."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ckd.config import Config
from ckd.errors import ArtifactError, ConfigError, MismatchError, UnreachableError
from ckd.run import Run
from ckd.stage import Step
from cluster.address import (
    RefusedError,
    UnreachableClusterError,
    WrongAddressError,
    named_cluster,
    require_form,
    require_head,
)
from cluster.local import MachineError, require_files

HERE = "unset RAY_ADDRESS to compute on this machine"


@contextmanager
def ray_session(cpus: int = 0) -> Iterator[None]:
    """Be connected to Ray inside the block, as `cluster.session.session`.

    Raises ConfigError for a wrong RAY_ADDRESS or token, and where this machine cannot run a Ray of its own;
    UnreachableError when the cluster does not answer.
    """
    from cluster.session import session

    with ExitStack() as stack:
        with _our_errors():
            stack.enter_context(session(cpus))
        yield


def require_address() -> None:
    """Raise ConfigError when RAY_ADDRESS is no address of a head."""
    with _our_errors():
        if address := named_cluster():
            require_form(address)


def require_room(config: Config, *keys: str) -> None:
    """Look whether the least number of workers of these sections (`teacher`, `student`) can start, before they load.

    A cluster may grow: there it is enough that its head answers. Raises ConfigError where this machine has too few
    GPUs, which no waiting mends; otherwise as `ray_session`.
    """
    sections = {key: getattr(config, key) for key in keys}
    named = named_cluster()
    if not all(section.workers.in_process for section in sections.values()):
        with _our_errors():
            if named:
                require_head(named)
            else:
                require_files()
    here = {key: one for key, one in sections.items() if one.gpus_per_worker and (one.workers.in_process or not named)}
    if not here:
        return
    have = gpus()
    lacking = [key for key, one in here.items() if max(one.workers.min, 1) * one.gpus_per_worker > have]
    if lacking:
        asked = ", ".join(
            f"{key}.workers={here[key].workers} with {key}.gpus_per_worker={here[key].gpus_per_worker:g}"
            for key in lacking
        )
        remedy = " ".join(f"{key}.workers=0 {key}.gpus_per_worker=0" for key in lacking)
        raise ConfigError(
            f"GPUs: asked for {asked}, torch sees {have} on this machine; give {remedy} to compute on its CPU, submit "
            "to a cluster ('ckd submit'), or look at the driver ('ckd doctor', nvidia-smi)"
        )


def gpus() -> int:
    """How many GPUs torch sees on this machine. Imports torch."""
    import torch

    return torch.cuda.device_count()


def to_do(run: Run, step: Step) -> bool:
    """Whether parts of a stage are missing, its visits included. Raises MismatchError when one was made otherwise."""
    try:
        return bool(step.missing(run))
    except MismatchError:
        raise
    except ArtifactError:
        return True


@contextmanager
def _our_errors() -> Iterator[None]:
    address = f"RAY_ADDRESS={named_cluster()}"
    try:
        yield
    except MachineError as error:
        raise ConfigError(str(error)) from None
    except WrongAddressError as error:
        raise ConfigError(f"{address}: {error}; or {HERE}") from None
    except RefusedError as error:
        raise ConfigError(
            f"{address}: {error}; put its token into RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token (docs/security.md)"
        ) from None
    except UnreachableClusterError as error:
        raise UnreachableError(
            f"{address}: {error}; start that cluster or check the way to it and run the same command again, or {HERE}"
        ) from None
