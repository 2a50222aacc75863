"""KubeRay's CRD schemas, closed: what `kubectl apply --validate=strict` would refuse is refused."""

import functools
import os
from pathlib import Path

import jsonschema
import pytest

from tests.deploy.deploy_files import ROOT, read

CRDS = Path(os.environ.get("CKD_CRDS", ROOT.parent / "shared" / "crds"))
needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"no CRD schemas in {CRDS}; CKD_CRDS names another folder")


def closed(schema, name=""):
    """An openAPIV3 schema as JSON schema that knows no other keys, as `kubectl apply --validate=strict` does.

    The CRDs leave object metadata open, here and in pod templates: the API server checks it.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: closed(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-") and key not in ("format", "properties")
    }
    if "properties" in schema:
        made["properties"] = {key: closed(value, key) for key, value in schema["properties"].items()}
    is_open = (
        name == "metadata" or "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    )
    if schema.get("type") == "object" and not is_open:
        made["additionalProperties"] = False
    return {"anyOf": [{"type": "null"}, made]} if schema.get("nullable") else made


@functools.cache
def crd(kind):
    versions = read(CRDS / f"ray.io_{kind.lower()}s.yaml")["spec"]["versions"]
    (schema,) = [each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1"]
    return jsonschema.Draft202012Validator(closed(schema))


def accepted(manifest):
    assert manifest["apiVersion"] == "ray.io/v1"
    errors = [f"{error.json_path}: {error.message}" for error in crd(manifest["kind"]).iter_errors(manifest)]
    assert not errors, errors[:3]
