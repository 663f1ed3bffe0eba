"""Effective permissions of each account, as the API server reports them: golden files in tests/golden/rbac (GOLDEN=write rewrites them)."""

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
def test_permissions_of_service_accounts_equal_the_golden_files(kubectl: Kubectl, account: str) -> None:
    output = kubectl.run("auth", "can-i", "--list", f"--as=system:serviceaccount:{kubectl.namespace}:{account}")
    found = "".join(sorted(f"{' '.join(line.split())}\n" for line in output.splitlines()[1:]))
    file = GOLDEN / f"{account}.txt"
    if golden_is_written():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found)
    assert found == file.read_text()


def test_permissions_of_researchers_equal_the_golden_file(kubectl: Kubectl) -> None:
    kubectl.run("create", "rolebinding", "tester", "--role=scaling-study-researcher", "--user=tester", "--save-config=false")
    output = kubectl.run("auth", "can-i", "--list", "--as=tester", "--as-group=system:authenticated")
    kubectl.run("delete", "rolebinding", "tester")
    found = "".join(sorted(f"{' '.join(line.split())}\n" for line in output.splitlines()[1:]))
    file = GOLDEN / "researcher.txt"
    if golden_is_written():
        file.write_text(found)
    assert found == file.read_text()


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("permission", ["get secrets", "create pods/exec", "update configmaps", "create pods", "* *"])
def test_no_account_can_escalate_its_privileges(kubectl: Kubectl, account: str, permission: str) -> None:
    with pytest.raises(Failed):
        kubectl.run("auth", "can-i", *permission.split(), f"--as=system:serviceaccount:{kubectl.namespace}:{account}")
