"""Control loop: reads the cluster and the store, calls `reconcile`, applies the returned actions, writes the status.

`python -m orchestrator.controller --namespace NAMESPACE` runs in the controller's pod; `orchestrator.remote` runs the same loop over Argo
Server. The process may be killed between any two calls: all state can be read again, and every call may be repeated.

    loop               queue, watches and leader election      study_reconciler  reconciles one study
    snapshot           one listing of the namespace            lease_cache       completed tasks, leases and costs, from the store
    planning           object -> accepted, planned study       applying          actions -> calls of the cluster and the store
    file_fingerprints  Workflows that fingerprint files        status_writer     early status, failures, status writes
    fair_share         limits that studies share               decision_inputs   leases, facts and limits of one study
"""
