"""Runs one study of a file on a cluster from where a person sits: `run_study`.

`scaling-study run FILE --argo-server URL` calls it. The loop, its looks and its decisions are the controller's; here are the study's
object, which no cluster keeps, a person's wish to stop, what they see meanwhile, and the end.

    run        from the object to the end of the run
    telling    looks of the loop -> lines and a live view
    following  logs of pods, as they are written
"""

from orchestrator.remote.run import End, Interrupts, run_study, study_object

__all__ = ["End", "Interrupts", "run_study", "study_object"]
