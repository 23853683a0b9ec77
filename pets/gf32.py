"""The field GF(2^32) and polynomials over it, as far as the sketch needs them (protocol/DESIGN.md, section 6).

An element is an integer below 2^32 whose bit j is the coefficient of x^j modulo

    x^32 + x^7 + x^6 + x^2 + 1.

This polynomial is primitive: α = x (= 2) has order 2^32 - 1 = 3·5·17·257·65537 (`tests/pets/test_sketch.py` shows it),
so the powers of α are all nonzero elements. Addition is XOR. Everything is held in int64, which even a product
before reduction (degree 62) fits. A polynomial over the field is an int64 array, lowest coefficient first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pets.errors import ParameterError
from pets.jit import kernel, short_kernel

ALPHA = 2
ORDER = 2**32 - 1
ORDER_PRIMES = (3, 5, 17, 257, 65537)
GAMMA_EXPONENT = 1_000_003  # coprime to the order: γ = α^1000003 is primitive too, so its powers are a basis

Elements: TypeAlias = npt.NDArray[np.int64]


@short_kernel
def multiply(a: int, b: int) -> int:
    """a·b. Free of branches and look-ups, since the sums of shares pass through here."""
    product = 0
    for i in range(32):
        product ^= (a << i) & -((b >> i) & 1)
    # x^32 = x^7 + x^6 + x^2 + 1: the first fold leaves degree 37 at most, the second is below 32.
    for _ in range(2):
        high = product >> 32
        product = (product & 0xFFFFFFFF) ^ high ^ (high << 2) ^ (high << 6) ^ (high << 7)
    return product


@short_kernel
def power(base: int, exponent: int) -> int:
    """base^exponent for a public exponent >= 0."""
    result = 1
    while exponent > 0:
        if exponent & 1:
            result = multiply(result, base)
        base = multiply(base, base)
        exponent >>= 1
    return result


@kernel
def powers(base: int, count: int, first: int = 0) -> Elements:
    """base^first, … base^(first+count-1), int64 (count,)."""
    result = np.empty(count, np.int64)
    value = power(base, first)
    for i in range(count):
        result[i] = value
        value = multiply(value, base)
    return result


@short_kernel
def evaluate(polynomial: Elements, point: int) -> int:
    """Σ_i polynomial[i]·point^i, by Horner's rule."""
    value = 0
    for i in range(len(polynomial) - 1, -1, -1):
        value = multiply(value, point) ^ polynomial[i]
    return value


@short_kernel
def evaluate_powers(polynomials: Elements, bases: Elements, step: int, first: int) -> Elements:
    """Σ_i polynomial[i]·base^(step·i + first) of each polynomial and its base: int64 (count, size), (count,)."""
    values = np.empty(len(bases), np.int64)
    for k, base in enumerate(bases):
        values[k] = multiply(evaluate(polynomials[k], power(base, step)), power(base, first))
    return values


@short_kernel
def odd_power_sums(elements: Elements, count: int) -> Elements:
    """Σ_e e^(2k-1) for k = 1…count, int64 (count,)."""
    sums = np.zeros(count, np.int64)
    for element in elements:
        square = multiply(element, element)
        value = element
        for k in range(count):
            sums[k] ^= value
            value = multiply(value, square)
    return sums


