"""`python -m trainer`: one task in a process of its own, or a worker for many.

A pod's command is the first form, `orchestrator.local` starts the second.
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
Everything that decides a result is in the task's task.json; the flags below say only where and how it is worked out.

examples:
  python -m trainer 3f6c... --store s3://studies/to-code --study to-code --gpus 1
  python -m trainer 3f6c... --store s3://studies/to-code --gpus 8        eight processes, one a GPU
  python -m trainer 3f6c... --store ./store --input 9ab1...=corpus/web/*.jsonl.zst
  python -m trainer worker --store ./store      requests as JSON lines on stdin, events on stdout (orchestrator/contract/events.py)

exit codes:
   0  the record is there (also when it was there before)
   1  a failure that a retry may mend; the reason is in failure.json of the attempt
  69  another attempt works on this task, or what it reads is being made again: ask again later
  75  stopped on request (SIGTERM) after writing a checkpoint: run it again
  78  no retry can mend it; the reason is in failure.json of the attempt
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
    placed = parser.add_argument_group("placement: changes no result; a worker gets it with each request")
    default = Placement()
    placed.add_argument("--study", default=default.study, help="name of the study that asks")
    placed.add_argument("--run-number", type=int, default=default.run_number, help="failures are counted in it (default %(default)s)")
    placed.add_argument("--node", default=default.node, help="node of the Workflow; its later attempt may take over at once")
    placed.add_argument("--image", default=default.image, help="image that this runs in, for the record")
    placed.add_argument("--gpus", type=int, default=default.gpus, help="GPUs to use (default %(default)s: the CPU)")
    placed.add_argument("--ranks", type=int, default=default.ranks, help="processes that train together here (default: one a GPU)")
    placed.add_argument("--nodes", type=int, default=default.nodes, help="machines that train together, with as many processes each")
    placed.add_argument("--threads", type=int, default=default.threads, help="threads on the CPU; changes last bits (default %(default)s)")
    placed.add_argument("--micro-batch", type=int, default=default.micro_batch, help="sequences a forward pass; 0: all that fit")
    placed.add_argument(
        "--checkpoint-seconds", type=int, default=default.checkpoint_seconds, help="between checkpoints (default %(default)s)"
    )
    placed.add_argument(
        "--lease-seconds",
        type=int,
        default=default.lease_seconds,
        help="without a step for so long the task may be taken over (default %(default)s)",
    )
    placed.add_argument(
        "--cache", default=default.cache, metavar="FOLDER", help="for downloads (default: in the system's temporary folder)"
    )
    placed.add_argument(
        "--shards", default=default.shards, metavar="FOLDER", help="for prepared tokens, may be shared by machines (default: --cache)"
    )
    placed.add_argument(
        "--input", action="append", default=[], metavar="FINGERPRINT=PATH", help="where the files of a source lie; again for more paths"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command line `arguments`."""
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
    """Read once, when the libraries start: OpenMP by torch, rayon by tokenizers."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(variable, str(threads))


def _work(task: str, url: str, placement: Placement) -> int:
    from orchestrator.store import open_store
    from trainer.attempt import perform as attempt
    from trainer.attempt import worker
    from trainer.attempt.pod_log import PodLog

    store = open_store(url)
    if task == "worker":
        return worker.serve(store, attempt.run_task, attempt.load)
    rank = int(os.environ.get("RANK", "0"))
    stop = worker.StopRequest(with_parent="RANK" in os.environ)
    stop.install()
    if rank:
        return int(attempt.follow_task(store, task, placement, stop))
    with PodLog(store) as log:
        return int(attempt.run_task(store, task, placement, _tell, stop, leased=log.attach))


def _tell(event: Event) -> None:
    """For the log of a pod, where a person reads."""
    match event:
        case Start():
            line = f"{event.digest[:12]} attempt {event.attempt}" + (f" from {event.from_tokens} tokens" if event.from_tokens else "")
        case Progress():
            _tell_argo(event)
            line = f"{event.done} / {event.total} {event.unit}" + (f", loss {event.loss:.4f}" if event.loss is not None else "")
        case End():
            line = f"{event.digest[:12]} ends with {event.code} ({ExitCode(event.code).name}) {event.message}".rstrip()
        case _:
            return
    print(line, flush=True)


def _tell_argo(event: Progress) -> None:
    """Progress of a step in a Workflow, which Argo reads from the file that it names and shows in the Workflow's status."""
    file = os.environ.get("ARGO_PROGRESS_FILE")
    if file:
        Path(file).write_text(f"{event.done}/{event.total}")


if __name__ == "__main__":
    code = main()
    # what was said stands: a signal that comes while Python leaves must not make another code of it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)
