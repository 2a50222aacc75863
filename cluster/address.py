"""The address of a Ray cluster, looked at before Ray is asked: over a wrong one or a dead head its own client stays for
minutes and ends in a traceback, or ends the process."""

import os
import socket
from urllib.parse import urlsplit

from cluster.local import token

SECONDS_TO_ANSWER = 10.0
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # a question that changes nothing
DASHBOARD = ("http", "https")
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a submitted job


class UnreachableClusterError(Exception):
    """Nothing answers there, or no longer."""


class RefusedError(Exception):
    """The cluster does not take this client's token, or takes anybody."""


class WrongAddressError(Exception):
    """Not the form of an address of what is asked for; the text says what it is and what was expected."""


def named_cluster() -> str:
    """The cluster that RAY_ADDRESS names; "" where a Ray of this machine is to be started."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if address == "local" else address


def require_form(address: str) -> tuple[str, str, int]:
    """Scheme, host and port of a head's address, `auto` for the Ray that runs on this machine; nothing is asked.

    Raises WrongAddressError for another form.
    """
    if address == "auto":
        return "", "", 0
    scheme, host, port = _parts(address)
    if scheme in DASHBOARD:
        raise WrongAddressError("a cluster's dashboard, which takes jobs ('ckd submit'); expected the head's HOST:6379")
    if scheme not in ("", "ray") or not host or not port:
        raise WrongAddressError("expected the head's HOST:PORT, such as 10.0.0.1:6379")
    return scheme, host, port


def require_head(address: str) -> None:
    """Look whether a head answers at such an address.

    Raises as `require_form`; UnreachableClusterError when none answers within about 20 s, RefusedError when it does not
    take this user's token.
    """
    scheme, host, port = require_form(address)
    if not host:
        return
    _require_listener(host, port)
    if not scheme and os.environ.get("RAY_USE_TLS", "0") == "0":
        _require_grpc(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def require_listener(address: str) -> None:
    """Look whether anything listens at a URL or HOST:PORT. Raises as `require_head`."""
    if address == "auto":
        return
    scheme, host, port = _parts(address)
    if scheme not in ("", *DASHBOARD) or not host:
        raise WrongAddressError("expected a cluster's dashboard, http://HEAD:8265")
    _require_listener(host, port or (443 if scheme == "https" else 80))


def _parts(address: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return parts.scheme, parts.hostname or "", parts.port or 0
    except ValueError as error:
        raise WrongAddressError(f"{error}; expected http://HEAD:8265, or the head's HOST:6379") from None


def _require_listener(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), SECONDS_TO_ANSWER).close()
    except (OSError, UnicodeError) as error:  # a name that is none cannot be encoded
        raise UnreachableClusterError(f"nothing answers ({type(error).__name__})") from None


def _require_grpc(target: str) -> None:
    """A tunnel to a dead head, and a dashboard, take a connection too: only a head speaks gRPC on it.

    A wrong token ends in a traceback, or is taken for a head that is not there.
    """
    import grpc  # type: ignore[import-untyped]

    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=SECONDS_TO_ANSWER)
        except grpc.FutureTimeoutError:
            raise UnreachableClusterError("what listens there is no Ray head, or it hangs") from None
        known = token()
        try:
            channel.unary_unary(_ALIVE)(b"", SECONDS_TO_ANSWER, [("authorization", f"Bearer {known}")] if known else [])
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise RefusedError("it does not take the token" if known else "it asks for a token") from None
