"""A bundle's log: what stands outside it, was rewritten, cut off, or shown to two supervisors in two ways."""

from __future__ import annotations

import msgspec
import pytest

from nodes.evidence.export import sign_bundle
from nodes.verify import Bundle, verify_bundles
from nodes.verify.format import Witnessed, decode_bundle
from pets.merkle import MerkleTree
from pets.prf import labelled_hash
from tests.kit.evidence import DE, ES, EU, FR, World, failures
from tests.kit.stories import Files, Story, relogged, signed_checkpoint, verified


@pytest.mark.slow
def test_a_message_outside_the_log_is_found(world: World, files: Files) -> None:
    bundle = decode_bundle(files[ES])[1]
    story = Story.read(world, files)
    entries = bundle.log.entries
    for log, words in (
        (msgspec.structs.replace(bundle.log, entries=entries[:-1]), "not in the log"),
        (msgspec.structs.replace(bundle.log, entries=(entries[1], *entries[1:])), "the log has another entry for it"),
        (msgspec.structs.replace(bundle.log, entries=(*entries, entries[-1])), "entries for"),
        (
            msgspec.structs.replace(
                bundle.log, entries=(msgspec.structs.replace(entries[0], secret=bytes(32)), *entries[1:])
            ),
            "another secret",
        ),
    ):
        forged = msgspec.structs.replace(story.originals[ES], log=log)
        failed = failures(verified(world, files | {ES: _resealed(world, ES, forged)}))
        assert list(failed) == ["log-inclusion"]
        assert words in failed["log-inclusion"]


def _resealed(world: World, name: str, bundle: Bundle) -> bytes:
    return sign_bundle(bundle, world.identities[name].signing)


def test_a_rewritten_message_is_not_the_logged_one(world: World, files: Files) -> None:
    """The log as it was, one record changed and signed again: only the log knows."""
    bundle = decode_bundle(files[ES])[1]
    changed = [
        msgspec.structs.replace(record, content=bytes(32)) if record.kind == "InputShare" else record
        for record in bundle.records
    ]
    forged = msgspec.structs.replace(bundle, records=tuple(changed))
    failed = failures(verify_bundles([_resealed(world, ES, forged)], world.trust))
    assert "(InputShare)" in failed["log-inclusion"]


def test_a_checkpoint_signed_by_somebody_else_is_found(world: World, files: Files) -> None:
    bundle = decode_bundle(files[ES])[1]
    other = world.identities[DE].signing.sign(bundle.log.checkpoint.signed(), "log")
    log = msgspec.structs.replace(
        bundle.log, checkpoint=msgspec.structs.replace(bundle.log.checkpoint, signature=other)
    )
    failed = failures(verified(world, files | {ES: _resealed(world, ES, msgspec.structs.replace(bundle, log=log))}))
    assert list(failed) == ["log-checkpoint"]
    assert "bundle of ES" in failed["log-checkpoint"]


def test_a_split_view_is_found(world: World, files: Files) -> None:
    """ES shows two supervisors two logs of one size; the other entries differ, its own records are in both."""
    bundle = decode_bundle(files[ES])[1]
    two = []
    for filler in (b"one", b"another"):
        two.append(_resealed(world, ES, relogged(world, ES, bundle, [filler])))
    for data in two:
        assert failures(verify_bundles([data], world.trust)) == {}
    failed = failures(verify_bundles(two, world.trust))
    assert "two roots for one size" in failed["log-consistency"]
    assert "bundle of ES" in failed["log-consistency"]


def test_a_rewritten_log_is_found_by_whoever_saw_its_checkpoint(world: World, files: Files) -> None:
    bundle, witness = decode_bundle(files[ES])[1], decode_bundle(files[EU])[1]
    rewritten = _resealed(world, ES, relogged(world, ES, bundle))
    seen = msgspec.structs.replace(witness, witnessed=(Witnessed(bundle.log.header, bundle.log.checkpoint),))
    witnessing = _resealed(world, EU, seen)
    assert failures(verified(world, files | {EU: witnessing})) == {}
    failed = failures(verified(world, files | {EU: witnessing, ES: rewritten}))
    assert "two histories of one log" in failed["log-consistency"]
    assert "a checkpoint of the transcript log of ES that EU was given" in failed["log-consistency"]


def test_a_truncated_log_is_found(world: World, files: Files) -> None:
    """Fewer entries than the log had signed before: the tail was cut off."""
    bundle = decode_bundle(files[EU])[1]
    tree = MerkleTree()
    for index in range(2 * bundle.log.checkpoint.size):
        tree.append(labelled_hash("entry", index))
    longer = signed_checkpoint(world.identities[EU], bundle.log.header.log, tree, bundle.log.checkpoint.time - 5)
    seen = msgspec.structs.replace(decode_bundle(files[FR])[1], witnessed=(Witnessed(bundle.log.header, longer),))
    cut = _resealed(world, EU, relogged(world, EU, bundle))
    failed = failures(verified(world, files | {FR: _resealed(world, FR, seen), EU: cut}))
    assert "before" in failed["log-consistency"]
    assert "two histories of one log" in failed["log-consistency"]
