"""What an object shows of itself ends in logs and tracebacks: no key, share, template, photo or password may."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import secrets
from collections.abc import Iterator
from typing import Any

import msgspec

import nodes
import pets
import protocol
from pets.keys import reduced_key, sample_key_share
from pets.params import N4096
from pets.sampling import common_polynomial
from protocol.blocks import HolderKeys
from protocol.compute import Ring
from protocol.messages import KeySeed, PairSecret
from protocol.preparation import PreparedRing

RAW = re.compile(r"\bbytes|NDArray|Residues|Planes|Bits\b|Hashes|Shares|Templates|Values|Liveness|Unit\b|Array\b")
NAMES = re.compile(r"secret|seed|salt|token|password|^form$")
# By name: public keys, digests, signatures and identities.
PUBLIC_NAMES = re.compile(
    "model|hash|root|query|query_id|preparation_id|database_id|conversation|digest|signature|public|verify_key|sealing_key|"
    "certificate|ed25519|mldsa|source|gallery|seed_digest"
)
# One by one: what everybody may see for another reason.
PUBLIC = {
    "nodes.blocks.block.Rows.erased",  # which rows are gone
    "nodes.blocks.history.Recomputed.missing",
    "nodes.blocks.manifest.Block.mark",  # random
    "nodes.blocks.manifest.Line.name",  # random
    "nodes.blocks.numbering.DroppedRows.leaves",  # salted hashes
    "nodes.calibrate.identification.Searches.scores",  # of a calibration
    "nodes.calibrate.run.Options.seed",  # of its bootstrap
    "nodes.calibrate.sample.Sample.people",  # numbers from 0
    "nodes.config.cluster.ClusterConfig.token_file",  # where it lies
    "nodes.verify.format.Bundle.preparation",
    "nodes.verify.format.SignedBundle.content",
    "nodes.verify.rules_log._History.proofs",
    # another bundle, which shows as much
    "pets.bits.Bits.ones",
    "pets.faces.Embedded.landmarks",
    "pets.faces._Face.landmarks",
    "pets.keys.JointKey.common",
    "pets.onnx_convert._Builder.constants",
    "pets.onnx_convert._Graph.constants",
    "pets.openfhe_keys._Scheme.template",  # an empty ciphertext
    "pets.scoring.ScoringProbe.data",  # a ciphertext
    "pets.sealing.SealingPublicKey.data",
    "protocol.approval.Assertion.authenticator_data",
    "protocol.approval.Assertion.client_data",
    "protocol.approval.Assertion.credential",
    "protocol.party.Context.admitted",  # a digest
    "protocol.session.Event.content",  # a digest
    "protocol.session.Session.chains",  # digests
}


def classes() -> Iterator[type[Any]]:
    for package in (pets, protocol, nodes):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if found.name.endswith((".migrations.env", "__main__")):
                continue  # these run when they are imported
            module = importlib.import_module(found.name)
            yield from (t for t in vars(module).values() if inspect.isclass(t) and t.__module__ == module.__name__)


def shown_fields(kind: type[Any]) -> list[tuple[str, object]]:
    """Names and types of the fields that `repr` prints."""
    if issubclass(kind, msgspec.Struct):
        prints = kind.__repr__ is msgspec.Struct.__repr__
        return [(f.name, kind.__annotations__.get(f.name)) for f in msgspec.structs.fields(kind) if prints]
    if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.repr:  # type: ignore[attr-defined]
        return [(f.name, f.type) for f in dataclasses.fields(kind) if f.repr]
    return []


def test_no_field_of_raw_content_is_shown_unless_it_is_known_to_be_public() -> None:
    shown = {
        f"{kind.__module__}.{kind.__qualname__}.{name}"
        for kind in classes()
        for name, is_a in shown_fields(kind)
        if (RAW.search(str(is_a)) or NAMES.search(name)) and "Callable" not in str(is_a)
        if not PUBLIC_NAMES.fullmatch(name)
    }
    assert shown - PUBLIC == set()
    assert PUBLIC - shown == set(), "listed as public, but no longer shown"


def test_what_holds_a_secret_does_not_print_it() -> None:
    secret, params = secrets.token_bytes(32), N4096
    common = common_polynomial(params, bytes(16))
    share = sample_key_share(params, common, secret, bytes(16))
    joint = reduced_key(params, bytes(16), share.public, share.secret)
    ring = Ring(0, ("ES", "FR", "ROUTER"), bytes(16), secret, secret)
    things: list[Any] = [ring, share, joint, PairSecret(secret), KeySeed(secret)]
    things.append(HolderKeys(share.secret, joint, secret))
    things.append(PreparedRing(0, "ES", secret, secret, 0, bytes(32), (), share.secret, None, []))
    for thing in things:
        for text in (repr(thing), str([thing]), f"{thing}"):
            assert repr(secret)[2:-1] not in text
            assert str(int(share.secret[0, 0])) not in text
