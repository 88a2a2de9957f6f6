"""numpy: Debian's, with its linear algebra: a least-squares fit."""

import numpy as np

assert str(np.__file__).startswith("/usr/lib/python3/dist-packages/")
random = np.random.default_rng(2)
matrix, wanted = random.standard_normal((200, 5)), np.arange(5.0)
found, *_ = np.linalg.lstsq(matrix, matrix @ wanted, rcond=None)
assert np.allclose(found, wanted)
