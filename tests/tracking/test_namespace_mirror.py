"""The mirror of all studies of a namespace."""

from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store
from orchestrator.tracking.cluster import NamespaceMirror
from tests.controller.simulated_cluster import SimulatedCluster
from tests.tracking.synthetic_store import UNREACHABLE


def test_store_of_a_refused_study_is_not_opened() -> None:
    simulated, opened, messages = SimulatedCluster(), list[str](), list[str]()
    simulated.apply("mine")
    simulated.apply("refused", store="memory://forbidden", execution={})
    simulated.step(simulated.controller())

    def open_named(url: str) -> Store:
        opened.append(url)
        raise StoreUnavailable("no credentials")

    mirrors = NamespaceMirror(simulated.cluster, UNREACHABLE, messages.append, open_named)
    mirrors.update()
    mirrors.update()
    assert set(opened) == {"memory://simulated"}
    assert messages[0] == "mine: no credentials; retrying"
    assert messages[1].startswith("refused: not mirrored, because it is not accepted (ImageMissing: ")
    assert len(messages) == 2, "each message once"
