"""A fake metadata server of both clouds on a port of this machine.

AWS wants a session token and knows no notice (404) until there is one; GCP wants its header and lets a request wait
until the value changes.
"""

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlparse

from testbed.loopback import Loopback, serving


class MetadataServer:
    """As a context: serves at `url`. `cloud` is the one that it plays."""

    def __init__(self, cloud):
        self.cloud, self.asked = cloud, []
        self.tokens, self.body, self.preempted, self.broken = set(), "", False, 0
        self.changed = threading.Condition()
        self.server = Loopback(type("Handler", (Handler,), {"fake": self}))
        self.serving, self.url = serving(self.server), self.server.url
        self.environment = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url,
            "GCE_METADATA_HOST": self.url.removeprefix("http://"),
            "http_proxy": "http://127.0.0.1:9",  # a metadata server is never asked through it
        }

    def __enter__(self):
        self.serving.__enter__()
        return self

    def __exit__(self, *ended):
        self.serving.__exit__(*ended)

    def end_at(self, deadline, action="terminate"):
        """AWS's notice."""
        self.body = json.dumps(
            {"action": action, "time": datetime.fromtimestamp(deadline, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        )

    def preempt(self):
        """GCP's notice."""
        with self.changed:
            self.preempted = True
            self.changed.notify_all()

    def forget_tokens(self):
        self.tokens.clear()


class Handler(BaseHTTPRequestHandler):
    def do_PUT(self):
        if (
            not self._begins("aws")
            or self.path != "/latest/api/token"
            or not self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        ):
            return self._answer(404)
        self.fake.tokens.add(token := f"token{len(self.fake.asked)}")
        return self._answer(200, token)

    def do_GET(self):
        if self.path == "/latest/meta-data/spot/instance-action" and self._begins("aws"):
            if self.headers.get("X-aws-ec2-metadata-token") not in self.fake.tokens:
                return self._answer(401)
            return self._answer(200, self.fake.body) if self.fake.body else self._answer(404)
        where = urlparse(self.path)
        if where.path == "/computeMetadata/v1/instance/preempted" and self._begins("gcp"):
            return self._preempted(parse_qs(where.query))
        return self._answer(404)

    def _preempted(self, query):
        if self.headers.get("Metadata-Flavor") != "Google":
            return self._answer(403)
        etag = "1" if self.fake.preempted else "0"
        if query.get("wait_for_change") == ["true"] and query.get("last_etag") == [etag]:
            with self.fake.changed:
                self.fake.changed.wait(float(query["timeout_sec"][0]))
        return self._answer(
            200,
            str(self.fake.preempted).upper(),
            ETag="1" if self.fake.preempted else "0",
            **{"Metadata-Flavor": "Google"},
        )

    def _begins(self, cloud):
        self.fake.asked.append(f"{self.command} {self.path}")
        if self.fake.broken:
            self.fake.broken -= 1
            return False
        return self.fake.cloud == cloud

    def _answer(self, status, body="", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass
