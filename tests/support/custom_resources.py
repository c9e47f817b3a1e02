# SPDX-License-Identifier: Apache-2.0
"""
Objects of operators, held to the schemas that the operators publish, as strictly as kubectl does.

A schema of a CustomResourceDefinition is JSON Schema with extensions, of which those that change
what is taken are put into its words here. Rules in CEL (`x-kubernetes-validations`) are the API
server's own to apply.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
import yaml

from deploy.programs import CUSTOM_RESOURCES, ProgramMissingError
from tests.support.manifests import Object


class RefusedError(Exception):
    """An object that its operator does not take."""


def validate(one: Object) -> None:
    """
    Hold an object to its schema; a field that the schema does not have is a fault too.

    Raises:
        RefusedError: Saying what is wrong.
    """
    schema = _schemas(one["kind"]).get(one["apiVersion"])
    if schema is None:
        raise RefusedError(f"there is no {one['kind']} in {one['apiVersion']}")
    faults = [fault.message for fault in jsonschema.Draft202012Validator(schema).iter_errors(one)]
    if faults:
        raise RefusedError("; ".join(faults))


@cache
def _schemas(kind: str) -> dict[str, Any]:
    """A kind's schemas, by version."""
    folder = CUSTOM_RESOURCES.find()
    if folder is None:
        raise ProgramMissingError(
            "The operators' schemas are not here; run `make custom-resources`."
        )
    (text,) = (
        text
        for path in folder.iterdir()
        if f"\n    kind: {kind}\n" in (text := path.read_text(encoding="utf-8"))
    )
    spec = yaml.load(text, yaml.CSafeLoader)["spec"]
    return {
        f"{spec['group']}/{version['name']}": _strict(version["schema"]["openAPIV3Schema"])
        for version in spec["versions"]
        if version["served"]
    }


def _strict(schema: Any) -> Any:
    """Put the extensions of a schema, and of all within it, into JSON Schema's own words."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items() if key != "description"}
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if "properties" in schema and isinstance(schema.get("type"), str):
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
        # The API server knows what every object has; it adds these by itself.
        if {"apiVersion", "kind", "metadata"} <= schema["properties"].keys():
            made["properties"]["metadata"] = {"type": "object"}
    if made.get("nullable"):
        made["type"] = [made["type"], "null"]
    return made
