"""Decryption to shares: nobody decrypts (protocol/DESIGN.md, section 5, "Decrypt to shares").

c0 (holder) + c1·s_Q (requester) + c1·s_R (router) = Δ·s + noise (mod Q). Each party takes its own addend out of NTT
form and rounds it to K bits; the three rounded shares add up to s·2^K/t within 2, modulo 2^K.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets import ntt
from pets.keys import KeyShare
from pets.params import Parameters
from pets.rounding import round_shares

Residues = npt.NDArray[np.uint32]


def own_coefficients(c0: Residues, params: Parameters, threads: int) -> Residues:
    """The holder's addend: c0 out of NTT form. uint32 (count, 2, n)."""
    return ntt.inverse(np.ascontiguousarray(c0), params, threads)


def key_coefficients(c1: Residues, key: KeyShare, threads: int) -> Residues:
    """Requester's or router's addend: c1·s out of NTT form. uint32 (count, 2, n)."""
    return ntt.inverse(key.multiply(c1, threads), key.params, threads)


def flat_shares(coefficients: Residues, params: Parameters, threads: int) -> npt.NDArray[np.uint32]:
    """Rounded shares of consecutive blocks, one a row of the gallery: uint32 (count·n,)."""
    return round_shares(coefficients, params, threads).reshape(-1)
