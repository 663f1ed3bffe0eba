"""Every error that this project raises deliberately.

ScalingStudyError                base class; the command line prints the message and exits with 1
|-- InvalidStudy                 the study file is invalid; lists every mistake
|-- UsageError                   the command is invalid, for example an output path that cannot be written; exit code 2
|-- PlanRefused                  the study file is valid, but its plan cannot run
|-- ContractError                bytes that violate the contract: bad identity, digest or record
|-- StoreError                   a store operation failed; `retryable` tells whether a retry can help
|   |-- KeyMissing                 the object does not exist
|   |-- KeyExists                  the object was created by another writer
|   |-- StoreUnavailable           the store is unreachable, full, or read-only
|   |-- Damaged                    an artifact's bytes do not match its manifest or record
|   `-- LeaseHeld                  another attempt holds the lease
|       `-- LeaseLost                another attempt took over this attempt's lease
|-- ClusterError                 a request to the cluster's API failed; `retryable` tells whether a retry can help
|   |-- ClusterUnavailable         the API is unreachable, throttles requests, or failed internally
|   |-- Conflict                   the object has changed since it was read
|   |-- Expired                    the resource version of a watch is too old: list again
|   |-- AlreadyExists              an object of this name exists
|   |-- NotFound                   no object of this name exists
|   `-- Refused                    the request is invalid or forbidden: schema, permissions, quota, admission
|-- TokenRefused                 a server rejected the token: a new token is required
|-- TrackingUnavailable          MLflow is unreachable; the mirror can be updated later
|-- ReportNotWritten             the output folder of a report is not writable
|-- TaskRefused                  no retry can fix the task (exit code 78)
`-- MissingExtra                 an optional package is not installed
"""


class ScalingStudyError(Exception):
    """Base class of all errors. `retryable` tells whether a retry can help."""

    retryable = False


class InvalidStudy(ScalingStudyError):
    """The study file is invalid. `mistakes` lists every mistake, in the order of the file."""

    def __init__(self, mistakes: "list[object]") -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(mistake) for mistake in mistakes))


class UsageError(ScalingStudyError):
    """An argument or option is invalid in a way that argument parsing cannot detect. Exit code 2, as for parsing errors."""


class PlanRefused(ScalingStudyError):
    """The study file is valid, but its plan cannot run."""


class ContractError(ScalingStudyError):
    """Data violates the contract shared by orchestrator, trainer and analysis."""


class StoreError(ScalingStudyError):
    """A store operation failed."""


class KeyMissing(StoreError):
    """The object does not exist."""


class KeyExists(StoreError):
    """A create-only write found an existing object."""


class StoreUnavailable(StoreError):
    """The store is unreachable, full, read-only, timed out, or denied access."""

    retryable = True


class Damaged(StoreError):
    """Bytes in the store do not match the manifest, pointer or record that refers to them."""


class LeaseHeld(StoreError):
    """Another attempt holds the lease."""

    retryable = True


class LeaseLost(LeaseHeld):
    """Another attempt took over this attempt's lease: its later writes are ignored."""


class ClusterError(ScalingStudyError):
    """A request to the cluster's API failed."""


class ClusterUnavailable(ClusterError):
    """The API is unreachable, timed out, throttled the request, or failed internally. A change may have been made or not."""

    retryable = True


class Conflict(ClusterError):
    """The object has changed since it was read: read it again before deciding."""

    retryable = True


class Expired(ClusterError):
    """The resource version of a watch is too old for the API: list again."""

    retryable = True


class AlreadyExists(ClusterError):
    """An object of this kind and name exists."""


class NotFound(ClusterError):
    """No object of this kind and name exists."""


class Refused(ClusterError):
    """The request is invalid, forbidden, over a quota, or rejected at admission. The message is the API's."""


class TokenRefused(ScalingStudyError):
    """A server rejected the token. The user must provide a new one, so no loop retries."""


class TrackingUnavailable(ScalingStudyError):
    """MLflow is unreachable, timed out, or rejected the request. The store is complete, so the mirror can be updated later."""

    retryable = True


class ReportNotWritten(ScalingStudyError):
    """The output folder of a report is on a full or read-only disk. The store is complete, so another folder can be used."""


class TaskRefused(ScalingStudyError):
    """No retry can fix this task: wrong input, wrong hash, different NUMERICS, too many NaN steps."""


class MissingExtra(ScalingStudyError):
    """An optional package is not installed. The message contains the command that installs it."""
