"""Matrix exponentials and softmax by parts: functions that a network computes by an algorithm of several operators."""

from __future__ import annotations

from typing import Any

from specs.blocks.layers import concat, mul, reduce, slice_, transpose
from specs.net import block, relation

MATRIX_EXP = "Analytical Solution of a Three-layer Network with a Matrix Exponential Activation Function"


def expm(net: Any, m: Any, terms: int, squarings: int) -> Any:
    """The Taylor sum in Horner's form at m / 2^s, squared s times."""
    d = m.shape[0]
    eye = net.const([[float(i == j) for j in range(d)] for i in range(d)])
    a = mul(net, m, net.const(2.0**-squarings)) if squarings else m
    e = eye
    for k in range(terms, 0, -1):
        e = net("Add", net("Div", net("MatMul", a, e), net.const(float(k))), eye)
    for _ in range(squarings):
        e = net("MatMul", e, e)
    return e


def bounded(net: Any, m: Any) -> Any:
    """A matrix of 1-norm below 2."""
    return net("Div", m, net("Add", mul(net, reduce(net, "ReduceL1", m, [0, 1]), net.const(0.5)), net.const(1.0)))


def size(net: Any) -> tuple[int, int, int]:
    return net.pick((3, 2, 6, 8)), net.pick((6, 8)), net.pick((0, 2, 4))


@block("matrix-exp-activation", MATRIX_EXP, seeds=["002:431"], takes="none", hazards="growth of repeated squares")
def matrix_exp_activation(net: Any) -> Any:
    """W3 expm(W2 expm(W1 X)), real and with every product bounded; stresses chains of MatMul with one constant."""
    d, terms, s = size(net)
    y = net.input(d, d)
    for _ in range(2):
        y = expm(net, bounded(net, net("MatMul", net.weight(d, d), y)), terms, s)
    return net("MatMul", net.weight(d, d), y)


@block("matrix-exp-activation/expm", MATRIX_EXP, takes="none")
def matrix_exponential(net: Any) -> Any:
    """Scaling and squaring alone, with its determinant and the trace of its argument."""
    d, terms, s = size(net)
    m = bounded(net, net.input(d, d))
    e = expm(net, m, terms, s)
    eye = net.const([[float(i == j) for j in range(d)] for i in range(d)])
    return e, net("Det", e), net("Exp", reduce(net, "ReduceSum", mul(net, m, eye), [0, 1]))


def nilpotent(net: Any) -> Any:
    """A strictly upper triangular matrix small enough for the Taylor sum to be its exponential exactly."""
    d = net.pick((3, 2, 5, 6))
    return mul(net, bounded(net, net.input(d, d)), net.const([[float(i < j) for j in range(d)] for i in range(d)]))


@relation("matrix-exp-activation/zero", of="matrix-exp-activation", takes="none")
def expm_zero(net: Any) -> Any:
    """expm(0) = I."""
    d, terms, s = size(net)
    x = net.input(d, d)
    return net("MatMul", expm(net, mul(net, x, net.const(0.0)), terms, s), x), x


@relation("matrix-exp-activation/inverse", of="matrix-exp-activation", takes="none")
def expm_inverse(net: Any) -> Any:
    """expm(A) expm(-A) B = B; for nilpotent A, where the truncated sum is exact."""
    a, s = nilpotent(net), net.pick((0, 2))
    b = net.input(a.shape[0], 4)
    return net("MatMul", expm(net, a, 6, s), net("MatMul", expm(net, net("Neg", a), 6, s), b)), b


@relation("matrix-exp-activation/determinant", of="matrix-exp-activation", takes="none")
def expm_determinant(net: Any) -> Any:
    """det expm(A) = exp(tr A), which is 1 for nilpotent A."""
    a = nilpotent(net)
    trace = reduce(net, "ReduceSum", mul(net, a, net.const([[float(i == j) for j in range(a.shape[0])] for i in range(a.shape[0])])), [0, 1], 0)
    return net("Det", expm(net, a, 6, net.pick((0, 2)))), net("Exp", trace)


@relation("matrix-exp-activation/additive", of="matrix-exp-activation", takes="none")
def expm_additive(net: Any) -> Any:
    """expm(A + B) = expm(A) expm(B) for B = A^2, which commutes with A; for nilpotent A."""
    a, s = nilpotent(net), net.pick((0, 2))
    b = net("MatMul", a, a)
    return expm(net, net("Add", a, b), 6, s), net("MatMul", expm(net, a, 6, s), expm(net, b, 6, s))


