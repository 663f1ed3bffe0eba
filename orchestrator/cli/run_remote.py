"""`scaling-study run FILE --argo-server URL`: the same study on a cluster, by whoever has a token that may use Workflows.

`run` calls it. The loop runs in this process, which may be killed and started again at will; the work is in the cluster.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.cli import finish as ending

if TYPE_CHECKING:
    from orchestrator.cluster.port import Cluster
    from orchestrator.remote import End
    from orchestrator.spec import Study
    from orchestrator.store import Store
    from orchestrator.tracking import Beside


@dataclass(frozen=True, slots=True)
class Server:
    """Where the Argo Server is, and who asks it. `token`: "" to read it from `token_file`, before every call."""

    url: str
    namespace: str
    token: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    insecure: bool = False

    def words(self) -> list[str]:
        """The options that lead here again, without the secret."""
        words = ["--argo-server", self.url, "-n", self.namespace]
        words += ["--token-file", str(self.token_file)] if self.token_file else []
        words += ["--ca-file", str(self.ca_file)] if self.ca_file else []
        return words + (["--insecure-skip-verify"] if self.insecure else [])


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a run elsewhere can be asked besides. `tracking_uri`: None for no mirror."""

    store: str | None = None
    out: Path | None = None
    tracking_uri: str | None = ""
    plain: bool = False
    logs: bool = False

    def words(self) -> list[str]:
        """The options that ask for the same again, without a password."""
        from orchestrator.tracking import masked

        words = ["--store", self.store] if self.store else []
        words += ["--out", str(self.out)] if self.out else []
        words += ["--no-tracking"] if self.tracking_uri is None else []
        words += ["--tracking-uri", masked(self.tracking_uri)] if self.tracking_uri else []
        words += ["--plain"] if self.plain else []
        return words + (["--logs"] if self.logs else [])


def run_there(file: Path, server: Server, wishes: Wishes) -> None:
    """Runs the study to its end. Exits as a local run does. Raises ScalingStudyError."""
    from orchestrator.errors import PlanRefused
    from orchestrator.reconcile.policy import Policy, broken_rules
    from orchestrator.spec import read_study
    from orchestrator.store import open_store
    from orchestrator.store.records import done

    study = read_study(file)
    if wishes.store:
        study = replace(study, spec=study.spec.model_copy(update={"store": wishes.store}))
    if study.spec.paused:
        raise PlanRefused(f"{file}: spec.paused is true, so nothing runs; take it away")
    if broken := broken_rules(study, Policy()):
        raise PlanRefused("\n".join(f"{file}: {rule.message}" for rule in broken))
    cluster = _connected(server)
    store = open_store(study.spec.store)
    # one answer, so that missing credentials are told now and not by a loop that waits for them
    done(store)
    mirrors: list[Beside | None] = []
    try:
        end = _work(cluster, study, store, server, wishes, mirrors)
    finally:
        for beside in filter(None, mirrors):
            beside.last_look()
    _finish(end, store, mirrors, wishes, _again(file, server, wishes))


def _connected(server: Server) -> "Cluster":
    from orchestrator.errors import MissingExtra

    try:
        from orchestrator.cluster.argo_server import connect
    except ModuleNotFoundError as problem:
        raise MissingExtra(f"--argo-server needs the package {problem.name}: pip install 'scaling-study[cluster]'") from problem
    ca_file = str(server.ca_file) if server.ca_file else ""
    return connect(server.url, server.namespace, token_source(server), ca_file=ca_file, verify=not server.insecure)


def token_source(server: Server) -> Callable[[], str]:
    """Gives the token, with or without `Bearer` in front of it where it comes from. Raises ClusterError when there is none."""
    from orchestrator.errors import ClusterError

    file, last = server.token_file, ""

    def read() -> str:
        nonlocal last
        try:
            text = server.token if file is None else file.read_text()
        except OSError as problem:
            raise ClusterError(f"the token cannot be read from {file}: {problem.strerror}") from problem
        except UnicodeDecodeError:
            text = "\0"
        token = text.strip().removeprefix("Bearer ").strip()
        if not all("!" <= letter <= "~" for letter in token):
            # without its text, which goes to logs
            raise ClusterError(f"what {file or 'ARGO_TOKEN'} holds is no token: it has blanks, line breaks or letters that no token has")
        # whoever renews the file empties it for a moment
        last = token or last
        return last

    if not read():
        raise ClusterError(
            "an Argo Server wants a token: set ARGO_TOKEN, or give --token-file FILE.\n"
            f"    For a service account: kubectl create token ACCOUNT -n {server.namespace}"
        )
    return read


def _work(cluster: "Cluster", study: "Study", store: "Store", server: Server, wishes: Wishes, mirrors: "list[Beside | None]") -> "End":
    """The run itself, under the eyes of whoever watches."""
    from orchestrator.monitor.progress import PlainLines, choose_view
    from orchestrator.remote import Interrupts, run_study, study_object

    uri, interrupts = wishes.tracking_uri, Interrupts()
    with interrupts.on_signal(), PlainLines() if wishes.plain else choose_view() as view:
        view.note(f"{study.name}: by {server.url} in namespace {server.namespace}")
        return run_study(
            cluster,
            study_object(study, cluster.namespace, wishes.store),
            store,
            view,
            interrupts,
            logs=wishes.logs,
            planned=lambda plan: mirrors.append(None if uri is None else ending.start_mirror(store, plan.study, uri)),
        )


def _again(file: Path, server: Server, wishes: Wishes) -> str:
    return shlex.join(["scaling-study", "run", str(file), *server.words(), *wishes.words()])


def _finish(end: "End", store: "Store", mirrors: "list[Beside | None]", wishes: Wishes, again: str) -> None:
    result = end.result
    if end.was_left:
        print(f"Left. Workflows that were not stopped go on in the cluster; to look after them again: {again}")
    elif result.was_stopped:
        print(f"Stopped. What is done is kept; to go on: {again}")
    elif end.plan is not None:
        ending.report(store, end.plan, wishes.out)
    if end.plan is None:
        print(end.trouble or "It had no plan yet.")
        raise typer.Exit(ending.MISSING if end.trouble else ending.STOPPED)
    for beside in filter(None, mirrors):
        ending.tell_mirror(store, end.plan.study, beside, ending.STOPPED_WAIT if result.was_stopped else ending.LAST_LOOK)
    if end.trouble:
        print(f"{len(result.done)} tasks done, and no more: {end.trouble}")
        raise typer.Exit(ending.MISSING)
    ending.conclude(end.plan, result)
