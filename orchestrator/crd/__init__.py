"""The CustomResourceDefinition of a study, generated from the models.

`python -m orchestrator.crd` writes manifests/base/crd.yaml; a test fails when the two differ.
"""

from typing import Any, Final

import yaml

from orchestrator.contract.vocabulary import API_VERSION, OBJECT_KIND
from orchestrator.crd.account import account_definition
from orchestrator.crd.rules import rules
from orchestrator.crd.schema import Schema, schema_of
from orchestrator.crd.status import COLUMNS, STATUS
from orchestrator.spec.fields import LABEL_PATTERN
from orchestrator.spec.model_tree import Fields, study_object

GROUP, VERSION = API_VERSION.split("/")
PLURAL: Final = "scalingstudies"

_HEADER: Final = "# Generated from the models of the study file by `python -m orchestrator.crd`; do not edit.\n"


def definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition as a dictionary."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": COLUMNS,
        "schema": {"openAPIV3Schema": _schema()},
    }
    names = {"kind": OBJECT_KIND, "listKind": f"{OBJECT_KIND}List", "plural": PLURAL, "singular": "scalingstudy", "shortNames": ["sstudy"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def _schema() -> Schema:
    spec = study_object().fields["spec"]
    assert isinstance(spec.entry, Fields)
    name = {"type": "string", "maxLength": 63, "pattern": f"^{LABEL_PATTERN}$"}
    return {
        "type": "object",
        "description": "A scaling study: a grid of sizes x code proportions x seeds, and the training stages of its models.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the format."},
            "kind": {"type": "string", "description": "Kind of the object."},
            "metadata": {"type": "object", "properties": {"name": name}},
            "spec": {"description": spec.description, **schema_of(spec.entry, rules(), ("spec",))},
            "status": STATUS,
        },
    }


def to_yaml() -> str:
    """Return the definitions of study and account as YAML documents, with a header."""
    both = [definition(), account_definition()]
    return _HEADER + yaml.dump_all(both, Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """YAML dumper without anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True