@relation("matrix-exp-activation/similarity", of="matrix-exp-activation", takes="none")
def expm_similarity(net: Any) -> Any:
    """expm(P A P') = P expm(A) P' for a permutation P: true of the truncated sum too."""
    d, terms, s = size(net)
    a, perm = bounded(net, net.input(d, d)), net.ints([*range(1, d), 0])

    def permuted(m: Any) -> Any:
        return net("Gather", net("Gather", m, perm, axis=0), perm, axis=1)

    return expm(net, permuted(a), terms, s), permuted(expm(net, a, terms, s))


@relation("matrix-exp-activation/transpose", of="matrix-exp-activation", takes="none")
def expm_transpose(net: Any) -> Any:
    """expm(A') = expm(A)': true of the truncated sum too."""
    d, terms, s = size(net)
    a = bounded(net, net.input(d, d))
    return expm(net, transpose(net, a, [1, 0]), terms, s), transpose(net, expm(net, a, terms, s), [1, 0])


TWO_PASS = "The Two-Pass Softmax Algorithm"
LOG2E, LN2_HI, LN2_LO = (float.fromhex(h) for h in ("0x1.715476p+0", "0x1.62E430p-1", "-0x1.05C610p-29"))
POLYNOMIAL = [float.fromhex(h) for h in ("0x1.0F9F9Cp-7", "0x1.573A1Ap-5", "0x1.555A80p-3", "0x1.FFFDC6p-2", "0x1.FFFFF6p-1", "1.0")]


def rows(net: Any) -> Any:
    """A few rows of a length next to a vector's."""
    return net.input(net.pick((3, 1, 4)), net.pick((8, 7, 15, 16, 17, 33, 2)))


def ext_exp(net: Any, x: Any, exact: bool) -> tuple[Any, Any]:
    """(m, n) with e^x = m 2^n: the polynomial is the published one, or m is Exp itself for an exact relation."""
    n = net("Round", mul(net, x, net.const(LOG2E)))
    t = net("Sub", net("Sub", x, mul(net, n, net.const(LN2_HI))), mul(net, n, net.const(LN2_LO)))
    if exact:
        return net("Exp", t), n
    m = net.const(POLYNOMIAL[0])
    for c in POLYNOMIAL[1:]:
        m = net("Add", mul(net, m, t), net.const(c))
    return m, n


def power(net: Any, n: Any) -> Any:
    """2^n for n <= 0, cut off at -127."""
    return net("Pow", net.const(2.0), net("Max", n, net.const(-127.0)))


def mantissa_sum(net: Any, m: Any, n: Any) -> tuple[Any, Any]:
    """The first pass over a row: (M, N) with sum e^x = M 2^N."""
    top = reduce(net, "ReduceMax", n, [1])
    return reduce(net, "ReduceSum", mul(net, m, power(net, net("Sub", n, top))), [1]), top


def merged(net: Any, one: tuple[Any, Any], two: tuple[Any, Any]) -> tuple[Any, Any]:
    top = net("Max", one[1], two[1])
    scaled = [mul(net, m, power(net, net("Sub", n, top))) for m, n in (one, two)]
    return net("Add", *scaled), top


def two_pass(net: Any, x: Any, exact: bool, border: int = 0) -> Any:
    m, n = ext_exp(net, x, exact)
    if border:
        cut = [(slice_(net, m, a, b, 1), slice_(net, n, a, b, 1)) for a, b in ((0, border), (border, x.shape[1]))]
        total, top = merged(net, mantissa_sum(net, *cut[0]), mantissa_sum(net, *cut[1]))
    else:
        total, top = mantissa_sum(net, m, n)
    return mul(net, mul(net, m, net("Div", net.const(1.0), total)), power(net, net("Sub", n, top)))