@lru_cache(maxsize=1)
def _root_exponents() -> tuple[dict[int, int], ...]:
    """For each prime p of the order: the p-th roots of unity (α^(order/p))^e, mapped to e."""
    roots = (powers(power(ALPHA, ORDER // p), p) for p in ORDER_PRIMES)
    return tuple({int(root): e for e, root in enumerate(table)} for table in roots)


def discrete_log(element: int) -> int:
    """The e in 0…2^32-2 with α^e = element (Pohlig and Hellman 1978: the order is a product of small primes).

    Modulo each prime p, e is read off element^(order/p), a p-th root of unity; the Chinese remainder theorem joins
    the parts. Raises `ParameterError` unless 0 < element < 2^32.
    """
    if not 0 < element <= ORDER:
        raise ParameterError(f"an element with a logarithm lies from 1 to {ORDER}, got {element}")
    log = 0
    for p, exponents in zip(ORDER_PRIMES, _root_exponents(), strict=True):
        cofactor = ORDER // p
        log += exponents[power(element, cofactor)] * cofactor * pow(cofactor, -1, p)
    return log % ORDER


@short_kernel
def minimal_polynomial(sequence: Elements) -> Elements:
    """The shortest linear recurrence of `sequence`, as its monic characteristic polynomial (Massey 1969).

    The result f, int64 (L+1,), satisfies Σ_i f[i]·sequence[n+i] = 0 for every n with n + L < len(sequence).
    """
    # `current` and `previous` are Massey's connection polynomials: constant term 1, Σ_i current[i]·sequence[n-i] = 0.
    size = len(sequence) + 1
    current, previous = np.zeros(size, np.int64), np.zeros(size, np.int64)
    current[0] = previous[0] = 1
    length, shift, last = 0, 1, 1
    for n in range(len(sequence)):
        discrepancy = 0
        for i in range(length + 1):
            discrepancy ^= multiply(current[i], sequence[n - i])
        if discrepancy == 0:
            shift += 1
            continue
        replaced = current.copy()
        factor = multiply(discrepancy, power(last, ORDER - 1))
        for i in range(size - shift):
            current[i + shift] ^= multiply(factor, previous[i])
        if 2 * length <= n:
            length, shift, last, previous = n + 1 - length, 1, discrepancy, replaced
        else:
            shift += 1
    return current[: length + 1][::-1].copy()


@short_kernel
def _divide(dividend: Elements, divisor: Elements) -> tuple[Elements, Elements]:
    """Quotient and remainder (deg divisor coefficients) for a monic divisor."""
    degree = len(divisor) - 1
    work = np.zeros(max(len(dividend), degree), np.int64)
    work[: len(dividend)] = dividend
    for top in range(len(work) - 1, degree - 1, -1):
        for j in range(degree):
            work[top - degree + j] ^= multiply(work[top], divisor[j])
    return work[degree:], work[:degree]


@short_kernel
def with_roots(polynomial: Elements, roots: Elements) -> Elements:
    """polynomial·Π (x - root), int64."""
    result = np.zeros(len(polynomial) + len(roots), np.int64)
    result[: len(polynomial)] = polynomial
    for index, root in enumerate(roots):
        for i in range(len(polynomial) + index, 0, -1):
            result[i] = result[i - 1] ^ multiply(root, result[i])
        result[0] = multiply(root, result[0])
    return result


@kernel
def _frobenius(modulus: Elements) -> Elements:
    """Row i is x^(2^i) modulo the monic `modulus`, i = 0…32: int64 (33, degree)."""
    degree = len(modulus) - 1
    rows = np.zeros((33, degree), np.int64)
    rows[0] = _divide(np.array([0, 1]), modulus)[1]
    for i in range(32):
        square = np.zeros(2 * degree, np.int64)  # (Σ c_j·x^j)² = Σ c_j²·x^2j in characteristic 2
        for j in range(degree):
            square[2 * j] = multiply(rows[i, j], rows[i, j])
        rows[i + 1] = _divide(square, modulus)[1]
    return rows


@short_kernel
def _trace(frobenius: Elements, beta: int) -> Elements:
    """Σ_{i<32} (β·x)^(2^i) modulo the polynomial that `frobenius` belongs to."""
    trace = np.zeros(frobenius.shape[1], np.int64)
    for i in range(32):
        for j in range(len(trace)):
            trace[j] ^= multiply(beta, frobenius[i, j])
        beta = multiply(beta, beta)
    return trace


@short_kernel
def _common_divisor(monic: Elements, other: Elements) -> Elements:
    """The greatest common divisor, monic."""
    rest = _divide(other, monic)[1]
    while True:
        degree = len(rest) - 1
        while degree >= 0 and rest[degree] == 0:
            degree -= 1
        if degree < 0:
            return monic
        inverse = power(rest[degree], ORDER - 1)
        divisor = np.empty(degree + 1, np.int64)
        for j in range(degree + 1):
            divisor[j] = multiply(inverse, rest[j])
        monic, rest = divisor, _divide(monic, divisor)[1]


def distinct_roots(polynomial: Elements) -> list[int] | None:
    """The roots of a monic polynomial of degree >= 1, or None unless it has as many distinct roots as its degree.

    Berlekamp's trace algorithm (1970). A polynomial f splits into distinct linear factors exactly if it divides
    x^(2^32) - x. For each β, Tr(β·x) takes the values 0 and 1 only, so gcd(f, Tr(β·x)) collects the roots of one value;
    two different roots differ in Tr(β·x) for some β of any basis, so the loop separates all of them. The basis is
    1, γ, … γ^31 with γ far from α: Tr(α^k) is mostly 0 for small k, which would separate roots slowly.
    """
    frobenius = _frobenius(polynomial)
    if not np.array_equal(frobenius[32], frobenius[0]):
        return None
    factors = [polynomial]
    for j in range(32):
        if len(factors) == len(polynomial) - 1:
            break
        trace = _trace(frobenius, power(ALPHA, j * GAMMA_EXPONENT))
        parts: list[Elements] = []
        for factor in factors:
            part = _common_divisor(factor, trace)
            if 1 < len(part) < len(factor):
                parts += [part, _divide(factor, part)[0]]
            else:
                parts.append(factor)
        factors = parts
    return [int(factor[0]) for factor in factors]  # the factor is x + root
