"""Every error that this project raises on purpose.

ScalingStudyError                what went wrong, where, and what to do next; the command line prints it and exits 1
|-- StudyMistakes                the study file is wrong: every mistake at once (never retried)
|-- CommandMistake               the command is wrong: it names a place that cannot be written, say; the command line exits 2
|-- PlanRefused                  the file reads well, but its plan cannot be run (never retried)
|-- ContractError                bytes that do not follow the contract: bad identity, digest, record
|-- StoreError                   the store did not do what it was asked; `retryable` says whether asking again can help
|   |-- KeyMissing               no such object
|   |-- AlreadyThere             somebody created it first
|   |-- StoreUnavailable         the store is away, full, or read-only
|   |-- Damaged                  an artifact's bytes are not those its manifest or record promised
|   `-- LeaseHeld                another attempt is at work on it
|       `-- LeaseLost            this attempt was at work and has been overtaken
|-- ClusterError                 the cluster's API did not do what it was asked; `retryable` as above
|   |-- ClusterUnavailable         it is away, throttles us, or failed on its own side
|   |-- Conflict                   the object has changed since it was read
|   |-- Expired                    a watch cannot go on from so old a version: list again
|   |-- AlreadyExists              there is an object of this name
|   |-- NotThere                   there is no object of this name
|   `-- Refused                    not valid, or not allowed: schema, rights, quota, admission
|-- TokenRefused                 a server no longer knows the token: nothing can be asked until a person gives another
|-- TrackingUnavailable          MLflow is away; the mirror can be made later
|-- ReportNotWritten             the folder of a report cannot be written
|-- TaskRefused                  no retry can mend the task (exit code 78)
`-- MissingExtra                 an optional package is not installed
"""


class ScalingStudyError(Exception):
    """Base of all our errors. `retryable` tells whether doing the same again can help."""

    retryable = False


class StudyMistakes(ScalingStudyError):
    """The study file is wrong. `mistakes` holds every one of them, in the order of the file."""

    def __init__(self, mistakes: "list[object]") -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(mistake) for mistake in mistakes))


class CommandMistake(ScalingStudyError):
    """The command is wrong: an argument or option that the command line alone could not check. Exit code 2, as for other mistakes."""


class PlanRefused(ScalingStudyError):
    """The study reads well, but what it plans cannot be run."""


class ContractError(ScalingStudyError):
    """Something does not follow the contract that orchestrator, trainer and analysis share."""


class StoreError(ScalingStudyError):
    """The store did not do what it was asked to do."""


class KeyMissing(StoreError):
    """There is no object under this key."""


class AlreadyThere(StoreError):
    """A create-only write found that somebody had been there first."""


class StoreUnavailable(StoreError):
    """The store is away, full, slow beyond its limit, or refuses us."""

    retryable = True


class Damaged(StoreError):
    """Bytes in the store are not those that a manifest, pointer or record promised."""


class LeaseHeld(StoreError):
    """Another attempt works on this."""

    retryable = True


class LeaseLost(LeaseHeld):
    """This attempt was at work and another one has taken over: what it writes from now on does not count."""


class ClusterError(ScalingStudyError):
    """The cluster's API did not do what it was asked to do."""


class ClusterUnavailable(ClusterError):
    """The API is away, slow beyond its limit, throttles us, or failed on its own side. Whether a change was made is not known."""

    retryable = True


class Conflict(ClusterError):
    """The object has changed since it was read: read it again and decide anew."""

    retryable = True


class Expired(ClusterError):
    """The API has forgotten the version that a watch wanted to go on from: list again."""

    retryable = True


class AlreadyExists(ClusterError):
    """There is an object of this kind and name."""


class NotThere(ClusterError):
    """There is no object of this kind and name."""


class Refused(ClusterError):
    """The API will not have it: not valid, not allowed, over a quota, or rejected at admission. The message is the API's."""


class TokenRefused(ScalingStudyError):
    """A server does not know the token, or no longer: a person must give another, so no loop asks again."""


class TrackingUnavailable(ScalingStudyError):
    """MLflow is away, slow beyond its limit, or refuses us. The store has everything: the mirror can be made later."""

    retryable = True


class ReportNotWritten(ScalingStudyError):
    """The folder of a report is on a disk that is full or read-only. The store has everything: another folder will do."""


class TaskRefused(ScalingStudyError):
    """No retry can mend this task: wrong input, a bad hash, other NUMERICS, NaN beyond the rule."""


class MissingExtra(ScalingStudyError):
    """An optional part of the installation is not there. The message holds the line that installs it."""
