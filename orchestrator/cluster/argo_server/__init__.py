"""Adapter for an Argo Server and a token that may only use Workflows; the only package that imports `argo_workflows`.

`scaling-study run FILE --argo-server URL` connects here and passes the adapter to the control loop that the controller also runs.

    client   calls to the Argo Server with plain JSON; converts its errors to ClusterError
    strict   validates a Workflow against the package's models before it is sent, because the server drops unknown fields
    nodes    converts a Workflow's nodes to pods, which the token cannot list (pure)
    adapter  implements the `Cluster` protocol
"""

from orchestrator.cluster.argo_server.adapter import ArgoServerCluster, connect

__all__ = ["ArgoServerCluster", "connect"]
