"""The CustomResourceDefinition of a namespace's GPU-hour account.

Only the controller's role may write it, and only the platform team may set `spec.reset`. It has no status subresource, so that the
controller creates and writes it in one request.
"""

from typing import Any, Final

from orchestrator.contract.vocabulary import ACCOUNT_KIND, API_VERSION
from orchestrator.crd.status import Schema, count_field, text_field

PLURAL: Final = "gpuaccounts"


def _object(required: tuple[str, ...], properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


_STUDY: Final = _object(
    ("study", "uid", "store", "gpuSeconds", "podGpuSeconds", "leaseGpuSeconds", "overlapGpuSeconds", "unobservedGpuSeconds"),
    {
        "study": text_field("Name of the study.", 63),
        "uid": text_field("UID of the study object.", 64),
        "store": text_field("Label of the store.", 63),
        "url": text_field("Address of the store.", 2048),
        "gpuSeconds": count_field("Billed: podGpuSeconds and unobservedGpuSeconds."),
        "podGpuSeconds": count_field("Time that the study's pods held GPUs, as the cluster reports it."),
        "leaseGpuSeconds": count_field("Time in the leases of the study's attempts in the store."),
        "overlapGpuSeconds": count_field("Part of podGpuSeconds that leases record too."),
        "unobservedGpuSeconds": count_field("Part of leaseGpuSeconds whose pods were not observed."),
        "updated": text_field("Time of the last change.", 32),
        "closed": {"type": "boolean", "description": "Whether the study was deleted or uses another store, and all of it is billed."},
    },
)

_POD: Final = _object(
    ("uid", "host", "workflow", "study", "studyUid", "store", "gpus", "start", "gpuSeconds"),
    {
        "uid": text_field("UID of the pod.", 64),
        "host": text_field("Host name of the pod, or name of its JobSet.", 253),
        "nodeId": text_field("Argo's id of the attempt.", 253),
        "workflow": text_field("Name of its Workflow.", 253),
        "study": text_field("Name of its study.", 63),
        "studyUid": text_field("UID of its study object.", 64),
        "store": text_field("Label of its store.", 63),
        "gpus": count_field("Number of its GPUs."),
        "start": text_field("When it was scheduled.", 32),
        "gpuSeconds": count_field("Billed so far."),
        "end": text_field("When it ended; empty while it runs.", 32),
    },
)

_RESET: Final = _object(
    ("at", "reason", "gpuSeconds"),
    {
        "at": text_field("Time of the reset.", 32),
        "reason": text_field("Value of spec.reset.", 256),
        "gpuSeconds": count_field("Billed until the reset; no longer counts against the cap."),
    },
)


def account_definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition as a plain object."""
    group, version = API_VERSION.split("/")
    schema = {
        "type": "object",
        "description": "GPU-hours that the studies of this namespace have used. Written by the controller; nothing lowers it.",
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the format."},
            "kind": {"type": "string", "description": "Kind of the object."},
            "metadata": {"type": "object"},
            "spec": _object(
                (),
                {"reset": text_field("Reason of a reset. A new value excludes all GPU-hours used so far from the namespace's cap.", 256)},
            ),
            "status": _object(
                (),
                {
                    "gpuSeconds": count_field("GPU-seconds billed since the account exists."),
                    "gpuHours": text_field("GPU-hours that count against the namespace's cap: billed since the last reset.", 32),
                    "running": count_field("GPUs that pods of studies hold now."),
                    "foldedGpuSeconds": count_field("Billed to deleted studies that are no longer listed."),
                    "foldedStudies": count_field("Number of these studies."),
                    "studies": {"type": "array", "description": "What each study was billed in each store.", "items": _STUDY},
                    "pods": {"type": "array", "description": "Pods on GPUs that run or whose leases are not read yet.", "items": _POD},
                    "resets": {"type": "array", "description": "The last resets, the newest last.", "items": _RESET},
                },
            ),
        },
    }
    columns = [
        {"name": "GPU-h", "type": "string", "jsonPath": ".status.gpuHours", "description": "GPU-hours used since the last reset."},
        {"name": "Running", "type": "integer", "jsonPath": ".status.running", "description": "GPUs in use."},
        {"name": "Reset", "type": "string", "jsonPath": ".spec.reset", "description": "Reason of the last reset."},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    names = {"kind": ACCOUNT_KIND, "listKind": f"{ACCOUNT_KIND}List", "plural": PLURAL, "singular": "gpuaccount", "shortNames": ["gpuacct"]}
    served = {
        "name": version, "served": True, "storage": True, "additionalPrinterColumns": columns, "schema": {"openAPIV3Schema": schema},
    }  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
    }
