"""From sums to the next model."""
