"""Calls of an Argo Server by the `argo-workflows` package, with plain JSON both ways and our errors.

The package knows paths, names of parameters and credentials. Its models are left out: making them of a Workflow takes longer than the
request, and everything else here writes and reads dictionaries.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from argo_workflows.api.info_service_api import InfoServiceApi
from argo_workflows.api.workflow_service_api import WorkflowServiceApi
from argo_workflows.api_client import ApiClient, Endpoint
from argo_workflows.configuration import Configuration
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import HTTPError, ReadTimeoutError

from orchestrator.cluster.port import Document
from orchestrator.errors import (
    AlreadyExists,
    ClusterError,
    ClusterUnavailable,
    Conflict,
    Expired,
    NotThere,
    Refused,
    ScalingStudyError,
    TokenRefused,
)

_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 30.0

# google.rpc.Code: the two that HTTP calls 409
_ALREADY_EXISTS: Final = 6
_TOO_OLD: Final = "too old resource version"
# How the server ends a stream that has lasted as long as was asked
_END: Final = "EOF"


class ArgoApi:
    """One server. `token` is asked before every call, so that one that is renewed in a file is found; without `Bearer`."""

    def __init__(self, url: str, token: Callable[[], str], *, ca_file: str = "", verify: bool = True) -> None:
        settings = Configuration(host=url.rstrip("/"), ssl_ca_cert=ca_file or None)
        settings.verify_ssl = verify
        self.url = settings.host
        self._token = token
        self._settings = settings
        self._client = _Plain(settings)
        self._workflows, self._info = WorkflowServiceApi(self._client), InfoServiceApi(self._client)

    def version(self) -> str:
        """Which Argo answers. Raises ClusterError when nobody does, or somebody else."""
        answer = self._send(self._info.get_version_endpoint, {}, _READ_SECONDS)
        try:
            told = json.loads(answer.data)
        except (ValueError, HTTPError, OSError):
            told = None
        if isinstance(told, dict) and "code" in told and "kind" not in told and answer.status in (401, 403):
            raise _problem(answer.status, told, "version")
        if answer.status != 200 or not isinstance(told, dict) or not isinstance(told.get("version"), str):
            raise ClusterError(f"{self.url} is no Argo Server: it answers {answer.status} to {self.url}/api/v1/version")
        return str(told["version"])

    def ask(self, call: str, **parameters: object) -> Document:
        """`call` and `parameters`: a method of the package's WorkflowServiceApi and its arguments. Raises ClusterError, TokenRefused."""
        answer = self._send(getattr(self._workflows, f"{call}_endpoint"), parameters, _READ_SECONDS)
        try:
            body = answer.data
        except (HTTPError, OSError) as problem:
            raise _silence(self.url, call, problem) from problem
        told = _read(body)
        if answer.status != 200:
            raise _problem(answer.status, told, call)
        return told

    def stream(self, call: str, read_seconds: float | None, **parameters: object) -> Iterator[Document]:
        """The messages of an answer as they come. Ends when nothing came for `read_seconds`, or the connection breaks off."""
        answer = self._send(getattr(self._workflows, f"{call}_endpoint"), parameters, read_seconds)
        try:
            if answer.status != 200:
                raise _problem(answer.status, _error_in(_read(answer.data)), call)
            for line in _lines(answer):
                told = _read(line)
                if "result" not in told:
                    error = _error_in(told)
                    if error.get("message") == _END:
                        return
                    raise _problem(error.get("http_code", 500), error, call)
                yield told["result"]
        except ReadTimeoutError:
            return
        except (HTTPError, OSError) as problem:
            raise _silence(self.url, call, problem) from problem
        finally:
            answer.release_conn()
            answer.close()

    def _send(self, endpoint: Endpoint, parameters: Mapping[str, object], read_seconds: float | None) -> BaseHTTPResponse:
        """What the package's own method does, without its models of what is sent."""
        self._settings.api_key["BearerToken"] = f"Bearer {self._token()}"
        where = {place: {endpoint.attribute_map[name]: parameters[name] for name in parameters if endpoint.location_map[name] == place}
                 for place in ("path", "query")}  # fmt: skip
        how, call = endpoint.settings, endpoint.settings["operation_id"]
        try:
            answer: BaseHTTPResponse = self._client.call_api(
                how["endpoint_path"],
                how["http_method"],
                where["path"],
                list(where["query"].items()),
                {"Accept": "application/json", "Content-Type": "application/json"},
                body=parameters.get("body"),
                auth_settings=how["auth"],
                _preload_content=False,
                _request_timeout=(_CONNECT_SECONDS, read_seconds),
            )
        except (HTTPError, OSError) as problem:
            raise _silence(self.url, call, problem) from problem
        return answer


class _Plain(ApiClient):  # type: ignore[misc]
    """The package's client with answers left as they come, those with an error too: its own exceptions read headers in a way that
    urllib3 has given up."""

    def request(
        self,
        method: str,
        url: str,
        query_params: Sequence[tuple[str, object]] | None = None,
        headers: Mapping[str, str] | None = None,
        post_params: object = None,  # noqa: ARG002
        body: object = None,
        _preload_content: bool = True,
        _request_timeout: tuple[float, float | None] = (_CONNECT_SECONDS, _READ_SECONDS),
    ) -> BaseHTTPResponse:
        connect, read = _request_timeout
        answer: BaseHTTPResponse = self.rest_client.pool_manager.request(
            method,
            url + (f"?{urlencode(query_params)}" if query_params else ""),
            body=None if body is None else json.dumps(body),
            headers=headers,
            preload_content=False,
            timeout=Timeout(connect=connect, read=read),
            retries=False,
            redirect=False,
        )
        return answer


def _lines(answer: BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in answer.stream(amt=None, decode_content=False):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())
    if rest.strip():
        yield rest


def _read(body: bytes) -> Document:
    """What is no JSON object becomes a message: a proxy in between answers as it likes."""
    try:
        told = json.loads(body or b"{}")
    except ValueError:
        told = None
    return told if isinstance(told, dict) else {"message": body[:200].decode(errors="replace")}


def _error_in(told: Document) -> Document:
    """What a stream says of its end, in the words of other answers."""
    error = told.get("error")
    return {**error, "code": error.get("grpc_code")} if isinstance(error, dict) else told


def _silence(url: str, call: str, problem: Exception) -> ClusterUnavailable:
    return ClusterUnavailable(f"the Argo Server at {url} does not answer ({call}): {problem}")


def _problem(status: int, told: Mapping[str, Any], call: str) -> ScalingStudyError:
    """The server's own words as one of our errors."""
    message = str(told.get("message") or f"HTTP {status}")
    if status == 401:
        return TokenRefused(f"the Argo Server does not know the token: {message}")
    if status == 404:
        return NotThere(message)
    if status == 409:
        return (AlreadyExists if told.get("code") == _ALREADY_EXISTS or "already exists" in message else Conflict)(message)
    if status == 410 or _TOO_OLD in message:
        return Expired(message)
    if status == 429 or status >= 500 or status < 400:
        return ClusterUnavailable(f"{call}: {message}")
    return Refused(message)
