"""A worker that trains nothing: obeys a script in the store's folder, speaks the protocol, writes done markers. See FakeTrainer."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from orchestrator.contract.events import End, Event, Progress, Ready, Start, read_request, to_line

FOLDER = Path(sys.argv[1])
stopped = False


def say(event: Event) -> None:
    print(to_line(event), flush=True)


def note(what: str, digest: str) -> None:
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


def work(digest: str) -> int:
    script = json.loads((FOLDER / "script.json").read_text()).get(digest, [])
    before = attempts_before(digest)
    does = script[before] if before < len(script) else {}
    if not (FOLDER / "tasks" / digest / "task.json").exists():
        raise SystemExit(f"task.json of {digest} was not there when its attempt began")
    note("start", digest)
    say(Start(digest, before + 1, does.get("from_tokens", 0)))
    for step in range(does.get("steps", 0)):
        say(Progress(digest, 128 * (step + 1), 512, "tokens", 3.0))
    for lost in does.get("forget", ()):
        (FOLDER / "done" / lost).unlink()
    if does.get("noise"):
        print(does["noise"], flush=True)
    if does.get("die"):
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    while does.get("wait") and not stopped:
        time.sleep(0.02)
    while does.get("deaf"):
        time.sleep(0.02)
    code = 75 if stopped else does.get("code", 0)
    if code == 0:
        (FOLDER / "done").mkdir(exist_ok=True)
        (FOLDER / "done" / digest).touch()
    note("end", digest)
    say(End(digest, code, does.get("message", "")))
    return int(code)


def main() -> None:
    signal.signal(signal.SIGTERM, stop)
    say(Ready())
    for line in sys.stdin:
        if work(read_request(line).run) == 75:
            return


if __name__ == "__main__":
    main()
