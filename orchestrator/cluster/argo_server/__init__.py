"""The cluster as an Argo Server shows it to a token that may use Workflows and nothing else: the only package with `argo_workflows`.

`scaling-study run FILE --argo-server URL` connects here and gives the adapter to the same loop that the controller runs.

    client   the package's client: paths, parameters, credentials; plain JSON comes back, and errors are ours
    strict   a Workflow against the package's models before it is sent, since the server drops what it does not know
    nodes    a Workflow's nodes -> the pods that the token does not see (pure)
    adapter  the port
"""

from orchestrator.cluster.argo_server.adapter import ArgoServerCluster, connect

__all__ = ["ArgoServerCluster", "connect"]
