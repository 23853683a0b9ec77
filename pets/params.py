"""Parameters of the lattice and of the scores, checked at construction (protocol/DESIGN.md, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal

from pets.errors import ParameterError

# Largest log2 Q for 128 bits with a ternary secret: ring dimension -> (updated classical, updated quantum) tables of
# the homomorphic encryption security guidelines (Bossuat et al., ePrint 2024/463). The smaller one binds here.
SECURITY_TABLE: dict[int, tuple[int, int]] = {
    1024: (26, 20),
    2048: (53, 40),
    4096: (106, 80),
    8192: (214, 161),
    16384: (430, 322),
    32768: (868, 644),
}

SHARE_BITS = 24  # K: width of a rounded share; 20 bits of score and 4 guard bits
MAX_DIM = 1024
ERROR_SIGMA = 3.2


@dataclass(frozen=True)
class Parameters:
    """Ring dimension, the two primes and the plaintext modulus of one preset.

    `n`: ring dimension, a power of two. `primes`: (p0, p1), each below 2^30 and 1 mod 2n. `t`: plaintext modulus.
    Raises `ParameterError` for anything outside `SECURITY_TABLE` or the ranges the kernels rely on.
    """

    preset: str
    n: int
    primes: tuple[int, int]
    t: int = 1048573
    q: int = field(init=False)
    delta: int = field(init=False)

    def __post_init__(self) -> None:
        if self.n not in SECURITY_TABLE:
            raise ParameterError(f"ring dimension {self.n} is not in the security table {sorted(SECURITY_TABLE)}")
        p0, p1 = self.primes
        for p in self.primes:
            if not 2**29 < p < 2**30 or not _is_prime(p):
                raise ParameterError(f"{p} is not a prime between 2^29 and 2^30")
            if p % (2 * self.n) != 1:
                raise ParameterError(f"prime {p} is not 1 modulo 2·{self.n}")
        if p0 == p1:
            raise ParameterError(f"the two primes must differ, got {p0} twice")
        object.__setattr__(self, "q", p0 * p1)
        limit = min(SECURITY_TABLE[self.n])
        if self.q.bit_length() > limit:
            raise ParameterError(
                f"log2 Q = {self.q.bit_length()} exceeds {limit}, the limit for 128 bits at ring dimension {self.n}"
            )
        if not 2**19 < self.t < 2**20 or not _is_prime(self.t):
            raise ParameterError(f"the plaintext modulus must be a prime between 2^19 and 2^20, got {self.t}")
        object.__setattr__(self, "delta", self.q // self.t)

    @property
    def log2_q(self) -> int:
        """Bits of Q."""
        return self.q.bit_length()

    def digest_input(self) -> bytes:
        """The bytes that stand for these parameters in every hash."""
        return f"{self.preset}|n={self.n}|p={self.primes[0]},{self.primes[1]}|t={self.t}|K={SHARE_BITS}".encode()


def _is_prime(value: int) -> bool:
    return value > 1 and all(value % d for d in range(2, math.isqrt(value) + 1))


N4096 = Parameters("n4096_q60_t20", 4096, (1073692673, 1073668097))
N8192 = Parameters("n8192_q60_t20", 8192, (1073692673, 1073643521))
PRESETS: dict[str, Parameters] = {p.preset: p for p in (N4096, N8192)}


def preset(name: str) -> Parameters:
    """Parameters by name. Raises `ParameterError` for an unknown one."""
    if name not in PRESETS:
        raise ParameterError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def scale(dim: int) -> int:
    """S = min(500, floor(22·sqrt(d))): a template is round(S·x)."""
    check_dim(dim)
    return min(500, math.isqrt(22 * 22 * dim))


def check_dim(dim: int) -> int:
    """Return `dim`, or raise `ParameterError` unless it is a multiple of 8 from 8 to 1024."""
    if dim % 8 or not 8 <= dim <= MAX_DIM:
        raise ParameterError(f"template dimension must be a multiple of 8 from 8 to {MAX_DIM}, got {dim}")
    return dim


def norm_bound(dim: int) -> int:
    """The smaller of floor((S + sqrt(d)/2)²) and floor(S² + d/12 + 8·0.577·S): the largest admitted squared norm.

    The first is the longest that rounding can make a unit vector, the second eight standard deviations above the mean,
    for errors uniform in ±1/2: Σ(S·x + e)² has mean S² + d/12 and deviation 2·S/sqrt(12) = 0.577·S.
    """
    s = scale(dim)
    # (S + sqrt(d)/2)² = S² + S·sqrt(d) + d/4; in integers floor((4S² + d + 4S·sqrt(d)) / 4). 8·0.577 = 13848/3000.
    longest = (4 * s * s + dim + math.isqrt(16 * s * s * dim)) // 4
    usual = (3000 * s * s + 250 * dim + 13848 * s) // 3000
    return min(longest, usual)


def theta(threshold: Decimal, dim: int, params: Parameters) -> int:
    """ceil(threshold·S²), in exact decimals.

    Raises `ParameterError` unless 0 < threshold < 1 and norm bound + theta < t/2, without which a strongly
    negative score would wrap into a hit.
    """
    if not threshold.is_finite() or not 0 < threshold < 1:
        raise ParameterError(f"threshold must lie strictly between 0 and 1, got {threshold}")
    s = scale(dim)
    value = math.ceil(threshold * s * s)
    if 2 * (norm_bound(dim) + value) >= params.t:
        raise ParameterError(f"norm bound {norm_bound(dim)} + theta {value} must stay below t/2 = {params.t / 2}")
    return value
