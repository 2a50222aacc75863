"""What a storage service says when it refuses, in its own code, and the variable to look at then."""

import os
import re

_PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY")
_FAILURE = re.compile(
    r"AWS Error (?P<aws>\w+)(?: \(HTTP status (?P<status>\d+)\))?(?: during \w+ operation)?(?P<why>:[^\n]*)?"
    r"|(?:google::cloud::Status|Status)\((?P<gcs>\w+)|(?P<curl>[Cc]url\w* error)"
)
_UNNAMED = re.compile(r"Unable to parse ExceptionName: (\w+) Message:\s*(.*)")  # a code that pyarrow does not know
_NO_BODY = "No response body."  # of a HEAD request, whose refusal has no text
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_ANYTHING = "check the network, the URL and this machine's credentials"
_LOOK_AT = (  # a code, in whichever spelling; what to do
    (
        "expiredtoken|invalidtoken|tokenrefreshrequired",
        f"renew AWS_SESSION_TOKEN together with {_KEYS}, or AWS_PROFILE",
    ),
    ("invalidaccesskeyid|invalidclienttokenid|signaturedoesnotmatch|missingauthenticationtoken", f"check {_KEYS}"),
    ("requesttimetooskewed|requestexpired", "set this machine's clock"),
    ("authorizationheadermalformed|permanentredirect|illegallocation.*", "check AWS_REGION: the bucket's own"),
    ("accessdenied|forbidden", "check AWS_SESSION_TOKEN, AWS_PROFILE or the machine's role: what they may do there"),
    ("nosuchbucket", "check the bucket's name and AWS_ENDPOINT_URL"),
    ("unauthenticated|permissiondenied", "check GOOGLE_APPLICATION_CREDENTIALS or the machine's service account"),
    ("networkconnection|.*timeout.*|unavailable|noconnection", "check the network"),
)


def reason(error: OSError) -> str | None:
    """The service's own name for what failed and its text; None for an error that does not come from a service."""
    if isinstance(error, ConnectionError | TimeoutError):
        return type(error).__name__
    found = _FAILURE.search(str(error))
    if found is None:
        return None
    if not found["aws"]:
        return found["gcs"] or "no connection"
    why = (found["why"] or "").removesuffix(_NO_BODY)
    if unnamed := _UNNAMED.search(why):
        return f"{unnamed[1]}: {unnamed[2]}"[:160]
    code = f"HTTP status {found['status']}" if found["status"] else found["aws"]
    return " ".join(f"{code}{why.rstrip(': ')}".split())[:160]


def without_text(error: OSError) -> bool:
    """Whether the service's answer had no text to say why: another kind of request brings one."""
    return str(error).endswith(_NO_BODY)


def remedy(said: str, url: str) -> str:
    """What to look at when a service has said this: the variable, or the network, the URL and the credentials."""
    code = re.sub(r"[^a-z]", "", said.partition(":")[0].lower())
    found = next((look for pattern, look in _LOOK_AT if re.fullmatch(pattern, code)), _ANYTHING)
    return found + (_ways(url) if "network" in found else "")


def proxies() -> str:
    """The variables that name a proxy, for a message; "" where none does."""
    named = [name for name in _PROXIES if os.environ.get(name)]
    return f"the proxy of {' and '.join(named)}" if named else ""


def _ways(url: str) -> str:
    """What leads to the service of `url` beside the network. pyarrow goes to S3 itself, to Google through a proxy."""
    s3 = url.startswith("s3://")
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if s3 else ("STORAGE_EMULATOR_HOST",)
    ways = [*(name for name in endpoints if os.environ.get(name)), *filter(None, ["" if s3 else proxies()])]
    past = f" (requests to S3 go past {proxies()})" if s3 and proxies() else ""
    return "".join(f" and {way}" for way in ways) + past
