"""Who the device is: its two keys, its certificate, and how it gets and renews it."""
