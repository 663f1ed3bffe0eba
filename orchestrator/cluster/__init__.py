"""The port to a cluster, its adapters (Kubernetes API, Argo Server, in memory) and the ScalingStudy object.

Only `kubernetes_api` imports `kubernetes`, only `argo_server` imports `argo_workflows`.
"""
