"""Training on the device: a worker process that learns, clips and masks, and the parent's side of it."""
