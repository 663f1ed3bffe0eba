"""A task that is marked as done and has lost its record is performed again, without the marker of the lost record."""

from trainer.context import Context, Outcome

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.errors import KeyMissing
from orchestrator.store import Store, addresses, records
from tests.trainer.attempt.attempts import DIGEST, attempt, finish


def test_marker_of_a_lost_record_is_removed_before_the_work(store: Store, placement: Placement) -> None:
    """Otherwise a trainer that is killed between record and marker would leave a record that does not match its marker."""
    assert attempt(store, placement)[0] == ExitCode.DONE
    first = store.objects.get(addresses.done_key(DIGEST))
    store.objects.delete(addresses.record_key(DIGEST))
    seen: list[bytes | None] = []

    def work(context: Context) -> Outcome:
        try:
            seen.append(context.store.objects.get(addresses.done_key(DIGEST)))
        except KeyMissing:
            seen.append(None)
        return finish(context)

    assert attempt(store, placement, work)[0] == ExitCode.DONE
    assert seen == [None]
    assert records.read_record(store, DIGEST) is not None
    assert store.objects.get(addresses.done_key(DIGEST)) != first
