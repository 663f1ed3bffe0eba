"""`python -m trainer`: run one task, or a worker that runs many tasks.

Pods run the first form, `orchestrator.local` starts the second.
"""

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path

from orchestrator.contract.events import End, Event, Placement, Progress, Start
from orchestrator.contract.exits import ExitCode
from orchestrator.errors import ScalingStudyError, TaskRefused
from trainer.attempt import launch

EPILOG = """\
All settings that affect a result are in the task's task.json. The flags only control where and how the task runs.

examples:
  python -m trainer 3f6c... --store s3://studies/to-code --study to-code --gpus 1
  python -m trainer 3f6c... --store s3://studies/to-code --gpus 8        eight processes, one per GPU
  python -m trainer 3f6c... --store ./store --input 9ab1...=corpus/web/*.jsonl.zst
  python -m trainer worker --store ./store      requests as JSON lines on stdin, events on stdout (orchestrator/contract/events.py)

exit codes:
   0  the record exists (also if it existed before)
   1  failed, a retry may succeed; the reason is in the attempt's failure.json
  69  another attempt holds the task's lease, or an input is being made again: try again later
  75  stopped on request (SIGTERM) after writing a checkpoint: run it again to resume
  78  failed, a retry cannot succeed; the reason is in the attempt's failure.json
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Run one task of a scaling study (prepare, train or evaluate) from its digest to its record.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", metavar="DIGEST | worker", help="digest of the task (64 hex digits), or the word `worker`")
    parser.add_argument("--store", required=True, metavar="URL", help="the study's store: a folder, s3://, gs:// or az://")
    placed = parser.add_argument_group("placement: does not change results; a worker receives it with each request")
    default = Placement()
    placed.add_argument("--study", default=default.study, help="name of the study that requests the task")
    placed.add_argument(
        "--run-number", type=int, default=default.run_number, help="run number within which failures are counted (default %(default)s)"
    )
    placed.add_argument(
        "--node", default=default.node, help="node of the Workflow; a later attempt of the same node may take over the lease at once"
    )
    placed.add_argument("--image", default=default.image, help="container image, stored in the record")
    placed.add_argument("--gpus", type=int, default=default.gpus, help="GPUs per node (default %(default)s; 0 uses the CPU)")
    placed.add_argument("--ranks", type=int, default=default.ranks, help="training processes on this node (default: one per GPU)")
    placed.add_argument(
        "--nodes", type=int, default=default.nodes, help="nodes that train together, each with the same number of processes"
    )
    placed.add_argument(
        "--threads", type=int, default=default.threads, help="CPU threads; affects the last bits of results (default %(default)s)"
    )
    placed.add_argument("--micro-batch", type=int, default=default.micro_batch, help="sequences per forward pass (0: as many as fit)")
    placed.add_argument(
        "--checkpoint-seconds", type=int, default=default.checkpoint_seconds, help="seconds between checkpoints (default %(default)s)"
    )
    placed.add_argument(
        "--lease-seconds",
        type=int,
        default=default.lease_seconds,
        help="seconds without a step after which another attempt may take over (default %(default)s)",
    )
    placed.add_argument(
        "--cache", default=default.cache, metavar="FOLDER", help="folder for downloads (default: in the system's temporary folder)"
    )
    placed.add_argument(
        "--shards", default=default.shards, metavar="FOLDER", help="folder for prepared tokens; machines may share it (default: --cache)"
    )
    placed.add_argument(
        "--input", action="append", default=[], metavar="FINGERPRINT=PATH", help="path of a source's files; repeat for more paths"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line `arguments` and return its exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    placement = _placement(given, parser)
    _limit_threads(placement.threads)
    try:
        if launch.is_needed(placement):
            return launch.launch(sys.argv[1:] if arguments is None else arguments, placement)
        return _work(given.task, given.store, placement)
    except ScalingStudyError as problem:
        print(f"trainer: {problem}", file=sys.stderr)
        return int(ExitCode.REFUSED if isinstance(problem, TaskRefused) else ExitCode.FAILED)


def _placement(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Placement:
    values = {field.name: getattr(given, field.name) for field in dataclasses.fields(Placement) if field.name != "inputs"}
    inputs: dict[str, list[str]] = {}
    for pair in given.input:
        fingerprint, equals, path = pair.partition("=")
        if not (fingerprint and equals and path):
            parser.error(f"--input {pair!r}: write FINGERPRINT=PATH")
        inputs.setdefault(fingerprint, []).append(path)
    return Placement(**values, inputs=inputs)


def _limit_threads(threads: int) -> None:
    """Set the thread counts, which OpenMP (torch) and rayon (tokenizers) read once at start-up."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(variable, str(threads))


def _work(task: str, url: str, placement: Placement) -> int:
    from orchestrator.store import open_store
    from trainer.attempt import worker
    from trainer.attempt.perform import follow_task, load, run_task
    from trainer.attempt.pod_log import PodLog

    store = open_store(url)
    if task == "worker":
        return worker.serve(store, run_task, load)
    rank = int(os.environ.get("RANK", "0"))
    stop = worker.StopRequest(with_parent="RANK" in os.environ)
    stop.install()
    if rank:
        return int(follow_task(store, task, placement, stop))
    with PodLog(store) as log:
        return int(run_task(store, task, placement, _print_event, stop, leased=log.attach))


def _print_event(event: Event) -> None:
    """Print an event as one line of a pod's log."""
    match event:
        case Start():
            line = f"{event.digest[:12]} attempt {event.attempt}" + (f" from {event.from_tokens} tokens" if event.from_tokens else "")
        case Progress():
            _write_argo_progress(event)
            line = f"{event.done} / {event.total} {event.unit}" + (f", loss {event.loss:.4f}" if event.loss is not None else "")
        case End():
            line = f"{event.digest[:12]} ends with {event.code} ({ExitCode(event.code).name}) {event.message}".rstrip()
        case _:
            return
    print(line, flush=True)


def _write_argo_progress(event: Progress) -> None:
    """Write progress to the file named by Argo, which shows it in the Workflow's status."""
    file = os.environ.get("ARGO_PROGRESS_FILE")
    if file:
        Path(file).write_text(f"{event.done}/{event.total}")


if __name__ == "__main__":
    code = main()
    # a signal during interpreter shutdown must not change the exit code
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)
