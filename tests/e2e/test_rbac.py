"""What each account may do, as the API server sees it: golden files in tests/golden/rbac, which GOLDEN=write writes anew."""

import pytest

from tests.e2e.installation import ROOT
from tests.e2e.kubectl import Failed, Kubectl, golden_is_written

pytestmark = pytest.mark.cluster

GOLDEN = ROOT / "tests/golden/rbac"
ACCOUNTS = (
    "scaling-study-controller",
    "scaling-study-trainer",
    "scaling-study-executor",
    "scaling-study-waiter",
    "scaling-study-mirror",
    "scaling-study-retention",
    "default",
)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_can_do_this_and_no_more(kubectl: Kubectl, account: str) -> None:
    answer = kubectl.run("auth", "can-i", "--list", f"--as=system:serviceaccount:{kubectl.namespace}:{account}")
    found = "".join(sorted(f"{' '.join(line.split())}\n" for line in answer.splitlines()[1:]))
    file = GOLDEN / f"{account}.txt"
    if golden_is_written():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found)
    assert found == file.read_text()


def test_a_researcher_can_do_this_and_no_more(kubectl: Kubectl) -> None:
    kubectl.run("create", "rolebinding", "tester", "--role=scaling-study-researcher", "--user=tester", "--save-config=false")
    answer = kubectl.run("auth", "can-i", "--list", "--as=tester", "--as-group=system:authenticated")
    kubectl.run("delete", "rolebinding", "tester")
    found = "".join(sorted(f"{' '.join(line.split())}\n" for line in answer.splitlines()[1:]))
    file = GOLDEN / "researcher.txt"
    if golden_is_written():
        file.write_text(found)
    assert found == file.read_text()


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("asked", ["get secrets", "create pods/exec", "update configmaps", "create pods", "* *"])
def test_nobody_can_do_what_would_give_them_more(kubectl: Kubectl, account: str, asked: str) -> None:
    with pytest.raises(Failed):
        kubectl.run("auth", "can-i", *asked.split(), f"--as=system:serviceaccount:{kubectl.namespace}:{account}")
