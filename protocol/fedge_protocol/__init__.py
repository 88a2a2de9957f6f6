"""What device and coordinator must agree on: bytes, sums, signatures. No I/O."""
