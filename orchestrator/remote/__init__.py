"""Run one study file on a cluster from the user's machine, through an Argo Server: `run_study`.

Called by `scaling-study run FILE --argo-server URL`. The control loop is that of the controller. This package adds the study's
object, which no cluster stores, the handling of Ctrl-C, the display, and the end of the run.

    run          the run from creating the object to its end
    reporter     converts the decisions of the loop to lines and a live view
    follow_logs  streams the logs of running pods
    token        the bearer token of the Argo Server
"""

from orchestrator.remote.run import Interrupts, RemoteOutcome, run_study, study_object

__all__ = ["Interrupts", "RemoteOutcome", "run_study", "study_object"]
