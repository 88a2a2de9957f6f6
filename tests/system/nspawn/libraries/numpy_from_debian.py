"""numpy comes from Debian, not from this tree."""

import numpy as np

assert int(np.dot([1, 2], [3, 4])) == 11
assert str(np.__file__).startswith("/usr/lib/python3/dist-packages/")
