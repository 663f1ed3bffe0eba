"""The loop: reads the cluster and the store, calls `reconcile`, applies what it returns, writes one status.

`python -m orchestrator.controller --namespace NAMESPACE` is the controller's pod; the loop over Argo Server is made of the same parts. It
may be killed between any two calls: everything that it knows it can read again, and every call may be made twice.

    snapshot   one listing of the namespace           ledger    what the store says of tasks: done, leases, what they cost
    planning   object -> accepted, planned study      applying  actions -> calls of the cluster
    passes     one look at one study                  loop      queue, watches, leader election, the end
"""
