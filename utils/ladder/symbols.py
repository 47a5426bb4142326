"""Binary decisions that make up a symbol; shared by the context model, which predicts them, and the file.

ZERO        is the symbol 0?
SIGN        is it negative?
UNARY + k   is the exponent of its magnitude, floor(log2 |q|), larger than k? From k = EXPONENTS on, the last one
FIRST_BIT   first bit of the mantissa after exponent 1; FIRST_BIT + 1 after larger exponents
UNIFORM     the other bits of the mantissa; not predicted
"""

ZERO, SIGN, UNARY = 0, 1, 2
EXPONENTS = 10
FIRST_BIT = UNARY + EXPONENTS
DECISIONS = FIRST_BIT + 2
UNIFORM = -1
MAX_EXPONENT = 24  # of a symbol that can be coded

PRECISION = 16  # bits of a probability
PER_UNIT = 16  # quantized logits a unit
LAST = 192  # quantized logits lie in [-LAST, LAST]
