"""Calls to an Argo Server with the `argo-workflows` package: plain JSON in both directions, errors as ClusterError.

The package provides paths, parameter names and credentials. Its models are not used: converting a Workflow to them takes longer than the
request, and all callers use dictionaries.
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
    NotFound,
    Refused,
    ScalingStudyError,
    TokenRefused,
)

_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 30.0

# google.rpc.Code; HTTP status 409 covers ALREADY_EXISTS and ABORTED
_ALREADY_EXISTS: Final = 6
_TOO_OLD: Final = "too old resource version"
# The server's error message at the end of a stream's requested duration
_END_OF_STREAM: Final = "EOF"


class ArgoApi:
    """One Argo Server. `token` is called before every request, so that a renewed token is used; it returns no `Bearer` prefix."""

    def __init__(self, url: str, token: Callable[[], str], *, ca_file: str = "", verify: bool = True) -> None:
        settings = Configuration(host=url.rstrip("/"), ssl_ca_cert=ca_file or None)
        settings.verify_ssl = verify
        self.url = settings.host
        self._token = token
        self._settings = settings
        self._client = _PlainClient(settings)
        self._workflows, self._info = WorkflowServiceApi(self._client), InfoServiceApi(self._client)

    def version(self) -> str:
        """Return the version of Argo. Raises ClusterError if the server is unreachable or not an Argo Server."""
        response = self._send(self._info.get_version_endpoint, {}, _READ_SECONDS)
        try:
            content = json.loads(response.data)
        except (ValueError, HTTPError, OSError):
            content = None
        if isinstance(content, dict) and "code" in content and "kind" not in content and response.status in (401, 403):
            raise _error_from_response(response.status, content, "version")
        if response.status != 200 or not isinstance(content, dict) or not isinstance(content.get("version"), str):
            raise ClusterError(f"{self.url} is not an Argo Server: GET {self.url}/api/v1/version returned {response.status}")
        return str(content["version"])

    def request(self, call: str, **parameters: object) -> Document:
        """Call a method of the package's WorkflowServiceApi and return its JSON. Raises ClusterError, TokenRefused."""
        response = self._send(getattr(self._workflows, f"{call}_endpoint"), parameters, _READ_SECONDS)
        try:
            body = response.data
        except (HTTPError, OSError) as problem:
            raise _unreachable(self.url, call, problem) from problem
        content = _parse(body)
        if response.status != 200:
            raise _error_from_response(response.status, content, call)
        return content

    def stream(self, call: str, read_seconds: float | None, **parameters: object) -> Iterator[Document]:
        """Yield the messages of a streamed response until `read_seconds` pass without data. Raises ClusterError, TokenRefused."""
        response = self._send(getattr(self._workflows, f"{call}_endpoint"), parameters, read_seconds)
        try:
            if response.status != 200:
                raise _error_from_response(response.status, _error_in(_parse(response.data)), call)
            for line in _lines(response):
                content = _parse(line)
                if "result" not in content:
                    error = _error_in(content)
                    if error.get("message") == _END_OF_STREAM:
                        return
                    raise _error_from_response(error.get("http_code", 500), error, call)
                yield content["result"]
        except ReadTimeoutError:
            return
        except (HTTPError, OSError) as problem:
            raise _unreachable(self.url, call, problem) from problem
        finally:
            response.release_conn()
            response.close()

    def _send(self, endpoint: Endpoint, parameters: Mapping[str, object], read_seconds: float | None) -> BaseHTTPResponse:
        """Send a request as the package's own method does, without converting the body to a model."""
        self._settings.api_key["BearerToken"] = f"Bearer {self._token()}"
        values = {place: {endpoint.attribute_map[name]: parameters[name] for name in parameters if endpoint.location_map[name] == place}
                 for place in ("path", "query")}  # fmt: skip
        settings, call = endpoint.settings, endpoint.settings["operation_id"]
        try:
            response: BaseHTTPResponse = self._client.call_api(
                settings["endpoint_path"],
                settings["http_method"],
                values["path"],
                list(values["query"].items()),
                {"Accept": "application/json", "Content-Type": "application/json"},
                body=parameters.get("body"),
                auth_settings=settings["auth"],
                _preload_content=False,
                _request_timeout=(_CONNECT_SECONDS, read_seconds),
            )
        except (HTTPError, OSError) as problem:
            raise _unreachable(self.url, call, problem) from problem
        return response


class _PlainClient(ApiClient):  # type: ignore[misc]
    """The package's client, returning raw responses, including error responses.

    The package's exceptions read headers with a method that urllib3 has removed.
    """

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
        response: BaseHTTPResponse = self.rest_client.pool_manager.request(
            method,
            url + (f"?{urlencode(query_params)}" if query_params else ""),
            body=None if body is None else json.dumps(body),
            headers=headers,
            preload_content=False,
            timeout=Timeout(connect=connect, read=read),
            retries=False,
            redirect=False,
        )
        return response


def _lines(response: BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(amt=None, decode_content=False):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())
    if rest.strip():
        yield rest


def _parse(body: bytes) -> Document:
    """Parse a JSON object. Other content, such as a proxy's error page, becomes its `message`."""
    try:
        content = json.loads(body or b"{}")
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {"message": body[:200].decode(errors="replace")}


def _error_in(content: Document) -> Document:
    """Convert the error message of a stream to the form of an error response."""
    error = content.get("error")
    return {**error, "code": error.get("grpc_code")} if isinstance(error, dict) else content


def _unreachable(url: str, call: str, problem: Exception) -> ClusterUnavailable:
    return ClusterUnavailable(f"the Argo Server at {url} is unreachable ({call}): {problem}")


def _error_from_response(status: int, content: Mapping[str, Any], call: str) -> ScalingStudyError:
    """Convert an error response of the server to an exception."""
    message = str(content.get("message") or f"HTTP {status}")
    if status == 401:
        return TokenRefused(f"the Argo Server rejected the token: {message}")
    if status == 404:
        return NotFound(message)
    if status == 409:
        return (AlreadyExists if content.get("code") == _ALREADY_EXISTS or "already exists" in message else Conflict)(message)
    if status == 410 or _TOO_OLD in message:
        return Expired(message)
    if status == 429 or status >= 500 or status < 400:
        return ClusterUnavailable(f"{call}: {message}")
    return Refused(message)
