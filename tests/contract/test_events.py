"""The protocol between a worker and its parent: messages are read back, invalid lines are rejected."""

import pytest

from orchestrator.contract.events import End, Event, Placement, Progress, Ready, Request, Start, read_event, read_request, to_line
from orchestrator.errors import ContractError

EVENTS = [
    Ready(),
    Start("d", 7, 512),
    Progress("d", 1, 10, "tokens", 2.5),
    Progress("d", 1, 10, "bytes"),
    End("d", 78, "zu groß\nfür hier"),
]


@pytest.mark.parametrize("event", EVENTS)
def test_event_is_one_line_and_is_read_back(event: Event) -> None:
    line = to_line(event)
    assert "\n" not in line
    assert read_event(line) == event


def test_request_is_read_back_with_its_placement() -> None:
    request = Request("d" * 64, Placement(study="ä", threads=2, inputs={"f": ["/a b", "s3://x/*.gz"]}))
    assert read_request(to_line(request)) == request


@pytest.mark.parametrize("line", ["", "{", "[]", '{"event": "dance"}', '{"event": "end"}', '{"event": "ready", "x": 1}', "null"])
def test_invalid_event_is_rejected(line: str) -> None:
    with pytest.raises(ContractError, match="not an event"):
        read_event(line)


@pytest.mark.parametrize("line", ["", "{", "[]", '{"run": "d"}', '{"run": "d", "placement": {"cores": 2}}'])
def test_invalid_request_is_rejected(line: str) -> None:
    with pytest.raises(ContractError, match="not a request"):
        read_request(line)