@block("two-pass-softmax", TWO_PASS, seeds=["002:135"], takes="none", hazards="products near ties of rounding, powers of two cut off at -127")
def two_pass_softmax(net: Any) -> Any:
    """Softmax from mantissas and exponents, in one block or two merged ones; stresses Round, Pow and polynomials in Horner's form."""
    x = rows(net)
    return two_pass(net, x, exact=False, border=net.pick((0, 1, x.shape[1] // 2)))


@block("two-pass-softmax/ext-exp", TWO_PASS, takes="none")
def extended_exponential(net: Any) -> Any:
    """Mantissa and exponent of e^x."""
    return ext_exp(net, rows(net), exact=False)


@block("two-pass-softmax/three-pass", TWO_PASS, takes="none")
def three_pass(net: Any) -> Any:
    """Maximum, sum and quotient; the exponentials computed again or read back."""
    x = rows(net)
    shifted = net("Sub", x, reduce(net, "ReduceMax", x, [1]))
    e = net("Exp", shifted)
    total = reduce(net, "ReduceSum", e, [1])
    return net("Div", net("Exp", shifted), total) if net.flag() else mul(net, e, net("Div", net.const(1.0), total))


@block("two-pass-softmax/online", TWO_PASS, takes="none")
def online_softmax(net: Any) -> Any:
    """Maximum and sum of two halves, merged by the larger maximum, as flash attention does."""
    return online(net, rows(net))


def online(net: Any, x: Any) -> Any:
    half, tops, sums = x.shape[1] // 2, list[Any](), list[Any]()
    for a, b in ((0, half), (half, x.shape[1])):
        part = slice_(net, x, a, b, 1)
        tops.append(reduce(net, "ReduceMax", part, [1]))
        sums.append(reduce(net, "ReduceSum", net("Exp", net("Sub", part, tops[-1])), [1]))
    top = net("Max", *tops)
    total = net("Add", *[mul(net, s, net("Exp", net("Sub", t, top))) for s, t in zip(sums, tops, strict=True)])
    return net("Div", net("Exp", net("Sub", x, top)), total)


@block("two-pass-softmax/logsumexp", TWO_PASS, takes="none")
def two_pass_logsumexp(net: Any) -> Any:
    """log M + N ln 2, with ln 2 in two parts."""
    return logsumexp(net, rows(net), exact=False)


def logsumexp(net: Any, x: Any, exact: bool) -> Any:
    total, top = mantissa_sum(net, *ext_exp(net, x, exact))
    return net("Add", net("Add", net("Log", total), mul(net, top, net.const(LN2_LO))), mul(net, top, net.const(LN2_HI)))


@relation("two-pass-softmax/is-softmax", of="two-pass-softmax", takes="none")
def two_pass_is_softmax(net: Any) -> Any:
    """Two passes are Softmax; with Exp for the mantissa, as the polynomial is off by 1e-7."""
    x = rows(net)
    return two_pass(net, x, exact=True), net("Softmax", x, axis=1)


@relation("two-pass-softmax/split-merge", of="two-pass-softmax", takes="none")
def two_pass_split_merge(net: Any) -> Any:
    """A row cut anywhere and merged, with the polynomial in both."""
    x = rows(net)
    return two_pass(net, x, exact=False), two_pass(net, x, exact=False, border=net.int(1, x.shape[1] - 1))


@relation("two-pass-softmax/shift", of="two-pass-softmax", takes="none")
def softmax_shift(net: Any) -> Any:
    """softmax(x + c) = softmax(x)."""
    x = rows(net)
    shifted = net("Add", x, net.const(net.pick((1.0, -8.0, 32.0))))
    return net("Softmax", shifted, axis=1), (two_pass(net, x, exact=True) if net.flag() else net("Softmax", x, axis=1))


@relation("two-pass-softmax/permutation", of="two-pass-softmax", takes="none")
def softmax_permutation(net: Any) -> Any:
    """Permuted rows have permuted softmax."""
    x = rows(net)
    perm = net.ints([*range(1, x.shape[1]), 0])
    return two_pass(net, net("Gather", x, perm, axis=1), exact=False), net("Gather", two_pass(net, x, exact=False), perm, axis=1)


@relation("two-pass-softmax/logsumexp", of="two-pass-softmax", takes="none")
def logsumexp_forms(net: Any) -> Any:
    """log M + N ln 2 is ReduceLogSumExp."""
    x = rows(net)
    return logsumexp(net, x, exact=True), reduce(net, "ReduceLogSumExp", x, [1])


@relation("two-pass-softmax/online", of="two-pass-softmax", takes="none")
def online_is_softmax(net: Any) -> Any:
    """The merge of (maximum, sum) pairs is Softmax; rows side by side stay apart."""
    x, y = rows(net), None
    y = net("Softmax", concat(net, x, x, axis=0), axis=1)
    return concat(net, online(net, x), online(net, x), axis=0), y
