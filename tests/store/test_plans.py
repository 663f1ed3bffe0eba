"""Plans are frozen under their digest, and versions of a study are numbered."""

import pytest

from orchestrator.contract.plan import digest_of_plan
from orchestrator.errors import Damaged
from orchestrator.store import Store
from orchestrator.store.addresses import plan_key, study_key
from orchestrator.store.memory import Fault, in_memory_store
from orchestrator.store.plans import current, current_spec, freeze, plans, read_plan, versions
from tests.store.samples import evaluation, overwrite, plan, train

FIRST = plan([train(512), evaluation(512)])
SECOND = plan([train(512), train(1024)])


def test_frozen_plan_is_the_current_one(store: Store) -> None:
    assert current(store, "small") is None
    assert current_spec(store, "small") is None
    digest, number = freeze(store, FIRST, {"grid": {"seeds": [1]}})
    assert (digest, number) == (digest_of_plan(FIRST), 1)
    assert current(store, "small") == (digest, FIRST)
    assert current_spec(store, "small") == {"grid": {"seeds": [1]}}


def test_freezing_the_same_plan_is_idempotent(store: Store) -> None:
    freeze(store, FIRST, {"paused": False})
    before = {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")}
    assert freeze(store, FIRST, {"paused": True})[1] == 1
    assert {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")} == before


def test_another_plan_becomes_the_next_version(store: Store) -> None:
    first, _ = freeze(store, FIRST, {})
    second, number = freeze(store, SECOND, {})
    assert number == 2
    assert current(store, "small") == (second, SECOND)
    assert read_plan(store, first) == FIRST
    assert dict(plans(store)) == {first: FIRST, second: SECOND}
    assert freeze(store, FIRST, {})[1] == 3


def test_versions_are_sorted_as_numbers(store: Store) -> None:
    for number in range(1, 12):
        assert freeze(store, FIRST if number % 2 else SECOND, {})[1] == number


def test_studies_with_a_common_name_prefix_are_separate(store: Store) -> None:
    freeze(store, plan([train(512)], study="small"), {})
    assert freeze(store, plan([train(512)], study="small-2"), {})[1] == 1
    assert current(store, "smal") is None


@pytest.mark.parametrize("when", ["lost reply", "after", "before"])
def test_lost_reply_creates_one_version(when: str) -> None:
    store = in_memory_store([Fault("create", "studies/*", when)])  # type: ignore[arg-type]
    assert freeze(store, FIRST, {})[1] == 1
    assert freeze(store, SECOND, {})[1] == 2


@pytest.mark.parametrize("change", ["flip", "cut", "empty"])
def test_damaged_plan_is_reported_and_written_again(store: Store, change: str) -> None:
    digest, _ = freeze(store, FIRST, {})
    overwrite(store, plan_key(digest), change)
    with pytest.raises(Damaged, match=r"`scaling-study run FILE` writes it again"):
        current(store, "small")
    freeze(store, FIRST, {})
    assert current(store, "small") == (digest, FIRST)


@pytest.mark.parametrize("change", ["cut", "empty"])
def test_damaged_version_is_reported(store: Store, change: str) -> None:
    freeze(store, FIRST, {})
    overwrite(store, study_key("small", 1), change)
    with pytest.raises(Damaged, match=r"studies/small/1.json is not a version of a study: .*run FILE` writes it again"):
        current(store, "small")
    freeze(store, FIRST, {})
    assert current(store, "small") == (digest_of_plan(FIRST), FIRST)
    assert versions(store, "small") == {1: digest_of_plan(FIRST)}


def test_deleted_version_hides_no_other(store: Store) -> None:
    digests = [freeze(store, each, {})[0] for each in (FIRST, SECOND, FIRST)]
    store.objects.delete(study_key("small", 2))
    assert versions(store, "small") == {1: digests[0], 3: digests[2]}
