"""What one part of a preparation's key opens; the control opens the same with both."""

from __future__ import annotations

import numpy as np
import pytest

from pets import ntt, residues
from pets.keys import expand_secret
from pets.mask_encryption import draw_mask, expand_public
from tests.kit.attacks import SMALL, centred, probes_and_gallery
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring


def test_neither_part_of_the_key_alone_opens_the_mask() -> None:
    """The holder has the encrypted mask and s1, the router s2: who opened it would have the probe from r + u."""
    trio = Trio(hold(probes_and_gallery()[1])).prepare()
    assert trio.made is not None
    requester, (holder,) = trio.made.requester, trio.made.holders.values()
    preparation_id = requester.preparation_id
    of_holder, of_router = (
        expand_secret(RING, seed, preparation_id) for seed in (holder.holder_seed, trio.made.router.router_seed)
    )
    mask, public = draw_mask(requester.seed, preparation_id, SMALL, RING), expand_public(preparation_id, SMALL, RING)
    for secret in (of_holder, of_router, residues.add(of_holder, of_router, RING)):
        opened = ntt.inverse(residues.add(holder.mask, residues.multiply(public, secret, RING), RING), RING)
        values = np.rint(centred(opened)[:, 0] / RING.q * RING.t).astype(np.int64) % RING.t
        both = secret is not of_holder and secret is not of_router
        assert np.array_equal(values, mask) == both  # the control: with both parts it opens
        assert both or not (values == mask).any()
