"""Damaged inputs are found before they are used, quarantined, and made again with identical content."""

from dataclasses import replace
from pathlib import Path

import pytest
from trainer.attempt.perform import run_task

from orchestrator.contract.events import End, Event
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import digest_of
from orchestrator.contract.record import Artifact, Record
from orchestrator.contract.tasks import TrainTask
from orchestrator.store import addresses, checkpoints, records
from tests.trainer.small_study import SmallStudy, bits_per_byte, make_small_study

STEPS = 40


@pytest.fixture
def study(tmp_path: Path) -> SmallStudy:
    return make_small_study(tmp_path)


def record_of(study: SmallStudy, digest: str) -> Record:
    record = records.read_record(study.store, digest)
    assert record is not None
    return record


def run(study: SmallStudy, digest: str) -> tuple[ExitCode, str]:
    events: list[Event] = []
    code = run_task(study.store, digest, study.placement, events.append, lambda: False)
    assert isinstance(events[-1], End)
    return code, events[-1].message


def hashes(record: Record) -> dict[str, str]:
    """Return the SHA-256 of all artifacts but the manifest, which contains the path of its attempt."""
    return {name: artifact.sha256 for name, artifact in record.artifacts.items() if name != "manifest"}


def file_of(study: SmallStudy, artifact: Artifact) -> Path:
    return study.folder / artifact.key


def flip_byte(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def truncate(path: Path) -> None:
    body = path.read_bytes()
    path.write_bytes(body[: len(body) // 2])


def quarantined(study: SmallStudy) -> list[str]:
    return [stat.key for stat in study.store.objects.list("damaged") if stat.key.endswith(".why.json")]


@pytest.mark.parametrize("damage", [flip_byte, truncate, Path.unlink], ids=["flipped byte", "truncated", "missing"])
def test_damaged_shard_is_found_before_the_first_step_and_prepared_again(study: SmallStudy, damage: object) -> None:
    assert callable(damage)
    source = study.sources[0]
    before = record_of(study, source)
    shard = next(artifact for artifact in before.artifacts.values() if artifact.key.endswith(".bin"))
    damage(file_of(study, shard))
    train = study.plan(study.train(STEPS))

    code, message = run(study, train)

    assert code == ExitCode.HELD
    assert f"to be done again: task {source[:12]}" in message
    assert records.done(study.store) == {study.tokenizer, study.sources[1]}
    assert quarantined(study)
    assert run(study, source)[0] == ExitCode.DONE
    assert hashes(record_of(study, source)) == hashes(before)
    assert run(study, train)[0] == ExitCode.DONE


def test_truncated_checkpoint_is_trained_again_with_identical_content(study: SmallStudy) -> None:
    state = study.train(STEPS)
    train, work = study.plan(state), digest_of(state.trajectory.identity())
    assert run(study, study.plan(study.train(STEPS // 2)))[0] == ExitCode.DONE
    assert run(study, train)[0] == ExitCode.DONE
    before = record_of(study, train)
    truncate(file_of(study, before.artifacts["model.safetensors"]))
    evaluate = study.plan(bits_per_byte(state, work, study.sources[0]))

    code, message = run(study, evaluate)

    assert code == ExitCode.HELD
    assert f"to be done again: trajectory {work[:12]} at {state.tokens} tokens" in message
    assert checkpoints.list_checkpoints(study.store, addresses.work_root("train", work)) == [state.tokens // 2]
    assert train not in records.done(study.store)
    assert run(study, train)[0] == ExitCode.DONE
    assert hashes(record_of(study, train)) == hashes(before)
    assert record_of(study, train).attempts[-1].from_tokens == state.tokens // 2
    assert run(study, evaluate)[0] == ExitCode.DONE


def test_evaluation_does_not_read_the_optimizer_state(study: SmallStudy) -> None:
    state = study.train(STEPS)
    train = study.plan(state)
    assert run(study, train)[0] == ExitCode.DONE
    truncate(file_of(study, record_of(study, train).artifacts["optimizer.safetensors"]))

    evaluate = study.plan(bits_per_byte(state, digest_of(state.trajectory.identity()), study.sources[0]))

    assert run(study, evaluate)[0] == ExitCode.DONE


def test_truncated_record_is_published_again_without_training(study: SmallStudy) -> None:
    train = study.plan(study.train(STEPS))
    assert run(study, train)[0] == ExitCode.DONE
    before = record_of(study, train)
    truncate(study.folder / addresses.record_key(train))

    assert run(study, train)[0] == ExitCode.DONE

    after = record_of(study, train)
    assert (after.results, hashes(after)) == (before.results, hashes(before))
    assert after.attempts[-1].from_tokens == study.train(STEPS).tokens


def test_changed_corpus_is_refused(study: SmallStudy) -> None:
    other = replace(study, folder=study.folder.with_name("other"))
    for digest in (study.tokenizer, *study.sources):
        records.create_task(other.store, records.read_task(study.store, digest))
    (path,) = next(iter(study.placement.inputs.values()))
    with Path(path).open("a") as corpus:
        corpus.write('{"text": "one more"}\n')

    code, message = run(other, study.tokenizer)

    assert code == ExitCode.REFUSED
    assert "restore the original files or plan again" in message


def test_evaluation_of_a_missing_checkpoint_waits_for_it(study: SmallStudy) -> None:
    state: TrainTask = study.train(STEPS)
    evaluate = study.plan(bits_per_byte(state, digest_of(state.trajectory.identity()), study.sources[0]))

    code, message = run(study, evaluate)

    assert code == ExitCode.HELD, "a retry may succeed, and no failure is counted"
    assert f"{state.tokens}.json" in message
    assert "waits for trajectory" in message
    assert quarantined(study) == []
