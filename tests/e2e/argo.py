"""The real Argo Server, and service accounts that may only use Workflows."""

import os
from typing import Final

from tests.e2e.kubectl import Document, Kubectl

VERBS: Final = ["create", "get", "list", "watch", "patch", "update", "delete"]
_RBAC: Final = "rbac.authorization.k8s.io"


def server_url() -> str:
    """Return the URL of the server for this machine."""
    given = os.environ.get("E2E_ARGO_SERVER")
    return given or f"http://{Kubectl('argo').json('get', 'service', 'argo-server')['spec']['clusterIP']}:2746"


def token_of(kubectl: Kubectl, name: str, *, logs: bool = False) -> str:
    """Create a service account that may use Workflows (`logs`: also read pod logs) and return its token."""
    rules: list[Document] = [{"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": VERBS}]
    if logs:
        rules.append({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]})
        rules.append({"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]})
    metadata = {"name": name, "namespace": kubectl.namespace}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": kubectl.namespace}],
        },
    )
    return kubectl.run("create", "token", name, "--duration=1h").strip()
