"""A worker without training: follows a script in the store's folder, sends events and writes done markers. See FakeTrainer."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from orchestrator.contract.events import End, Event, Progress, Ready, Start, read_request, to_line
from orchestrator.contract.record import Record

FOLDER = Path(sys.argv[1])
stopped = False


def send(event: Event) -> None:
    print(to_line(event), flush=True)


def record(what: str, digest: str) -> None:
    with (FOLDER / "seen.jsonl").open("a") as log:
        log.write(json.dumps([what, digest, os.getpid()]) + "\n")


def stop(_number: int, _frame: FrameType | None) -> None:
    global stopped
    stopped = True


def attempts_before(digest: str) -> int:
    counter = FOLDER / f"attempts-{digest}"
    before = len(counter.read_text()) if counter.exists() else 0
    counter.write_text("x" * (before + 1))
    return before


def run_task(digest: str) -> int:
    script = json.loads((FOLDER / "script.json").read_text()).get(digest, [])
    before = attempts_before(digest)
    action = script[before] if before < len(script) else {}
    if not (FOLDER / "tasks" / digest / "task.json").exists():
        raise SystemExit(f"task.json of {digest} is missing at the start of its attempt")
    record("start", digest)
    send(Start(digest, before + 1, action.get("from_tokens", 0)))
    for step in range(action.get("steps", 0)):
        send(Progress(digest, 128 * (step + 1), 512, "tokens", 3.0))
    for digest_to_delete in action.get("delete_markers", ()):
        (FOLDER / "done" / digest_to_delete).unlink()
    if action.get("print"):
        print(action["print"], flush=True)
    if action.get("kill"):
        print("about to be killed", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    while action.get("wait") and not stopped:
        time.sleep(0.02)
    while action.get("ignore_stop"):
        time.sleep(0.02)
    code = 75 if stopped else action.get("code", 0)
    if code == 0:
        identity = json.loads((FOLDER / "tasks" / digest / "task.json").read_text())
        result = Record(digest=digest, identity=identity, results={}, artifacts={}, attempts=[], nonce="")
        (FOLDER / "tasks" / digest / "record.json").write_bytes(result.to_bytes())
        (FOLDER / "done").mkdir(exist_ok=True)
        (FOLDER / "done" / digest).touch()
    record("end", digest)
    send(End(digest, code, action.get("message", "")))
    return int(code)


def main() -> None:
    signal.signal(signal.SIGTERM, stop)
    send(Ready())
    for line in sys.stdin:
        if run_task(read_request(line).run) == 75:
            return


if __name__ == "__main__":
    main()
